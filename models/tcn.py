"""A time layer of dilated depthwise convolutions (Conv-TasNet, Luo and Mesgarani 2019, arXiv:1809.07454)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .declarations import Declared
from .norms import linear, make_norm


class DepthwiseConvolution(nn.Module):
    """Dilated convolution over time, separately for each channel; frames beyond the edges are zero.

    Args:
        channels: number of channels.
        taps: length of the filter.
        dilation: frames between taps.
        ahead: frames that the last tap is ahead of the output; 0 is causal.
    """

    def __init__(self, channels: int, taps: int, dilation: int = 1, ahead: int = 0) -> None:
        super().__init__()
        self.padding = ((taps - 1) * dilation - ahead, ahead)
        self.conv = nn.Conv1d(channels, channels, taps, dilation=dilation, groups=channels)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(row, time, channel)`, same shape."""
        return self.conv(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)


class _Block(nn.Module):
    """`x + Linear(PReLU(conv(PReLU(Linear(norm(x))))))` with inner width 2N."""

    def __init__(self, config: ModelConfig, dilation: int, ahead: int) -> None:
        super().__init__()
        n, inner = config.channels, 2 * config.channels
        self.norm = make_norm(config.norm, n, config.trunk_statistics)
        self.wide = linear(n, inner)
        self.first = nn.PReLU()
        self.conv = DepthwiseConvolution(inner, config.kernel, dilation, ahead)
        self.second = nn.PReLU()
        self.narrow = linear(inner, n)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.wide(self.norm(x))).flatten(0, 1)
        return x + self.narrow(self.second(self.conv(y))).view(x.shape)


class TCNLayer(nn.Module, Declared):
    """Blocks with dilation 1, 2, 4, ... along the time of each band.

    With the direction `bi`, every filter is centred. With `lookahead`, only the last block looks ahead.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dilations = [2**i for i in range(config.dilations)]
        spans = [(config.kernel - 1) * dilation for dilation in dilations]
        ahead = [span // 2 for span in spans] if config.direction == "bi" else [0] * len(spans)
        if config.direction == "uni":
            ahead[-1] = config.lookahead
        self.blocks = nn.Sequential(*(_Block(config, *block) for block in zip(dilations, ahead, strict=True)))
        behind = max(sum(spans) - sum(ahead), sum(spans[:-1]) - sum(ahead[:-1]))
        self.reach = 1 + behind + sum(ahead)
        self.looks_ahead = sum(ahead)
        self.hidden_width = 2 * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return self.blocks(x)
