"""The bounds that MBS-Net's trained code puts on its scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clamps(NamedTuple):
    """Bounds on the parts of the scan, applied in this order; a gradient passes where nothing was cut.

    `dt*A` to `exponent`; `exp(dt*A)` to at most `decay`; `dt` to `step` where it multiplies B; `dt*B` to
    +-`gain`; the state to +-`state`; the output with its skip, before the gate, to +-`output`.
    """

    exponent: tuple[float, float] = (-10.0, 0.0)
    decay: float = 0.999
    step: tuple[float, float] = (0.0, 1.0)
    gain: float = 10.0
    state: float = 100.0
    output: float = 50.0

    def bounds(self, unit: float | np.float32) -> tuple[float | np.floating, ...]:
        """All of them in order as numbers, those of the exponent in another unit."""
        low, high = self.exponent
        return (low * unit, high * unit, self.decay, *self.step, self.gain, self.state, self.output)
