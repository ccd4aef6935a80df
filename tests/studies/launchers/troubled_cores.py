"""A plug-in of time layers that end a training: one diverges, one needs smaller micro-batches, one fails."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.models import CORES, ModelConfig


class Core(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape; the residual is inside."""
        return x + self.mix(self.trouble(x) if self.training else x)

    def trouble(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Diverging(Core):
    def trouble(self, x: Tensor) -> Tensor:
        return x * float("nan")


class Hungry(Core):
    def trouble(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError(f"out of memory with {len(x)} clips")
        return x


class Failing(Core):
    def trouble(self, x: Tensor) -> Tensor:
        raise RuntimeError("a fault of the network")


for core in (Diverging, Hungry, Failing):
    CORES.register(core.__name__.lower(), core)
