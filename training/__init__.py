"""Data, training, evaluation and the directory that holds the truth about one training."""
