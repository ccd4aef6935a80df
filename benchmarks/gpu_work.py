"""What `gpu.py` has done in processes of their own: trainings, timed steps, and what operators compute in."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.models import build_model
from ablate.models.config import ModelConfig, resolve_model
from ablate.models.errors import InputError
from ablate.models.scan import using
from ablate.training import adversary as adversary_module
from ablate.training import seeds
from ablate.training import trainer as trainer_module
from ablate.training.config import Recipe
from ablate.training.data.batches import Batches
from ablate.training.environment import check_precision, free_memory, prepared
from ablate.training.graph import WARM_UP
from ablate.training.optimisation import Optimiser
from ablate.training.trainer import Trainer
from ablate.training.transfer import to_host

RATE = 16_000


class Recording(NamedTuple):
    """Noise in place of speech, `(sample,)` each."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray


def _prepared(device: str, precision: str) -> AbstractContextManager[None]:
    return prepared(torch.device(device), precision, torch.get_num_threads())


def loudness(pairs: list[tuple[Any, Any]]) -> Callable[[], list[float | None]]:
    """Stands for PESQ: of the same waves the same value, at once."""
    return lambda: [2 + float(np.tanh(np.abs(judged).mean())) for _, judged in pairs]


def recipe_of(precision: str, steps: int, *, tiny: bool, **fields: Any) -> Recipe:
    """Batches of the published size, or tiny ones."""
    sizes = {"batch_size": 2 if tiny else 6, "crop_seconds": 0.3 if tiny else 2.0}
    return Recipe(**{"steps": steps, "precision": precision, **sizes, **fields})


def training(config: ModelConfig, recipe: Recipe, device: str) -> Trainer:
    """A training on noise."""
    random = np.random.default_rng(0)
    recordings = []
    for number in range(8):
        clean, noise = 0.1 * random.standard_normal((2, 3 * RATE), np.float32)
        recordings.append(Recording(f"noise {number}", clean, clean + noise))
    batches = Batches(
        recordings, batch_size=recipe.batch_size, crop=round(recipe.crop_seconds * RATE), seed=1
    )
    seeds.set_global(1, "init")
    model = build_model(config).to(device)
    return Trainer(model, recipe, batches, seed=1, device=torch.device(device), scorer=loudness)


def trainer(
    preset: str,
    precision: str,
    device: str,
    steps: int,
    tiny: bool,
    judged: bool = False,
    graph: bool = False,
) -> Trainer:
    """A network of the published size, or a tiny one; `judged`: with a discriminator that lags."""
    small = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1.0}
    config = resolve_model(preset).model_copy(update=small if tiny else {})
    fields = {"adversarial_weight": 1.0, "adversarial_start": 0.3, "discriminator_lag": 1} if judged else {}
    return training(config, recipe_of(precision, steps, tiny=tiny, cuda_graph=graph, **fields), device)


def each(function: Callable[..., Any], cases: list[dict[str, Any]]) -> list[Any]:
    """What a function gives of each case, one after the other in this process."""
    found = []
    for case in cases:
        found.append(function(**case))
        free_memory()
    return found


def train(
    preset: str,
    precision: str,
    device: str,
    steps: int,
    tiny: bool,
    judged: bool = False,
    graph: bool = False,
    start: Path | None = None,
    halfway: Path | None = None,
    killed: bool = False,
) -> dict[str, Any]:
    """A digest of all that a training ends with, whether its weights moved, and whether steps were replayed.

    Args:
        start: a checkpoint to go on from.
        halfway: where a checkpoint is written in the middle.
        killed: whether this process ends there.
    """
    with _prepared(device, precision):
        run = trainer(preset, precision, device, steps, tiny, judged, graph)
        before = [parameter.detach().clone() for parameter in run.model.parameters()]
        if start is not None:
            run.restore(torch.load(start, map_location=device))
        while run.step < steps:
            run.start_step()
            if halfway is not None and run.step == steps // 2:
                run.finish_step()
                torch.save(run.state(), halfway)
                if killed:
                    os.kill(os.getpid(), signal.SIGKILL)
        run.finish_step()
        digest = sha256()
        for tensor in _tensors(run.state()):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        pairs = zip(run.model.parameters(), before, strict=True)
        moved = [bool((now != then).any() and now.isfinite().all()) for now, then in pairs]
        return {"digest": digest.hexdigest(), "moved": all(moved), "graph": run.graphs()}


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state.reshape(-1)]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def step_seconds(
    preset: str, precision: str, scan: str, device: str, steps: int, tiny: bool, graph: bool = False
) -> dict[str, float]:
    """Median seconds of a step after those that warm up, and the peak of memory in bytes on a GPU."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    warm = WARM_UP + 2
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with using(scan), _prepared(device, precision):
        run = trainer(preset, precision, device, steps + warm, tiny, graph=graph)
        for _ in range(steps + warm):
            synchronise()
            start = time.perf_counter()
            run.train_step()
            synchronise()
            times.append(time.perf_counter() - start)
    peak = {"peak_bytes": float(torch.cuda.max_memory_allocated())} if device == "cuda" else {}
    return {"seconds": float(np.median(times[warm:])), **peak}


class Waits(TorchDispatchMode):
    """Counts how often the processor asks tensors on a type of device for something and so waits for them."""

    asking = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.counting = True
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.asking and args[0].device.type == self.device:
            self.count += self.counting
        return func(*args, **(kwargs or {}))


def waits(preset: str, device: str, tiny: bool, judged: bool) -> int:
    """How often a step waits: for results copied, and for values asked for or what CUDA itself reports.

    On the CPU the optimisers, whose own count of steps lies there, and their look at whether the step is to
    be taken are not counted: on a GPU a kernel does both.
    """
    copies: list[Tensor] = []
    for module in (adversary_module, trainer_module):
        module.to_host = lambda tensor: _counted(tensor, copies)  # type: ignore[attr-defined]
    step = Optimiser.step
    with _prepared(device, "fp32"):
        run = trainer(preset, "fp32", device, 4, tiny, judged)
        run.start_step()
        run.start_step()
        copies.clear()
        with Waits(device) as counted:
            if device == "cpu":

                def uncounted(*arguments: Any) -> None:
                    counted.counting = False
                    step(*arguments)
                    counted.counting = True

                Optimiser.step = uncounted  # type: ignore[method-assign]
            run.start_step()
        Optimiser.step = step  # type: ignore[method-assign]
        asked, copied = counted.count, len(copies)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run.start_step()
            torch.cuda.set_sync_debug_mode("default")
            asked = max(asked, sum("synchroniz" in str(warning.message).lower() for warning in caught))
    return copied + asked


def _counted(tensor: Tensor, copies: list[Tensor]) -> Callable[[], Tensor]:
    wait = to_host(tensor)

    def counted() -> Tensor:
        copies.append(tensor)
        return wait()

    return counted


def refused(device: str, precision: str) -> str | None:
    """Why a device lacks a precision; none where it has it."""
    try:
        check_precision(torch.device(device), precision)
    except InputError as error:
        return str(error)
    return None


BOUNDS = {"float32": 1e-5, "10 bits": 8e-4, "bfloat16": 2e-2}
"""The type that an operator computes in by its error, the most exact first."""


def computes_in(device: str, precision: str) -> dict[str, str]:
    """The type that each kind of operator computes in, by its error against double precision.

    IEEE float32 is exact to 1e-6 or so of the result's scale, the 10 bits of TF32 and float16 to 4e-4,
    the 7 bits of bfloat16 to 2e-3.
    """
    torch.manual_seed(0)
    width = 256
    linear, convolution = nn.Linear(width, width), nn.Conv1d(width, width, 3)
    lstm = nn.LSTM(width, width)
    x = torch.randn(32, 16, width)
    tried: dict[str, tuple[nn.Module | None, Callable[..., Tensor]]] = {
        "linear": (linear, lambda m, x: m(x)),
        "convolution": (convolution, lambda m, x: m(x.transpose(1, 2))),
        "lstm": (lstm, lambda m, x: m(x)[0]),
        "matmul": (None, lambda _, x: x @ x.transpose(1, 2)),
        "attention": (None, lambda _, x: F.scaled_dot_product_attention(x, x.flip(0), x)),
    }
    found = {}
    for name, (module, call) in tried.items():
        with torch.no_grad():
            exact = call(module and module.double(), x.double())
            if module is not None:
                module.to(device, torch.float32)
            cast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()
            with cast, _prepared(device, precision):
                value = call(module, x.to(device))
        error = float((value.cpu().double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        kinds = [kind for kind, bound in BOUNDS.items() if error < bound]
        found[name] = kinds[0] if kinds else f"nothing of the kind, error {error:.2g}"
    return found
