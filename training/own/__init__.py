"""A training of the user's own: a command that trains one cell at one seed, run around as ours are."""
