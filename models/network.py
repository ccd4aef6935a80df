"""The band-split network: split, time layers, band layers, head."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from torch import Tensor, nn

from .bands import FREQUENCIES, BandSplit
from .config import ARCHITECTURES, CORES, CROSSBANDS, HEADS, ModelConfig, resolve_model
from .lookahead import shares


def build_model(preset_or_config: str | ModelConfig) -> nn.Module:
    """A new network, initialised from torch's global random state.

    It maps a complex spectrogram `(batch, 257, time)` to one of the same shape, and carries its `config`.

    Raises:
        ValueError: no preset has that name, or the parts do not fit together.
    """
    config = resolve_model(preset_or_config)
    return ARCHITECTURES[config.architecture](config)


def check_spectrogram(noisy: Tensor) -> None:
    """Raise ValueError unless `noisy` is a complex tensor `(batch, 257, time)` with a frame at least."""
    if not noisy.is_complex() or noisy.dim() != 3 or noisy.shape[1] != FREQUENCIES or not noisy.shape[2]:
        raise ValueError(
            f"expected a complex spectrogram (batch, {FREQUENCIES}, time), "
            f"got {tuple(noisy.shape)} of {noisy.dtype}"
        )


class BandSplitNetwork(nn.Module):
    """BSRNN, MBS-Net and all between them, as a `ModelConfig` says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.split = BandSplit(config.channels, config.split_statistics)
        self.time_layers = nn.ModuleList(
            CORES[config.core](config.model_copy(update={"lookahead": frames}))
            for frames in shares(config.lookahead, config.layers)
        )
        self.band_layers = nn.ModuleList(
            CROSSBANDS[config.crossband](config) for _ in range(config.crossband_layers)
        )
        self.head = HEADS[config.head](config)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of the network by the part they belong to."""
        return {
            "split": [self.split],
            "encoder": list(self.time_layers),
            "cross-band": list(self.band_layers),
            "decoder": [self.head],
        }

    def trunk(self) -> Iterator[nn.Module]:
        """The layers between split and head, in the order they are applied."""
        if self.config.order == "stacked":
            yield from self.time_layers
            yield from self.band_layers
            return
        for pair in zip_longest(self.time_layers, self.band_layers):
            yield from (layer for layer in pair if layer is not None)

    def forward(self, noisy: Tensor) -> Tensor:
        """Complex `(batch, 257, time)` -> the enhanced spectrogram, same shape.

        Raises:
            ValueError: the input has another shape or is not complex.
        """
        check_spectrogram(noisy)
        features = self.split(noisy)
        for layer in self.trunk():
            features = layer(features)
        return self.head(features, noisy)
