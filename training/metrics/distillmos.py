"""DistillMOS (Stahl and Gamper 2025, arXiv:2502.05356): an opinion score predicted from the signal alone.

The weights are in the wheel `distillmos`, which torch runs: `pip install 'ablate-speech[distillmos]'`.
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
    """The network. Where torchaudio, with which the package reads files, does not load, it is empty."""
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
    """Opinion score (1 to 5) of a signal (sample,) at 16 kHz, whatever its level.

    Windows of 7.68 s at most a second apart are judged, and averaged.
    """
    import torch

    with torch.inference_mode():
        return float(_network()(torch.from_numpy(signal.astype(np.float32))[None]))
