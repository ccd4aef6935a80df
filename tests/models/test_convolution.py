import pytest
import torch

from ablate.models.scan import unavailable
from ablate.models.scan.convolution import causal_convolution, plain

pytestmark = pytest.mark.numerics


@pytest.mark.skipif(bool(unavailable("numba")), reason="numba is not installed")
@pytest.mark.parametrize(
    ("rows", "time", "dim", "taps"), [(3, 9, 20, 4), (1, 1, 1, 4), (2, 3, 5, 4), (2, 5, 33, 1)]
)
def test_fused_convolution_agrees_with_torch(rows: int, time: int, dim: int, taps: int) -> None:
    torch.manual_seed(0)
    wide = torch.randn(rows, time, 2 * dim)
    tensors = [wide[..., dim:], torch.randn(dim, 1, taps), torch.randn(dim)]
    weights = torch.randn(rows, time, dim)

    def compute(run: object, dtype: torch.dtype) -> list[torch.Tensor]:
        live = [t.detach().to(dtype).requires_grad_() for t in tensors]
        y = run(*live)  # type: ignore[operator]
        return [y, *torch.autograd.grad((y * weights.to(dtype)).sum(), live)]

    for ours, theirs in zip(
        compute(causal_convolution, torch.float32), compute(plain, torch.float64), strict=True
    ):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).detach().abs().max()) <= 1e-5 * float(theirs.detach().abs().max())


def test_convolution_looks_back_only() -> None:
    x = torch.randn(1, 6, 2, requires_grad=True)
    causal_convolution(x, torch.randn(2, 1, 4), torch.randn(2))[:, 2].sum().backward()
    assert x.grad is not None
    assert x.grad[:, :3].all()
    assert not x.grad[:, 3:].any()
