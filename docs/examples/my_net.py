"""An example of a plug-in: a time layer, a module across bands, a factor, and a whole network.

ablate audit --plugin docs/examples/my_net.py
ablate run --plugin docs/examples/my_net.py --grid core=mamba,gated-conv,crossband=pointwise,band-shuffle
ablate audit tiny-gru --plugin docs/examples/my_net.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.ablations.factors import Factor, register
from ablate.models import ARCHITECTURES, CORES, CROSSBANDS, PRESETS, ModelConfig
from ablate.models.declarations import Declared


class GatedConv(nn.Module, Declared):
    """A time layer: a gated depthwise convolution, over the past alone or over both sides."""

    taps = 9

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.channels
        self.looks_ahead = config.direction == "bi"
        self.norm = nn.LayerNorm(n)
        self.conv = nn.Conv1d(n, n, self.taps, groups=n)
        self.mix = nn.Linear(n, 2 * n)
        self.scale = nn.Parameter(torch.full((n,), 0.5))

    def init_ranges(self) -> dict[str, tuple[float, float]]:
        """The scale of the branch starts at a half; the audit notices if something resets it."""
        return {"scale": (0.5, 0.5)}

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape; the residual is inside."""
        batch, band, time, channel = x.shape
        rows = self.norm(x).reshape(batch * band, time, channel).transpose(1, 2)
        behind = self.taps // 2 if self.looks_ahead else self.taps - 1
        rows = self.conv(F.pad(rows, (behind, self.taps - 1 - behind))).transpose(1, 2)
        return x + self.scale * F.glu(self.mix(rows), dim=-1).view(x.shape)


class BandShuffle(nn.Module, Declared):
    """A cross-band module: a learned square matrix over the bands of each frame."""

    mixes_bands = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        bands = len(config.band_widths)
        self.bands = nn.Linear(bands, bands)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape; the residual is inside."""
        return x + self.bands(self.norm(x).transpose(1, -1)).transpose(1, -1)


class TinyGRU(nn.Module):
    """A whole network: a GRU over frames of log magnitudes gives a mask for each bin."""

    looks_ahead = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.GRU(257, config.channels, config.layers, batch_first=True)
        self.decoder = nn.Linear(config.channels, 257)

    def forward(self, noisy: Tensor) -> Tensor:
        """Complex `(batch, 257, time)`, same shape."""
        features = torch.log1p(noisy.abs()).transpose(1, 2)
        mask = torch.sigmoid(self.decoder(self.encoder(features)[0]))
        return noisy * mask.transpose(1, 2)


CORES.register("gated-conv", GatedConv)
CROSSBANDS.register("band-shuffle", BandShuffle)
ARCHITECTURES.register("tiny-gru", TinyGRU)
PRESETS["tiny-gru"] = ModelConfig(architecture="tiny-gru", channels=64, layers=2)

register(
    Factor(
        name="band-shuffle",
        levels={"off": {"model.crossband": "pointwise"}, "on": {"model.crossband": "band-shuffle"}},
        declares={"off": {"mixes_bands": False}, "on": {"mixes_bands": True}},
    )
)
