"""From scores to estimates, intervals and verdicts; and the power of a design. Does not need torch."""
