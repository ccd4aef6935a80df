from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.models import ModelConfig, build_model
from ablate.models.bands import BandSplit
from ablate.models.config import BANDS, band_widths
from ablate.models.errors import InputError
from ablate.models.layouts import BSRNN
from ablate.models.summary import parameters


@given(st.sampled_from(["uniform", "mel", "bark"]), st.integers(1, 257))
def test_every_count_covers_every_bin(name: str, count: int) -> None:
    widths = band_widths(f"{name}:{count}")
    assert len(widths) == count
    assert sum(widths) == 257
    assert min(widths) >= 1


def test_layouts_by_hand() -> None:
    assert band_widths("bsrnn") == BSRNN
    assert band_widths("one") == band_widths("mel:1") == (257,)
    assert band_widths("uniform:4") == (64, 64, 64, 65)
    hz = [700 * (10 ** (k / 2 / 2595 * 2840.023) - 1) for k in range(3)]
    assert band_widths("mel:2") == (round(hz[1] / 8000 * 257), 257 - round(hz[1] / 8000 * 257))
    assert hz[2] == pytest.approx(8000, abs=1)
    middle = 0.5 * 26.81 * 8000 / 9960
    edge = round(1960 * middle / (26.81 - middle) / 8000 * 257)
    assert band_widths("bark:2") == (edge, 257 - edge)


def test_bands_of_mel_and_bark_grow() -> None:
    for name in ("mel:16", "bark:16"):
        widths = band_widths(name)
        assert all(b >= a - 1 for a, b in pairwise(widths)), widths
        assert widths[-1] > 5 * widths[0]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("mell:16", "unknown band layout 'mell'; did you mean 'mel'"),
        ("mel", "bands mel needs a number of bands, e.g. mel:16"),
        ("mel:x", "a number after the colon"),
        ("uniform:258", "use 1 to 257 bands"),
        ("uniform:0", "use 1 to 257 bands"),
        ("bsrnn:16", "bsrnn always has 31 bands"),
        ((100, 100), "the spectrogram has 257"),
        ((257, 0), "cover 257 bins .at least 1 each"),
    ],
)
def test_what_is_no_layout(layout, message) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(bands=layout)


def test_a_plugin_brings_a_layout() -> None:
    BANDS.register("halves-for-test", lambda count: (128, 129))
    BANDS.register("short-for-test", lambda count: (128, 128))
    assert ModelConfig(bands="halves-for-test").band_widths == (128, 129)
    with pytest.raises(InputError, match=r"'short-for-test' cover 256 bins .* has 257"):
        band_widths("short-for-test")


def test_expansions_are_one_for_each_band() -> None:
    ModelConfig(bands="uniform:2", decoder_expansion=(1, 2))
    with pytest.raises(ValueError, match="2 expansions for 31 bands"):
        ModelConfig(decoder_expansion=(1, 2))
    with pytest.raises(ValueError, match="31 expansions for 2 bands"):
        ModelConfig(bands="uniform:2", decoder_expansion=(1.0,) * 31)


def test_split_of_a_layout_keeps_bands_apart() -> None:
    widths = band_widths("mel:8")
    split = BandSplit(8, widths=widths)
    noisy = torch.randn(1, 257, 4, dtype=torch.complex64)
    for band in range(8):
        other = noisy.clone()
        other[:, sum(widths[:band])] += 1
        changed = (split(noisy) - split(other)).abs().amax(dim=(0, 2, 3))
        assert [bool(c) for c in changed] == [b == band for b in range(8)]


@given(
    st.sampled_from(["uniform:7", "mel:16", "bark:24", "one", (1, 256)]),
    st.sampled_from(["band-split", "dual-branch"]),
    st.sampled_from(["per-band", "shared"]),
)
@settings(max_examples=20, deadline=None)
def test_networks_of_every_layout(layout, architecture, decoder) -> None:
    kind = {"core": "mamba", "crossband": "bimamba", "head": "magnitude-phase", "norm": "layer"}
    config = ModelConfig(
        architecture=architecture,
        channels=16,
        layers=1,
        crossband_layers=1,
        bands=layout,
        decoder=decoder,
        **(kind if architecture == "dual-branch" else {}),
    )
    noisy = torch.randn(2, 257, 9, dtype=torch.complex64)
    assert build_model(config)(noisy).shape == noisy.shape


def test_parameters_of_a_layout_by_formula() -> None:
    n, e = 16, 3
    for layout in ("bsrnn", "mel:16", "one"):
        widths = band_widths(layout)
        split = sum(2 * 2 * w + 2 * w * n + n for w in widths)
        decoder = sum(2 * n + n * e * n + e * n + e * n * 12 * w + 12 * w for w in widths)
        config = ModelConfig(
            channels=n, layers=1, crossband="none", crossband_layers=1, decoder_expansion=e, bands=layout
        )
        trunk = parameters(config) - split - decoder
        assert trunk == 2 * n + 4 * 2 * n * (n + 2 * n + 2) + 2 * n * n + n


def test_the_default_is_signed_as_before() -> None:
    assert "bands" not in ModelConfig().signed_fields()
    assert ModelConfig(bands="mel:16").signed_fields()["bands"] == "mel:16"
