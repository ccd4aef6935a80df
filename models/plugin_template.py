"""The file that `ablate init-plugin` writes: a plug-in with a small network that runs unchanged."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from .config import PRESETS
from .errors import InputError
from .parts import ARCHITECTURES

_TEXT = '''"""NAME: a network of my own.

ablate audit --plugin FILE
ablate run --plugin FILE --base NAME --baseline none --grid options.kernel=3,5
"""

import torch
from torch import Tensor, nn

from ablate.models import ARCHITECTURES, PRESETS, ModelConfig

# Yours may lie in a file beside this one: from my_package.net import Net


class CLASS(nn.Module):
    # What forward takes and gives. Without these lines: a complex spectrum (batch, 257, frame).
    #   domain = "waveform", "spectrum", "magnitude" or "magnitude-phase" (two arguments, two outputs)
    #   axes = how the tensors lie, e.g. "bft2", "b2tf", "b1t": batch, frequency, time, 2 for real and
    #          imaginary parts, 1 for an axis of one
    #   transform = Transform(400, 100, "hamming"), of ablate.models: points, hop, window of your own
    #   compress = 0.3, the exponent of the magnitudes that it takes and gives
    domain = "spectrum"
    axes = "b2tf"

    # Where forward gives a dictionary or a tuple: which of it is the enhanced signal.
    output = "enhanced"

    # What the audit holds it to: False, True, or how many later frames (of waveforms: samples) it sees.
    looks_ahead = False

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.first = nn.Conv2d(2, channels, (kernel, 3), padding=(0, 1))
        self.last = nn.Conv2d(channels, 2, 1)
        self.speech = nn.Linear(channels, 1)

    def forward(self, noisy: Tensor) -> dict[str, Tensor]:
        past = nn.functional.pad(noisy, (0, 0, self.kernel - 1, 0))
        features = torch.relu(self.first(past))
        speech = self.speech(features.mean(3).transpose(1, 2)).squeeze(2)
        mask = torch.tanh(self.last(features))
        return {"enhanced": noisy * mask, "speech": speech}

    # Paths below which outputs only a loss of their own trains.
    own_loss = ("speech",)

    # A loss of its own, of all that forward gives; clean comes as forward would take it. It counts where
    # the recipe weights it: --set recipe.losses.network=0.1 (beside the recipe's losses, or in their place).
    def loss(self, outputs: dict[str, Tensor], clean: Tensor) -> Tensor:
        level = clean.square().mean((1, 3))
        active = (level > level.mean(1, keepdim=True)).float()
        return nn.functional.binary_cross_entropy_with_logits(outputs["speech"], active)


# `options` are settings of your own; each may be a factor: --grid options.kernel=3,5
ARCHITECTURES.register("NAME", lambda c: CLASS(c.channels, c.options["kernel"]))
PRESETS["NAME"] = ModelConfig(architecture="NAME", channels=16, options={"kernel": 3})
'''


def write_start(name: str, folder: Path = Path()) -> Path:
    """Write a plug-in to start from, `<name>.py` with underscores for hyphens.

    Raises:
        InputError: the name is not valid or taken, or the file exists.
    """
    stem = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or keyword.iskeyword(stem):
        raise InputError(f"name {name!r} is not valid; use a small letter, then letters, digits, - and _")
    if name in PRESETS or name in ARCHITECTURES:
        raise InputError(f"a network named {name!r} already exists; choose another name")
    path = folder / f"{stem}.py"
    kind = "".join(word.capitalize() for word in stem.split("_"))
    try:
        with path.open("x") as file:
            file.write(_TEXT.replace("NAME", name).replace("CLASS", kind).replace("FILE", path.name))
    except FileExistsError:
        raise InputError(f"{path} already exists; choose another name, or move the file") from None
    return path
