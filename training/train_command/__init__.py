"""A training command: a command that trains one cell at one seed, run around as ours are."""
