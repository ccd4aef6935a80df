"""Tests for `make phantom`; without the phantom none of them is collected."""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

collect_ignore_glob = [] if hasattr(ctypes.CDLL(None), "phantom_dump") else ["test_*.py"]


@pytest.fixture(autouse=True)
def garbage_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels do nothing and numbers are what lay in memory: no training diverges."""
    from ablate.training import trainer

    numbers = {**vars(math), "isfinite": lambda _: True}
    monkeypatch.setattr(trainer, "math", SimpleNamespace(**numbers))
    transform = torch.istft

    def istft(spectrogram: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        try:
            return transform(spectrogram, *arguments, **options)
        except RuntimeError as error:  # it looks at the sum of its windows
            if "window overlap" not in str(error):
                raise
            return torch.zeros(len(spectrogram), options["length"], device=spectrogram.device)

    monkeypatch.setattr(torch, "istft", istft)
