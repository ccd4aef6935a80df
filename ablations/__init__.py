"""Factors, grids, signatures, contrasts and the audit: what is compared, and whether it may be."""
