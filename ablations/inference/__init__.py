"""From scores to estimates, intervals and verdicts; and the power of a design. Needs no torch."""
