"""One contract for every scan backend that runs on this machine: values and gradients of the plain loop.

Under `TRITON_INTERPRET=1` the Triton kernels run on the CPU (`test_triton.py` starts such a process).
"""

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

from ablate.models import ModelConfig, selective_scan
from ablate.models.mamba import SelectiveSSM
from ablate.models.scan import BACKENDS, FUSED, Clamps, choose_backend, failure, mamba_ssm, unavailable, using

pytestmark = pytest.mark.numerics

TIGHT = Clamps(exponent=(-1.0, 0.0), decay=0.9, step=(0.0, 0.5), gain=0.3, state=0.8, output=1.5)
"""Bounds that ordinary values reach, each of them."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton runs on the CPU, a frame in about 50 ms: all sizes are then tiny."""
ROWS, TIME = (2, 5) if INTERPRETED else (3, 37)
CHUNK = 4 if INTERPRETED else 32


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        monkeypatch.setattr("ablate.models.scan.triton_backend.CHUNK", CHUNK)


@pytest.fixture
def backend(request: pytest.FixtureRequest, device: str) -> str:
    reason = unavailable(request.param, device)
    if reason:
        pytest.skip(reason)
    return request.param


others = [name for name in BACKENDS if name != "reference"]
backends = pytest.mark.parametrize("backend", others, indirect=True)
CLAMPS = (
    {"free": None, "tight": TIGHT} if INTERPRETED else {"free": None, "clamped": Clamps(), "tight": TIGHT}
)
clamped = pytest.mark.parametrize("clamps", CLAMPS.values(), ids=CLAMPS)


def inputs(
    device: str = "cpu",
    rows: int = ROWS,
    time: int = TIME,
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
    return [t.to(device, dtype).requires_grad_() for t in tensors]


def compute(
    tensors: Sequence[Tensor | None], backend: str, clamps: Clamps | None, softplus: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Output, and the gradients of a fixed function of it for every tensor that asks for one."""
    y = selective_scan(*tensors, delta_softplus=softplus, clamps=clamps, backend=backend)  # type: ignore[arg-type]
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    if not wanted:
        return y, []
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(y)
    return y, list(torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True))


def assert_same(
    tensors: Sequence[Tensor | None],
    backend: str,
    clamps: Clamps | None,
    softplus: bool = True,
    tolerance: float = 1e-5,
) -> None:
    if backend == "mamba_ssm" and clamps is not None:
        pytest.skip("mamba_ssm has no clamps")
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
def test_values_and_gradients(backend: str, device: str, clamps: Clamps | None, softplus: bool) -> None:
    tensors = inputs(device)
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
        {"time": CHUNK // 2},
        {"time": CHUNK},
        {"time": 2 * CHUNK + 1},
        {"rows": 2 * ROWS + 1, "dim": 33, "states": 3},
    ],
    ids=str,
)
def test_odd_sizes(backend: str, device: str, clamps: Clamps | None, size: dict[str, int]) -> None:
    assert_same(inputs(device, **size), backend, clamps)


@backends
@pytest.mark.parametrize("without", [(5,), (6,), (5, 6)], ids=["no skip", "no gate", "neither"])
def test_optional_inputs(backend: str, device: str, without: tuple[int, ...]) -> None:
    tensors: list[Tensor | None] = [None if i in without else t for i, t in enumerate(inputs(device))]
    assert_same(tensors, backend, None)


@backends
@pytest.mark.parametrize("index", range(7))
def test_gradient_of_one_input_alone(backend: str, device: str, index: int) -> None:
    assert_same([t.detach().requires_grad_(i == index) for i, t in enumerate(inputs(device))], backend, None)


@backends
def test_no_gradient_asked_for(backend: str, device: str) -> None:
    assert_same([t.detach() for t in inputs(device)], backend, None)


@backends
def test_layouts_other_than_contiguous(backend: str, device: str) -> None:
    tensors = []
    for t in inputs(device):
        if t.dim() == 3:
            wide = torch.zeros(t.shape[0], t.shape[2], t.shape[1] + 3, device=device)
            wide[..., 2:-1] = t.detach().transpose(1, 2)
            t = wide[..., 2:-1].transpose(1, 2).requires_grad_()
        elif t.dim() == 2:
            t = t.detach().t().contiguous().t().requires_grad_()
        tensors.append(t)
    assert not tensors[0].is_contiguous()
    assert_same(tensors, backend, None)
    expanded = [*inputs(device)[:6], torch.randn(1, 20, 1, device=device).expand(ROWS, 20, TIME)]
    assert_same(expanded, backend, None)


@backends
@clamped
@pytest.mark.parametrize("scale", [1e-6, 30.0, 200.0])
def test_extreme_step_sizes(backend: str, device: str, clamps: Clamps | None, scale: float) -> None:
    u, delta, *rest = inputs(device)
    assert_same([u, (delta.detach() * scale).requires_grad_(), *rest], backend, clamps)


@backends
def test_nan_comes_out_as_nan(backend: str, device: str) -> None:
    tensors = [t.detach() for t in inputs(device)]
    tensors[1][1, 2, 3] = float("nan")
    for clamps in (None, Clamps())[: 1 if backend == "mamba_ssm" else 2]:
        y = selective_scan(*tensors, delta_softplus=True, clamps=clamps, backend=backend)
        expected = selective_scan(*tensors, delta_softplus=True, clamps=clamps, backend="reference")
        assert expected[1, 2, 3:].isnan().all()
        assert torch.equal(y.isnan(), expected.isnan())


@backends
def test_bfloat16_inputs_are_computed_in_float32(backend: str, device: str) -> None:
    tensors = inputs(device, dtype=torch.bfloat16)
    assert_same(tensors, backend, None, tolerance=1 / 128)
    y = selective_scan(*tensors, delta_softplus=True, backend=backend)
    exact = selective_scan(*(t.detach().double() for t in tensors), delta_softplus=True)
    assert y.dtype == torch.bfloat16
    assert float((y.double() - exact).detach().abs().max() / exact.abs().max()) < 1 / 256


@backends
def test_autocast_leaves_the_scan_in_float32(backend: str, device: str) -> None:
    tensors = [t.detach() for t in inputs(device)]
    expected = selective_scan(*tensors, delta_softplus=True, backend=backend)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(selective_scan(*tensors, delta_softplus=True, backend=backend), expected)


@backends
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_result_is_the_same_with_any_number_of_threads(backend: str, device: str, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(inputs(device, rows=5), backend, None)
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


@pytest.mark.parametrize("name", ["reference", "chunked"])
@pytest.mark.parametrize("clamps", [None, TIGHT], ids=["free", "tight"])
def test_gradcheck_in_double_precision(name: str, clamps: Clamps | None) -> None:
    tensors = inputs(rows=2, time=4, dim=3, states=2, dtype=torch.float64)
    run = partial(selective_scan, delta_softplus=True, clamps=clamps, backend=name)
    assert torch.autograd.gradcheck(run, tensors)


def test_gradient_is_checked_against_differences_for_every_clamp() -> None:
    """`TIGHT` cuts somewhere at each of its bounds, so that agreement under it says something."""
    tensors = inputs()
    free = compute(tensors, "reference", None)[0]
    for name in Clamps._fields:
        wide = Clamps((-1e9, 1e9), 1e9, (-1e9, 1e9), 1e9, 1e9, 1e9)
        one = wide._replace(**{name: getattr(TIGHT, name)})
        assert not torch.allclose(compute(tensors, "reference", one)[0], free), name


FORKING = """
import multiprocessing, torch
from ablate.models import selective_scan

def compute():
    torch.set_num_threads(2)
    u, delta = (torch.linspace(0.1, 1, 30).view(2, 3, 5).requires_grad_() for _ in range(2))
    y = selective_scan(u, delta, -torch.ones(3, 2), u[:, :2], u[:, :2], backend="numba")
    return [x.detach().numpy().tolist() for x in (y, *torch.autograd.grad(y.sum(), (u, delta)))]

before = compute()
queue = multiprocessing.get_context("fork").Queue()
child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(compute()), daemon=True)
child.start()
print(queue.get(timeout=300) == before)
"""
"""In a process of its own: no child of one whose autograd has been on a GPU can go backwards."""


@pytest.mark.skipif(bool(unavailable("numba")), reason="numba is not installed")
def test_numba_works_after_a_fork() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert done.stdout == "True\n", done.stderr


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
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
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


@backends
def test_same_bits_every_time(backend: str, device: str) -> None:
    if backend == "mamba_ssm":
        pytest.skip("mamba_ssm adds gradients in any order")
    first, again = (compute(inputs(device), backend, None) for _ in range(2))
    for a, b in zip([first[0], *first[1]], [again[0], *again[1]], strict=True):
        assert torch.equal(a, b)


@backends
@pytest.mark.parametrize("config", [{}, {"clamps": "on"}, {"ssm_skip": "shadowed"}], ids=str)
def test_inside_a_network(backend: str, device: str, config: dict[str, Any]) -> None:
    """The layer gives the scan views of its projections, and takes its convolution from the same backend."""
    torch.manual_seed(0)
    layer = SelectiveSSM(ModelConfig(channels=8, d_state=3, **config)).to(device)
    x, z = torch.randn(2, ROWS, TIME, 2 * layer.inner, device=device)[..., : layer.inner].requires_grad_()
    found = []
    for name in (backend, "reference"):
        if name == "mamba_ssm" and layer.clamps:
            pytest.skip("mamba_ssm has no clamps")
        with using(name):
            y = layer(x, z)
        wanted = [x, z, *(p for p in layer.parameters() if p is not layer.D or not layer.shadowed)]
        found.append([y, *torch.autograd.grad(y.square().sum(), wanted)])
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).detach().abs().max()) <= 2e-5 * float(theirs.detach().abs().max())


def test_auto_takes_the_reference_for_double_precision() -> None:
    assert choose_backend("cpu", torch.float64)[0] == "reference"


def test_auto_takes_the_fused_backend_of_the_device_or_says_why_not() -> None:
    for device, fused in FUSED.items():
        reason = unavailable(fused, device)
        expected = ("chunked", f"{fused}: {reason}") if reason else (fused, f"fused for {device}")
        assert choose_backend(device) == expected
    assert choose_backend("mps") == ("chunked", "no fused kernel for mps")


def test_a_backend_says_what_it_needs() -> None:
    assert unavailable("numba", "cuda") == "runs on cpu only"
    assert unavailable("mamba_ssm", "cpu") == "runs on cuda only"
    if not torch.cuda.is_available():
        assert unavailable("triton", "cuda") == ("runs on cpu only" if INTERPRETED else "no CUDA device")


def test_using_changes_what_auto_means() -> None:
    with using("chunked"):
        assert choose_backend()[0] == "chunked"
    assert choose_backend()[0] != "chunked"


FAKE = """
def selective_scan_fn(u, delta, A, B, C, D, z, bias, softplus):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return u * delta", None),
        (
            "raise RuntimeError('built without\\nthe CUDA extension')",
            "RuntimeError: built without the CUDA extension",
        ),
    ],
)
def test_mamba_ssm_is_asked_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: str | None
) -> None:
    """Its operation is imported without the package, which here cannot be imported."""
    folder = tmp_path / "mamba_ssm" / "ops"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("import transformers_that_broke")
    (folder / "__init__.py").touch()
    (folder / "selective_scan_interface.py").write_text(FAKE.format(body=body))
    monkeypatch.syspath_prepend(tmp_path)
    mamba_ssm._operation.cache_clear()
    try:
        with torch.inference_mode():
            assert failure("mamba_ssm", "cpu") == expected
        assert "mamba_ssm" not in sys.modules
    finally:
        mamba_ssm._operation.cache_clear()
        for name in [name for name in sys.modules if name.startswith("mamba_ssm.")]:
            del sys.modules[name]


def test_mamba_ssm_is_not_imported_without_a_gpu() -> None:
    selective_scan(*(t.detach() for t in inputs()))
    if unavailable("mamba_ssm"):
        assert "mamba_ssm" not in sys.modules


def test_wrong_shapes_and_backends_are_refused() -> None:
    u, delta, A, B, C, D, z = (t.detach() for t in inputs())
    with pytest.raises(ValueError, match=r"B has shape \(3, 4, 37\).*u \(3, 20, 37\)"):
        selective_scan(u, delta, A, B[:, :4], C, D, z)
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        selective_scan(u, delta, A, B, C, backend="numbo")
    with pytest.raises(ValueError, match="float64"):
        selective_scan(u.double(), delta, A, B, C, backend="numba")
    with pytest.raises(ValueError, match="at least one time step"):
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
        if unavailable(backend, "cpu"):
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
    with pytest.raises(ValueError, match="use Clamps"):
        selective_scan(*tensors, clamps="on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axes"):
        selective_scan(tensors[0][0], *tensors[1:])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_no_backend_is_asked_to_save_for_one(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[bool] = []

    def scan(*given: Any) -> Tensor:
        wanted.extend(x.requires_grad for x in given if isinstance(x, Tensor))
        return given[0]

    monkeypatch.setattr("ablate.models.scan._scan_of", lambda _: scan)
    tensors = inputs()
    selective_scan(*tensors, backend="reference")
    assert all(wanted)
    wanted.clear()
    with mode():
        selective_scan(*tensors, backend="reference")
    assert wanted
    assert not any(wanted)
