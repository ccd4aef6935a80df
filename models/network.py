"""The band-split network: split, time layers, band layers, head."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import zip_longest

from torch import Tensor, nn

from .config import ModelConfig, resolve_model
from .enhancer import Enhancer
from .hybrid import time_layer
from .lookahead import shares
from .parts import ARCHITECTURES, CROSSBANDS, HEADS


def build_model(preset_or_config: str | ModelConfig) -> nn.Module:
    """Build a network, initialised from torch's global random state; its prints go to stderr.

    It maps a complex spectrogram `(batch, 257, time)` to one of the same shape, and has the attribute
    `config`.

    Raises:
        ValueError: the preset is unknown, or the parts do not fit together.
    """
    config = resolve_model(preset_or_config)
    with redirect_stdout(sys.stderr):
        return ARCHITECTURES[config.architecture](config)


class BandSplitNetwork(Enhancer):
    """BSRNN, MBS-Net, or a network in between, as configured by a `ModelConfig`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.time_layers = nn.ModuleList(
            time_layer(config.model_copy(update={"lookahead": frames}))
            for frames in shares(config.lookahead, config.layers)
        )
        self.band_layers = nn.ModuleList(
            CROSSBANDS[config.crossband](config) for _ in range(config.crossband_layers)
        )
        self.head = HEADS[config.head](config)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The network's modules, by part."""
        return {
            "split": [self.split],
            "encoder": list(self.time_layers),
            "cross-band": list(self.band_layers),
            "decoder": self.decoders(),
        }

    def trunk(self) -> Iterator[nn.Module]:
        """The layers between split and head, in the order in which they are applied."""
        if self.config.order == "stacked":
            yield from self.time_layers
            yield from self.band_layers
            return
        for pair in zip_longest(self.time_layers, self.band_layers):
            yield from (layer for layer in pair if layer is not None)

    def enhance(self, features: Tensor, noisy: Tensor) -> Tensor:
        for layer in self.trunk():
            features = layer(features)
        return self.head(features, noisy)
