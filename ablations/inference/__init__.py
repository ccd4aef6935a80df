"""From scores to estimates: contrasts, variances, verdicts, what a design could resolve. Needs no torch."""
