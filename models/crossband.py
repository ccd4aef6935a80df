"""Layers across the bands of each frame."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .declarations import Declared
from .mamba import BiMamba
from .norms import GlobalNorm, linear
from .recurrent import recurrent, recurrent_linear


class NoCrossBand(nn.Module, Declared):
    """The identity: no cross-band module."""

    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return x


class Pointwise(nn.Module, Declared):
    """`LayerNorm(x + GELU(LayerNorm(Linear(x))))` at each (time, band) separately.

    This is the "cross-band MLP" of MBS-Net, which does not mix bands.
    """

    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear = linear(config.channels, config.channels)
        self.inner_norm = nn.LayerNorm(config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.hidden_width = config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return self.norm(x + F.gelu(self.inner_norm(self.linear(x))))


class BandBiLSTM(nn.Module, Declared):
    """The band layer of BSRNN: `x + Linear(BiLSTM(GroupNorm(x)))` along the bands of each frame."""

    mixes_bands = True
    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = GlobalNorm(config.channels, config.trunk_statistics)
        self.rnn = recurrent(nn.LSTM, config.channels, bidirectional=True)
        self.linear = linear(4 * config.channels, config.channels)
        self.hidden_width = 2 * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return x + recurrent_linear(self.rnn, self.linear, self.norm(x).transpose(0, 1)).transpose(0, 1)


class BandBiMamba(nn.Module, Declared):
    """The bidirectional Mamba layer along the bands of each frame."""

    mixes_bands = True
    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mamba = BiMamba(config, norm="layer")
        self.hidden_width = config.expand * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return self.mamba(x.transpose(1, 2)).transpose(1, 2)
