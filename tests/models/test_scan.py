"""One contract for every scan backend that runs on this machine: values and gradients of the plain loop."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate.models import selective_scan
from ablate.models.scan import BACKENDS, Clamps, choose_backend, unavailable, using

pytestmark = pytest.mark.numerics

TIGHT = Clamps(exponent=(-1.0, 0.0), decay=0.9, step=(0.0, 0.5), gain=0.3, state=0.8, output=1.5)
"""Bounds that ordinary values reach, each of them."""

present = [
    pytest.param(name, marks=pytest.mark.skipif(bool(unavailable(name)), reason=str(unavailable(name))))
    for name in BACKENDS
    if name != "reference"
]
backends = pytest.mark.parametrize("backend", present)
clamped = pytest.mark.parametrize("clamps", [None, Clamps(), TIGHT], ids=["free", "clamped", "tight"])


def inputs(
    rows: int = 3,
    time: int = 37,
    dim: int = 20,
    states: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """u, delta, A, B, C, D, z."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    tensors = [
        normal(rows, dim, time),
        normal(rows, dim, time) - 1,
        -8 * torch.rand(dim, states, generator=generator, dtype=torch.float64) - 0.05,
        normal(rows, states, time),
        normal(rows, states, time),
        normal(dim),
        normal(rows, dim, time),
    ]
    return [t.to(dtype).requires_grad_() for t in tensors]


def compute(
    tensors: Sequence[Tensor | None], backend: str, clamps: Clamps | None, softplus: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Output, and the gradients of a fixed function of it for every tensor that asks for one."""
    y = selective_scan(*tensors, delta_softplus=softplus, clamps=clamps, backend=backend)  # type: ignore[arg-type]
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    if not wanted:
        return y, []
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y.dtype)
    return y, list(torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True))


def assert_same(
    tensors: Sequence[Tensor | None],
    backend: str,
    clamps: Clamps | None,
    softplus: bool = True,
    tolerance: float = 1e-5,
) -> None:
    y, gradients = compute(tensors, backend, clamps, softplus)
    expected, expected_gradients = compute(tensors, "reference", clamps, softplus)
    assert y.dtype == expected.dtype
    for ours, theirs in zip([y, *gradients], [expected, *expected_gradients], strict=True):
        assert ours.shape == theirs.shape
        assert ours.isfinite().all() or not theirs.isfinite().all()
        scale = max(float(theirs.detach().abs().max()), 1e-6)
        assert float((ours - theirs).detach().abs().max()) <= tolerance * scale


@backends
@clamped
@pytest.mark.parametrize("softplus", [True, False])
def test_values_and_gradients(backend: str, clamps: Clamps | None, softplus: bool) -> None:
    tensors = inputs()
    if not softplus:
        tensors[1] = tensors[1].detach().abs().requires_grad_()
    assert_same(tensors, backend, clamps, softplus)


@backends
@clamped
@pytest.mark.parametrize(
    "size",
    [
        {"time": 1},
        {"states": 1},
        {"rows": 1},
        {"dim": 1},
        {"rows": 1, "time": 1, "dim": 1, "states": 1},
        {"time": 16},
        {"time": 32},
        {"time": 33},
        {"rows": 7, "dim": 33, "states": 3},
    ],
    ids=str,
)
def test_odd_sizes(backend: str, clamps: Clamps | None, size: dict[str, int]) -> None:
    assert_same(inputs(**size), backend, clamps)


@backends
@pytest.mark.parametrize("without", [(5,), (6,), (5, 6)], ids=["no skip", "no gate", "neither"])
def test_optional_inputs(backend: str, without: tuple[int, ...]) -> None:
    tensors: list[Tensor | None] = [None if i in without else t for i, t in enumerate(inputs())]
    assert_same(tensors, backend, None)


@backends
@pytest.mark.parametrize("index", range(7))
def test_gradient_of_one_input_alone(backend: str, index: int) -> None:
    assert_same([t.detach().requires_grad_(i == index) for i, t in enumerate(inputs())], backend, None)


@backends
def test_no_gradient_asked_for(backend: str) -> None:
    assert_same([t.detach() for t in inputs()], backend, None)


@backends
def test_layouts_other_than_contiguous(backend: str) -> None:
    tensors = []
    for t in inputs():
        if t.dim() == 3:
            wide = torch.zeros(t.shape[0], t.shape[2], t.shape[1] + 3)
            wide[..., 2:-1] = t.detach().transpose(1, 2)
            t = wide[..., 2:-1].transpose(1, 2).requires_grad_()
        elif t.dim() == 2:
            t = t.detach().t().contiguous().t().requires_grad_()
        tensors.append(t)
    assert not tensors[0].is_contiguous()
    assert_same(tensors, backend, None)
    expanded = [*inputs()[:6], torch.randn(1, 20, 1).expand(3, 20, 37)]
    assert_same(expanded, backend, None)


@backends
@clamped
@pytest.mark.parametrize("scale", [1e-6, 30.0, 200.0])
def test_extreme_step_sizes(backend: str, clamps: Clamps | None, scale: float) -> None:
    u, delta, *rest = inputs()
    assert_same([u, (delta.detach() * scale).requires_grad_(), *rest], backend, clamps)


@backends
def test_nan_comes_out_as_nan(backend: str) -> None:
    tensors = [t.detach() for t in inputs()]
    tensors[1][1, 2, 5] = float("nan")
    for clamps in (None, Clamps()):
        y = selective_scan(*tensors, delta_softplus=True, clamps=clamps, backend=backend)
        expected = selective_scan(*tensors, delta_softplus=True, clamps=clamps, backend="reference")
        assert expected[1, 2, 5:].isnan().all()
        assert torch.equal(y.isnan(), expected.isnan())


@backends
def test_bfloat16_inputs_are_computed_in_float32(backend: str) -> None:
    tensors = inputs(dtype=torch.bfloat16)
    assert_same(tensors, backend, None, tolerance=1 / 128)
    y = selective_scan(*tensors, delta_softplus=True, backend=backend)
    exact = selective_scan(*(t.detach().double() for t in tensors), delta_softplus=True)
    assert y.dtype == torch.bfloat16
    assert float((y.double() - exact).detach().abs().max() / exact.abs().max()) < 1 / 256


@backends
def test_autocast_leaves_the_scan_in_float32(backend: str) -> None:
    tensors = [t.detach() for t in inputs()]
    expected = selective_scan(*tensors, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(*tensors, delta_softplus=True, backend=backend), expected)


@backends
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_result_is_the_same_with_any_number_of_threads(backend: str, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(inputs(rows=5), backend, None)
        assert_same(inputs(rows=2), backend, TIGHT)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(bool(unavailable("numba")), reason="numba is not installed")
def test_numba_gives_the_same_bits_with_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, gradients = compute(inputs(rows=5), "numba", None)
            found.append([y, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("clamps", [None, TIGHT], ids=["free", "tight"])
def test_gradcheck_in_double_precision(backend: str, clamps: Clamps | None) -> None:
    tensors = inputs(rows=2, time=4, dim=3, states=2, dtype=torch.float64)
    run = partial(selective_scan, delta_softplus=True, clamps=clamps, backend=backend)
    assert torch.autograd.gradcheck(run, tensors)


def test_gradient_is_checked_against_differences_for_every_clamp() -> None:
    """`TIGHT` cuts somewhere at each of its bounds, so that agreement under it says something."""
    tensors = inputs()
    free = compute(tensors, "reference", None)[0]
    for name in Clamps._fields:
        wide = Clamps((-1e9, 1e9), 1e9, (-1e9, 1e9), 1e9, 1e9, 1e9)
        one = wide._replace(**{name: getattr(TIGHT, name)})
        assert not torch.allclose(compute(tensors, "reference", one)[0], free), name


def _in_child(queue: Any) -> None:
    torch.set_num_threads(2)
    y, gradients = compute(inputs(), "numba", None)
    queue.put([float(y.detach().abs().sum()), *(float(g.abs().sum()) for g in gradients)])


@pytest.mark.skipif(bool(unavailable("numba")), reason="numba is not installed")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_numba_works_after_a_fork() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    y, gradients = compute(inputs(), "numba", None)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    try:
        found = queue.get(timeout=60)
    finally:
        child.join(10)
        child.kill()
        torch.set_num_threads(before)
    assert found == pytest.approx([float(t.detach().abs().sum()) for t in (y, *gradients)], rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(bool(unavailable("numba")), reason="numba is not installed")
def test_numba_works_when_spawned_and_compiles_once(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, time, torch\n"
        "from ablate.models import selective_scan\n"
        "def work(_):\n"
        "    torch.set_num_threads(1)\n"
        "    x = torch.ones(2, 3, 4)\n"
        "    b = x[:, :2]\n"
        "    return float(selective_scan(x, x, -torch.ones(3, 2), b, b, backend='numba').sum())\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        print(*pool.map(work, range(2)))\n"
    )
    script = tmp_path / "spawned.py"
    script.write_text(program)
    root = Path(__file__).parents[2]
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }

    def run() -> tuple[str, set[Path]]:
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout, set(cache.rglob("*.nbc"))

    first, compiled = run()
    again, compiled_again = run()
    one, two = first.split()
    assert one == two
    assert first == again
    assert compiled
    assert compiled == compiled_again


def test_auto_takes_the_reference_for_double_precision() -> None:
    assert choose_backend("cpu", torch.float64)[0] == "reference"


def test_auto_on_a_gpu_without_mamba_ssm_is_chunked() -> None:
    if unavailable("mamba_ssm"):
        assert choose_backend("cuda")[0] == "chunked"


def test_using_changes_what_auto_means() -> None:
    with using("chunked"):
        assert choose_backend()[0] == "chunked"
    assert choose_backend()[0] != "chunked"


def test_mamba_ssm_is_not_imported_without_a_gpu() -> None:
    selective_scan(*(t.detach() for t in inputs()))
    if unavailable("mamba_ssm"):
        assert "mamba_ssm" not in sys.modules


def test_wrong_shapes_and_backends_are_refused() -> None:
    u, delta, A, B, C, D, z = (t.detach() for t in inputs())
    with pytest.raises(ValueError, match=r"B is \(3, 4, 37\).*u \(3, 20, 37\)"):
        selective_scan(u, delta, A, B[:, :4], C, D, z)
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        selective_scan(u, delta, A, B, C, backend="numbo")
    with pytest.raises(ValueError, match="float64"):
        selective_scan(u.double(), delta, A, B, C, backend="numba")
    with pytest.raises(ValueError, match="one time step at least"):
        selective_scan(u[..., :0], delta[..., :0], A, B[..., :0], C[..., :0])


MAMBA_SSM = """
import sys, types
from importlib.machinery import ModuleSpec
class Stub(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *a, **k: (lambda f: f) if not (a and callable(a[0])) else a[0]
layer_norm = "mamba_ssm.ops.triton.layer_norm"
kernels = ("selective_scan_cuda", "causal_conv1d_cuda", "causal_conv1d", "causal_conv1d.cpp_functions")
for name in ("triton", "triton.language", "mamba_ssm.ops.triton", layer_norm, *kernels):
    module = Stub(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = "3.0.0"
    sys.modules[name] = module
package = types.ModuleType("mamba_ssm")
package.__path__ = [sys.argv[1] + "/mamba_ssm"]
sys.modules["mamba_ssm"] = package
ops = types.ModuleType("mamba_ssm.ops")
ops.__path__ = [sys.argv[1] + "/mamba_ssm/ops"]
sys.modules["mamba_ssm.ops"] = ops
from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
import torch
tensors = torch.load(sys.argv[2])
tensors = [t.requires_grad_() for t in tensors]
u, delta, A, B, C, D, z = tensors
y = selective_scan_ref(u, delta, A, B, C, D, z, None, True)
torch.save([y.detach(), *torch.autograd.grad(y.square().sum(), tensors)], sys.argv[3])
"""


@pytest.mark.slow
def test_agrees_with_the_reference_of_mamba_ssm(tmp_path: Path) -> None:
    """The package goes without its CUDA parts into a folder of its own; what it imports is stubbed."""
    target = tmp_path / "packages"
    environment = {**os.environ, "MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"}
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--no-cache-dir",
        "-q",
    ]
    done = subprocess.run(
        [*pip, "--target", str(target), "mamba-ssm", "einops"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.skip(f"mamba-ssm cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    tensors = [t.detach() for t in inputs(time=21)]
    torch.save(tensors, tmp_path / "in.pt")
    environment = {**os.environ, "PYTHONPATH": str(target)}
    subprocess.run(
        [sys.executable, "-c", MAMBA_SSM, str(target), str(tmp_path / "in.pt"), str(tmp_path / "out.pt")],
        env=environment,
        timeout=300,
        check=True,
    )
    expected = torch.load(tmp_path / "out.pt")
    for backend in BACKENDS:
        if unavailable(backend):
            continue
        live = [t.clone().requires_grad_() for t in tensors]
        y = selective_scan(*live, delta_softplus=True, backend=backend)
        found = [y.detach(), *torch.autograd.grad(y.square().sum(), live)]
        for ours, theirs in zip(found, expected, strict=True):
            assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5, backend


def test_clamps_may_be_said_in_a_word() -> None:
    tensors = [torch.randn(1, 2, 3), torch.rand(1, 2, 3), -torch.rand(2, 2), *torch.randn(2, 1, 2, 3)]
    on = selective_scan(*tensors, clamps=True)
    torch.testing.assert_close(on, selective_scan(*tensors, clamps=Clamps()))
    torch.testing.assert_close(selective_scan(*tensors, clamps=False), selective_scan(*tensors))
    with pytest.raises(ValueError, match="give Clamps"):
        selective_scan(*tensors, clamps="on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axes"):
        selective_scan(tensors[0][0], *tensors[1:])
