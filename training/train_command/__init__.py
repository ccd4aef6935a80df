"""A training command trains one cell with one seed; it is run as the built-in trainer is."""
