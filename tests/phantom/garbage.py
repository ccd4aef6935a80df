"""A plug-in for whole studies on the phantom: kernels do nothing, so garbage counts as finite.

Each process that loads it adds a line to the file that `PHANTOM_LOG` names: its id and the card it was given.
"""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import torch

from ablate.training import trainer

numbers = {**vars(math), "isfinite": lambda _: True}
trainer.math = SimpleNamespace(**numbers)  # type: ignore[assignment]
transform = torch.istft


def istft(spectrogram: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    """Zeros where the sum of the windows is not there to be looked at."""
    try:
        return transform(spectrogram, *arguments, **options)
    except RuntimeError as error:
        if "window overlap" not in str(error):
            raise
        return torch.zeros(len(spectrogram), options["length"], device=spectrogram.device)


torch.istft = istft
if "PHANTOM_LOG" in os.environ:
    with open(os.environ["PHANTOM_LOG"], "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
