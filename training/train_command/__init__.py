"""A training command trains one cell with one seed, in place of the built-in trainer."""
