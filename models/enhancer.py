"""The base of every band-split network: level and compression before its layers, projection after them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bands import BandSplit
from .config import ModelConfig
from .declarations import Declared
from .layouts import BINS
from .spectral import OURS
from .transform import Transform


def check_spectrogram(noisy: Tensor, bins: int = BINS) -> None:
    """Raise ValueError unless `noisy` is a complex tensor `(batch, bin, time)` with at least one frame."""
    if not noisy.is_complex() or noisy.dim() != 3 or noisy.shape[1] != bins or not noisy.shape[2]:
        raise ValueError(
            f"expected a complex spectrogram (batch, {bins}, time), got {tuple(noisy.shape)} of {noisy.dtype}"
        )


def power(magnitude: Tensor, exponent: float) -> Tensor:
    """Magnitudes to a power, clamped above zero so that the gradient is finite."""
    return magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny) ** exponent


def compress(spectrum: Tensor, exponent: float) -> Tensor:
    """`|S| ** exponent` with the phase of `S`: complex, same shape; zero stays zero."""
    return spectrum * power(spectrum.abs(), exponent - 1)


def level(spectrum: Tensor) -> Tensor:
    """Root mean square of each item of `(batch, 257, time)`, as `(batch, 1, 1)`; 1 for silence."""
    found = spectrum.abs().square().mean(dim=(1, 2), keepdim=True).sqrt()
    return torch.where(found > 0, found, 1.0)


class ConsistencyProjection(nn.Module, Declared):
    """Projects a spectrogram to the nearest consistent one, by an inverse transform and a transform.

    Least squares over the window (Griffin and Lim 1984); as a layer: Wisdom et al. 2019, arXiv:1811.08521.
    With 512 points and hop 128, four frames overlap, so a frame depends on three before and three after it.
    An input with no more frames than the look-ahead is returned unchanged.

    Args:
        transform: the transform of the spectrograms; default: this project's.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__()
        self.transform = transform or OURS
        self.looks_ahead = -(-self.transform.n_fft // self.transform.hop) - 1
        self.reach = 2 * self.looks_ahead + 1

    def forward(self, spectrum: Tensor) -> Tensor:
        """Complex `(batch, bin, time)` -> same shape."""
        if spectrum.shape[-1] <= self.looks_ahead:
            return spectrum
        return self.transform.analyse(self.transform.synthesise(spectrum))


class Enhancer(nn.Module):
    """A network that filters the noisy spectrum, controlled by features of its bands.

    A subclass defines `enhance(features, noisy)` and `head`, and builds its own layers after the split.
    """

    head: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        transform = Transform(config.n_fft, config.hop, config.window)
        self.transform = None if transform == OURS else transform
        self.statistics = "utterance" if config.input_level == "unit" else None
        self.split = BandSplit(config.channels, config.split_statistics, config.band_widths)
        self.projection = ConsistencyProjection(self.transform) if config.projection == "consistent" else None

    def enhance(self, features: Tensor, noisy: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, complex `(batch, 257, time)` -> complex `(batch, 257, time)`."""
        raise NotImplementedError

    def decoders(self) -> list[nn.Module]:
        """The modules between the features and the enhanced spectrum."""
        return [self.head, *([] if self.projection is None else [self.projection])]

    def forward(self, noisy: Tensor) -> Tensor:
        """Complex `(batch, 257, time)` -> the enhanced spectrogram, same shape.

        Raises:
            ValueError: the input has another shape or is not complex.
        """
        check_spectrogram(noisy, self.config.bins)
        scale = level(noisy) if self.config.input_level == "unit" else None
        noisy = noisy if scale is None else noisy / scale
        exponent = self.config.input_compression
        features = self.split(noisy if exponent == 1 else compress(noisy, exponent))
        enhanced = self.enhance(features, noisy)
        enhanced = enhanced if self.projection is None else self.projection(enhanced)
        return enhanced if scale is None else enhanced * scale
