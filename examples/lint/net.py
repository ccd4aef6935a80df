"""A small network: magnitudes `(batch, time, band)` to a mask in (0, 1)."""

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x))


class Net(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.read = nn.Linear(257, width)
        self.gate = Gate(width)
        self.write = nn.Linear(width, 257)

    def forward(self, magnitude: Tensor) -> Tensor:
        return torch.sigmoid(self.write(self.gate(self.read(magnitude))))
