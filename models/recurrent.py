"""Time layers with a recurrent core: LSTM (BSRNN) and GRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .lookahead import ResidualBlock
from .norms import linear


def recurrent(kind: type[nn.LSTM] | type[nn.GRU], channels: int, bidirectional: bool) -> nn.LSTM | nn.GRU:
    """A recurrent layer N -> 2N, time first; input weights are Xavier uniform, recurrent ones orthogonal."""
    layer = kind(channels, 2 * channels, bidirectional=bidirectional)
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layer


ROW_BLOCK = 32
"""Rows per block of oneDNN's bfloat16 LSTM; a partly filled block takes up to twice the time."""


def recurrent_linear(layer: nn.LSTM | nn.GRU, project: nn.Linear, rows: Tensor) -> Tensor:
    """Apply a recurrent layer and the linear layer after it: `(time, group, row, channel)`, same shape.

    Under bfloat16 autocast on the CPU, each group is padded with rows of zeros to a multiple of `ROW_BLOCK`.
    """
    time, groups, count, channels = rows.shape
    if rows.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        rows = F.pad(rows.to(torch.get_autocast_dtype("cpu")), (0, 0, 0, -count % ROW_BLOCK))
    outputs = project(layer(rows.reshape(time, -1, channels))[0])
    return outputs.view(time, groups, -1, outputs.shape[-1])[:, :, :count]


class RecurrentLayer(ResidualBlock):
    """`x + Linear(RNN(norm(x)))` along the time of each band."""

    kind: type[nn.LSTM] | type[nn.GRU]
    reach = math.inf

    def __init__(self, config: ModelConfig) -> None:
        both = config.direction == "bi"
        super().__init__(config, config.norm, 0 if both else config.lookahead)
        self.rnn = recurrent(self.kind, config.channels, both)
        self.linear = linear(config.channels * (4 if both else 2), config.channels)
        self.looks_ahead = both or config.lookahead
        self.hidden_width = 2 * config.channels

    def along_time(self, x: Tensor) -> Tensor:
        return recurrent_linear(self.rnn, self.linear, x.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


class LSTMLayer(RecurrentLayer):
    """The time layer of BSRNN."""

    kind = nn.LSTM


class GRULayer(RecurrentLayer):
    """The time layer of BSRNN with a GRU in place of the LSTM."""

    kind = nn.GRU
