"""The bounds in MBS-Net's scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clamps(NamedTuple):
    """Bounds on the terms of the scan, applied in this order. Clipped values have no gradient.

    `dt*A` within `exponent`; `exp(dt*A)` at most `decay`; `dt` within `step` where it multiplies B; `dt*B`
    within +-`gain`; the state within +-`state`; the output with its skip, before the gate, within +-`output`.
    """

    exponent: tuple[float, float] = (-10.0, 0.0)
    decay: float = 0.999
    step: tuple[float, float] = (0.0, 1.0)
    gain: float = 10.0
    state: float = 100.0
    output: float = 50.0

    def bounds(self, unit: float | np.float32) -> tuple[float | np.floating, ...]:
        """All bounds in order, with those of the exponent multiplied by `unit`."""
        low, high = self.exponent
        return (low * unit, high * unit, self.decay, *self.step, self.gain, self.state, self.output)
