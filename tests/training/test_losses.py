import math

import pytest
import torch

from ablate.training.config import Recipe
from ablate.training.losses import SpectralLoss, adversarial_distance, compressed_magnitude

pytestmark = pytest.mark.numerics


def test_values_by_hand():
    clean = torch.tensor([[[3 + 4j, 0j]]])
    estimate = torch.tensor([[[0j, 1j]]])
    loss = SpectralLoss(complex_weight=2.0, magnitude_weight=0.0, compression=0.3)
    assert loss(estimate, clean).item() == pytest.approx(2 * (5 + 1) / 2)
    floor = 1e-10**0.3
    loss = SpectralLoss(complex_weight=0.0, magnitude_weight=3.0, compression=0.3)
    wanted = 3 * ((5**0.3 - floor) + (1 - floor)) / 2
    assert loss(estimate, clean).item() == pytest.approx(wanted, rel=1e-6)


def test_reference_weights_are_the_default():
    assert SpectralLoss.of(Recipe()) == SpectralLoss(0.5, 0.5, 0.3)


def test_compressed_silence_is_the_floor():
    assert compressed_magnitude(torch.zeros(2, dtype=torch.complex64)).tolist() == pytest.approx([1e-3] * 2)


def test_gradient_at_silence_is_finite():
    estimate = torch.zeros(1, 257, 4, dtype=torch.complex64, requires_grad=True)
    SpectralLoss(0.5, 0.5, 0.3)(estimate, torch.randn(1, 257, 4, dtype=torch.complex64)).backward()
    assert torch.isfinite(torch.view_as_real(estimate.grad)).all()


def test_gradients_agree_with_differences():
    torch.manual_seed(0)
    estimate = torch.randn(1, 3, 2, dtype=torch.complex128, requires_grad=True)
    clean = torch.randn(1, 3, 2, dtype=torch.complex128)
    assert torch.autograd.gradcheck(lambda x: SpectralLoss(0.5, 0.5, 0.3)(x, clean), (estimate,))


def test_adversarial_distance():
    assert adversarial_distance(torch.tensor([1.0, 0.5])).item() == pytest.approx(0.125)


def test_shapes_are_compared():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\).*\(1, 2, 4\)"):
        SpectralLoss(1, 1, 0.3)(torch.zeros(1, 2, 3) + 0j, torch.zeros(1, 2, 4) + 0j)


def test_no_term_is_zero():
    x = torch.ones(1, 2, 3) + 0j
    assert SpectralLoss(0, 0, 0.3)(x, 2 * x).item() == 0
    assert math.isfinite(SpectralLoss(1, 1, 0.3)(x, x).item())
