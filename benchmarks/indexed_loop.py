"""The plain scan indexing time at every step, as mamba-ssm's own reference does, for comparison."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from torch import Tensor

from ablate.models.scan import reference


def indexed(x: Tensor) -> list[Tensor]:
    """See `models.scan.reference.over_time`."""
    return [x[:, :, t] for t in range(x.shape[2])]


def scan(*arguments: Any) -> Tensor:
    """See `models.scan.selective_scan`."""
    with patch.object(reference, "over_time", indexed):
        return reference.scan(*arguments)
