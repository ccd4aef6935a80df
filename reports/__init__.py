"""Estimates, tables, figures and the command line. Needs no torch."""
