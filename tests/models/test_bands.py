import pytest
import torch

from ablate.models.bands import BandSplit, StackedLinear, band_groups
from ablate.models.layouts import BSRNN

pytestmark = pytest.mark.numerics


def test_groups_cover_every_band_and_bin_once() -> None:
    bands = [band for group in band_groups() for band in range(*group.bands.indices(31))]
    bins = [b for group in band_groups() for b in range(*group.bins.indices(257))]
    assert bands == list(range(31))
    assert bins == list(range(257))
    assert [group.width for group in band_groups() for _ in range(group.count)] == list(BSRNN)


def test_groups_part_where_sizes_differ() -> None:
    sizes = [0] * 31
    sizes[5] = 1
    assert [group.count for group in band_groups(sizes=sizes)][:4] == [1, 4, 1, 5]


def test_number_of_sizes_is_checked() -> None:
    with pytest.raises(ValueError, match="30 sizes for 31 bands"):
        band_groups(sizes=[1] * 30)


def test_stacked_linear_is_a_linear_layer_for_each_band() -> None:
    layer = StackedLinear(3, 4, 5)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 7, 4)
    for band in range(3):
        expected = x[band] @ layer.weight[band] + layer.bias[band]
        assert torch.allclose(layer(x)[band], expected, atol=1e-6)


def test_split_keeps_bands_apart() -> None:
    split = BandSplit(8)
    noisy = torch.randn(1, 257, 4, dtype=torch.complex64)
    other = noisy.clone()
    other[:, 0] += 1
    changed = (split(noisy) - split(other)).abs().amax(dim=(0, 2, 3))
    assert changed[0] > 0
    assert not changed[1:].any()
