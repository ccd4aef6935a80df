"""The original MBS-Net: a magnitude and a phase branch of Mamba layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .declarations import Declared
from .enhancer import Enhancer
from .errors import InputError
from .heads import MagnitudePhaseHead
from .mamba import MambaBlock, both_ways
from .norms import linear


class BranchLayer(nn.Module, Declared):
    """`LayerNorm(Linear([forward(x), backward(x)]))`, or `LayerNorm(forward(x))`; no outer residual."""

    def __init__(self, config: ModelConfig, both: bool, across: bool) -> None:
        super().__init__()
        self.mixes_bands, self.looks_ahead = across, both and not across
        self.reach = 1 if across else math.inf
        self.ahead = MambaBlock(config)
        self.back = MambaBlock(config) if both else None
        self.linear = linear(2 * config.channels, config.channels) if both else None
        self.norm = nn.LayerNorm(config.channels)
        self.hidden_width = config.expand * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, row, step, channel)`, same shape; the third axis is the one scanned."""
        if self.back is not None and self.linear is not None:
            return self.norm(self.linear(both_ways(self.ahead, self.back, x)))
        return self.norm(self.ahead(x))


class Branch(nn.Module):
    """Mamba layers over time in each band, a Mamba layer over bands, and a bounded MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.channels
        both = config.direction == "bi"
        self.time_layers = nn.ModuleList(BranchLayer(config, both, False) for _ in range(config.layers))
        self.band_layers = nn.ModuleList(
            BranchLayer(config, True, True) for _ in range(config.crossband_layers)
        )
        self.norm = nn.LayerNorm(n)
        self.mlp = nn.Sequential(linear(n, 2 * n), nn.Tanh(), linear(2 * n, n))

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape, before the bounding activation."""
        for layer in self.time_layers:
            x = layer(x)
        across = x.transpose(1, 2)
        for layer in self.band_layers:
            across = layer(across)
        return self.mlp(self.norm(x + across.transpose(1, 2)))


class DualBranchNetwork(Enhancer):
    """Magnitude and phase of the speech from separate branches (the original MBS-Net).

    Raises:
        InputError: the configuration has parts that this architecture does not support.
    """

    head: MagnitudePhaseHead

    def __init__(self, config: ModelConfig) -> None:
        fixed = {
            "core": "mamba",
            "crossband": "bimamba",
            "head": "magnitude-phase",
            "norm": "layer",
            "order": "stacked",
            "lookahead": 0,
            "chunk": 0,
        }
        wrong = [
            f"{name}={value!r} (has {has!r})"
            for name, has in fixed.items()
            if (value := getattr(config, name)) != has and config.is_active(name)
        ]
        if wrong:
            raise InputError(f"the dual-branch architecture cannot take {', '.join(wrong)}")
        super().__init__(config)
        self.magnitude = Branch(config)
        self.phase = Branch(config)
        self.head = MagnitudePhaseHead(config)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The network's modules, by part."""
        branches = (self.magnitude, self.phase)
        return {
            "split": [self.split],
            "encoder": [m for b in branches for m in (*b.time_layers, b.norm, b.mlp)],
            "cross-band": [layer for b in branches for layer in b.band_layers],
            "decoder": self.decoders(),
        }

    def enhance(self, features: Tensor, noisy: Tensor) -> Tensor:
        magnitude = self.head.magnitude(torch.sigmoid(self.magnitude(features)))
        phase = self.head.phase(math.pi * torch.tanh(self.phase(features)))
        return self.head.apply_to(magnitude, phase, noisy)
