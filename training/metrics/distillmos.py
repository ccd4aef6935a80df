"""DistillMOS (Stahl and Gamper 2025, arXiv:2502.05356): an opinion score predicted from the signal alone.

Torch runs the weights in the wheel `distillmos`: `pip install 'ablate-speech[distillmos]'`.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def _network() -> Any:
    """The network. If torchaudio, with which the package reads files, does not load, an empty module replaces
    it."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        from distillmos import ConvTransformerSQAModel
    finally:
        if not hasattr(sys.modules["torchaudio"], "__version__"):
            del sys.modules["torchaudio"]
    with redirect_stdout(sys.stderr):
        return ConvTransformerSQAModel().eval()


def distillmos(signal: NDArray[np.float64]) -> float:
    """Opinion score (1 to 5) of a signal (sample,) at 16 kHz, independent of its level.

    It is the mean over windows of at most 7.68 s that start a second apart.
    """
    import torch

    with torch.inference_mode():
        return float(_network()(torch.from_numpy(signal.astype(np.float32))[None]))
