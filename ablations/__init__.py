"""Factors, grids, signatures, contrasts, and the audit of whether a comparison is fair."""
