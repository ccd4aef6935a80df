"""Normalisation over all axes of an item, as a CUDA device does it."""

from __future__ import annotations

import pytest
import torch

from ablate.models.norms import GlobalNorm, standardise, two_passes

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_two_passes_are_one_kernel_up_to_rounding(offset):
    torch.manual_seed(0)
    one = (offset + torch.randn(3, 5, 70, 8)).requires_grad_()
    other = one.detach().clone().requires_grad_()
    found, wanted = two_passes(one), standardise(other)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(3, 5, 70, 8)
    for normed in (found, wanted):
        (normed * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_statistics_are_in_single_precision():
    x = (1000 + torch.randn(1, 2, 3, 4)).bfloat16()
    assert two_passes(x).dtype == torch.float32
    assert two_passes(x.double()).dtype == torch.float64


def test_a_device_gives_what_the_processor_gives(device):
    torch.manual_seed(0)
    norm, x = GlobalNorm(8), torch.randn(2, 5, 9, 8)
    torch.testing.assert_close(norm.to(device)(x.to(device)).cpu(), norm.cpu()(x), rtol=1e-5, atol=1e-5)
