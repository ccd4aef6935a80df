"""Time layers with a recurrent core: LSTM (BSRNN) and GRU."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .config import ModelConfig
from .declarations import Declared
from .norms import linear, make_norm


def recurrent(kind: type[nn.LSTM] | type[nn.GRU], channels: int, bidirectional: bool) -> nn.LSTM | nn.GRU:
    """A recurrent layer N -> 2N, time axis first; input weights Xavier uniform, recurrent ones orthogonal."""
    layer = kind(channels, 2 * channels, bidirectional=bidirectional)
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layer


class RecurrentLayer(nn.Module, Declared):
    """`x + Linear(RNN(norm(x)))` along the time of each band."""

    kind: type[nn.LSTM] | type[nn.GRU]
    reach = math.inf

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        both = config.direction == "bi"
        self.norm = make_norm(config.norm, config.channels)
        self.rnn = recurrent(self.kind, config.channels, both)
        self.linear = linear(config.channels * (4 if both else 2), config.channels)
        self.looks_ahead = both
        self.hidden_width = 2 * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        batch, band, time, _ = x.shape
        rows = self.norm(x).permute(2, 0, 1, 3).reshape(time, batch * band, -1)
        rows = self.linear(self.rnn(rows)[0])
        return x + rows.view(time, batch, band, -1).permute(1, 2, 0, 3)


class LSTMLayer(RecurrentLayer):
    """The time layer of BSRNN."""

    kind = nn.LSTM


class GRULayer(RecurrentLayer):
    """The time layer of BSRNN with a gated recurrent unit."""

    kind = nn.GRU
