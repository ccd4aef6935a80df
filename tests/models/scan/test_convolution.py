from functools import partial

import pytest
import torch

from ablate.models.scan import unavailable, using
from ablate.models.scan.convolution import causal_convolution, plain

pytestmark = pytest.mark.numerics


def compute(
    run: object, tensors: list[torch.Tensor], weights: torch.Tensor, dtype: torch.dtype
) -> list[torch.Tensor]:
    live = [t.detach().to(dtype).requires_grad_() for t in tensors]
    y = run(*live)  # type: ignore[operator]
    return [y, *torch.autograd.grad((y * weights.to(y)).sum(), live)]


@pytest.mark.parametrize("backend", ["numba", "triton"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "time", "dim", "taps"),
    [(3, 9, 20, 4), (1, 1, 1, 4), (2, 3, 5, 4), (2, 5, 65, 1), (1, 37, 3, 4), (1, 16, 3, 2)],
)
def test_fused_convolution_agrees_with_torch(
    backend: str, device: str, precision: torch.dtype, rows: int, time: int, dim: int, taps: int
) -> None:
    reason = unavailable(backend, device)
    if reason:
        pytest.skip(reason)
    torch.manual_seed(0)
    wide = torch.randn(rows, time, 2 * dim)
    tensors = [
        t.to(precision).to(device) for t in (wide[..., dim:], torch.randn(dim, 1, taps), torch.randn(dim))
    ]
    weights = torch.randn(rows, time, dim)
    with using(backend):
        found = compute(causal_convolution, tensors, weights, precision)
    expected = compute(plain, tensors, weights, torch.float64)
    assert found[0].dtype == torch.float32
    assert all(g.dtype == precision for g in found[1:])
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        tolerance = 1e-5 if precision == torch.float32 or not index else 1 / 128
        assert float((ours - theirs).detach().abs().max()) <= tolerance * float(theirs.detach().abs().max())


def test_convolution_looks_back_only(device: str) -> None:
    random = partial(torch.randn, device=device)
    x = random(1, 6, 2, requires_grad=True)
    causal_convolution(x, random(2, 1, 4), random(2))[:, 2].sum().backward()
    assert x.grad is not None
    assert x.grad[:, :3].all()
    assert not x.grad[:, 3:].any()
