"""Looking inside any network: activities of its operations, frozen norm statistics, writes of its init.

All of it works below autograd, on whatever the forward calls, so that a part needs to declare nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def _name(function: Any) -> str:
    """`add` for `aten::add_` and `aten::add`."""
    return function._schema.name.removeprefix("aten::").rstrip("_")


class FrozenStatistics(TorchDispatchMode):
    """Statistics of normalisations, recorded in a first forward and used again in the next.

    What then still passes from frame to frame passes through the part itself. Frozen are layer, group,
    instance, batch and RMS norms, and mean and variance of norms written out by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaying = False
        self._saved: list[tuple[Tensor, ...]] = []
        self._frozen: set[int] = set()
        self._position = 0
        self._made: dict[int, tuple[str, tuple[Any, ...], Tensor]] = {}
        self._reduced: dict[int, tuple[str, Tensor]] = {}
        self._results: dict[int, int] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        with self:
            yield
        self._freeze()

    @contextmanager
    def replay(self) -> Iterator[None]:
        self.replaying, self._position = True, 0
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in ("native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm"):
            return self._norm(name, func, args, kwargs)
        if name in ("mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"):
            return self._reduction(name, func, args, kwargs)
        result = func(*args, **kwargs)
        if (
            not self.replaying
            and isinstance(result, Tensor)
            and name in ("pow", "square", "mul", "sub", "abs")
        ):
            self._made[id(result)] = (name, args, result)
        return result

    def _norm(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.replaying:
            result = func(*args, **kwargs)
            self._saved.append(tuple(result[1:]))
            return result
        saved = self._saved[self._position]
        self._position += 1
        x = args[0]
        if name == "native_layer_norm":
            y = (x - saved[0]) * saved[1]
            weight, bias = args[2], args[3]
        elif name == "_fused_rms_norm":
            y, weight, bias = x * saved[0], args[2], None
        elif name == "native_group_norm":
            groups = args[6]
            rows = x.reshape(x.shape[0], groups, -1)
            y = ((rows - saved[0].view(-1, groups, 1)) * saved[1].view(-1, groups, 1)).view(x.shape)
            shape = (1, -1, *[1] * (x.dim() - 2))
            weight, bias = (None if w is None else w.view(shape) for w in args[1:3])
        else:
            if saved[0].numel() == 0:
                return func(*args, **kwargs)
            shape = (1, -1, *[1] * (x.dim() - 2))
            y = (x - saved[0].view(shape)) * saved[1].view(shape)
            weight, bias = (None if w is None else w.view(shape) for w in args[1:3])
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
        return (y.to(x.dtype), *saved)

    def _reduction(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if self.replaying:
            index = self._position
            self._position += 1
            if index not in self._frozen:
                return result
            saved = self._saved[index]
            copies = tuple(value.clone() for value in saved)
            return copies if isinstance(result, tuple) else copies[0]
        index = len(self._saved)
        results = result if isinstance(result, tuple) else (result,)
        self._saved.append(tuple(value.clone() for value in results))
        if isinstance(args[0], Tensor):
            self._reduced[index] = (name, args[0])
        if isinstance(result, Tensor):
            self._results[id(result)] = index
        return result

    def _freeze(self) -> None:
        """Mark variances, and means that belong to one: of the same values, or of squares."""
        spread = {id(x) for name, x in self._reduced.values() if name not in ("mean", "sum")}
        for index, (name, x) in self._reduced.items():
            if name not in ("mean", "sum") or id(x) in spread:
                self._frozen.add(index)
                continue
            made = self._made.get(id(x))
            if made is None or made[0] in ("sub", "abs"):
                continue
            if made[0] == "mul" and not (len(made[1]) > 1 and made[1][0] is made[1][1]):
                continue
            self._frozen.add(index)
            inner = self._made.get(id(made[1][0]))
            if inner is not None and inner[0] == "sub" and id(inner[1][1]) in self._results:
                self._frozen.add(self._results[id(inner[1][1])])


@dataclass
class Activity:
    """What one operation of one module did in a forward.

    Attributes:
        kind: "clamp" or "saturation" (`share` of the values at the bounds), "dead" (`share` of the units that
            are zero everywhere), or "sum" (`ratio` of the larger to the smaller term).
    """

    path: str
    operation: str
    kind: str
    share: float = 0.0
    ratio: float = 1.0
    detail: str = ""


class _Watch(TorchDispatchMode):
    """Collects activities; `stack` holds the path of the module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = [""]
        self.found: list[Activity] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        look = _LOOKS.get(_name(func))
        before = look and look(args, kwargs)
        result = func(*args, **kwargs)
        if before:
            kind, share, ratio, detail = before
            self.found.append(Activity(self.stack[-1], _name(func), kind, share, ratio, detail))
        return result


Seen = tuple[str, float, float, str] | None
FLOOR = 1e-2
"""A bound nearer to zero than this, on one side only, is a guard against dividing by zero and no clamp."""


def _scalar(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return None if value is None else float(value)


def _bounded(x: Any, low: Any, high: Any) -> Seen:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() < 64:
        return None
    low, high = _scalar(low), _scalar(high)
    if low == 0 and high is None:
        return _dead(x, 0.0)
    if (low is None or high is None) and max(abs(b) for b in (low, high, 0.0) if b is not None) < FLOOR:
        return None
    at = torch.zeros_like(x, dtype=torch.bool)
    at = at if low is None else at | (x <= low)
    at = at if high is None else at | (x >= high)
    return "clamp", float(at.float().mean()), 1.0, f"[{low}, {high}]"


def _dead(x: Any, threshold: float) -> Seen:
    """Units, along the last axis or the second, whose input never exceeds the threshold."""
    if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() < 64:
        return None
    worst = 0.0
    for axis in {1 % x.dim(), x.dim() - 1}:
        others = [a for a in range(x.dim()) if a != axis]
        if x.shape[axis] > 1 and x.numel() // x.shape[axis] >= 16:
            worst = max(worst, float((x.amax(others) <= threshold).float().mean()))
    return "dead", worst, 1.0, "of its units"


def _saturated(x: Any, bound: float) -> Seen:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() < 64:
        return None
    return "saturation", float((x.abs() > bound).float().mean()), 1.0, ""


def _terms(a: Any, b: Any, alpha: Any = 1) -> Seen:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return None
    if a.dim() < 3 or a.numel() < 512 or not (a.is_floating_point() or a.is_complex()):
        return None
    sizes = [float(t.abs().double().square().mean().sqrt()) for t in (a, b)]
    sizes[1] *= abs(float(alpha))
    if min(sizes) == 0 or not all(map(_finite, sizes)):
        return None
    return "sum", 0.0, max(sizes) / min(sizes), f"{sizes[0]:.3g} against {sizes[1]:.3g}"


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


_LOOKS: dict[str, Callable[[Any, Any], Seen]] = {
    "tanh": lambda a, k: _saturated(a[0], 3.8),
    "sigmoid": lambda a, k: _saturated(a[0], 6.9),
    "clamp": lambda a, k: _bounded(
        a[0], a[1] if len(a) > 1 else k.get("min"), a[2] if len(a) > 2 else k.get("max")
    ),
    "hardtanh": lambda a, k: _bounded(a[0], a[1] if len(a) > 1 else -1, a[2] if len(a) > 2 else 1),
    "hardsigmoid": lambda a, k: _bounded(a[0], -3, 3),
    "clamp_min": lambda a, k: _bounded(a[0], a[1], None),
    "clamp_max": lambda a, k: _bounded(a[0], None, a[1]),
    "minimum": lambda a, k: _bounded(a[0], None, a[1]) if a[1].numel() == 1 else None,
    "maximum": lambda a, k: _bounded(a[0], a[1], None) if a[1].numel() == 1 else None,
    "relu": lambda a, k: _dead(a[0], 0.0),
    "gelu": lambda a, k: _dead(a[0], -3.0),
    "silu": lambda a, k: _dead(a[0], -8.0),
    "add": lambda a, k: _terms(a[0], a[1], k.get("alpha", 1)),
    "sub": lambda a, k: _terms(a[0], a[1], k.get("alpha", 1)),
    "lerp": lambda a, k: _terms(a[0] * (1 - a[2]), a[1] * a[2]),
    "addcmul": lambda a, k: _terms(a[0], a[1] * a[2], k.get("value", 1)),
}


@torch.no_grad()
def activities(model: nn.Module, batch: Tensor) -> list[Activity]:
    """What the operations of a forward of `batch` did, with the path of the module each ran in."""
    watch = _Watch()
    with ExitStack() as stack:
        for path, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda m, a, path=path: watch.stack.append(path))
            after = module.register_forward_hook(lambda m, a, o: (watch.stack.pop(), None)[1])
            stack.callback(before.remove)
            stack.callback(after.remove)
        with watch:
            model(batch)
    return watch.found


@dataclass(frozen=True)
class InitWrite:
    """A write into a parameter while its network was built.

    Attributes:
        operation: `zero`, `fill`, `uniform`, `copy`, ...
        stock: by a torch module's own `reset_parameters`.
        before: the values it replaced, or None where there were none yet.
        start, count: which elements of the parameter.
        after: the values written.
    """

    operation: str
    stock: bool
    before: Tensor | None
    start: int
    count: int
    after: Tensor | None


_OVERWRITES = frozenset({"zero", "fill", "uniform", "normal", "copy", "exponential", "bernoulli"})
_LARGEST = 1 << 16


class _InitWatch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.unset: dict[int, Tensor] = {}
        self.kept: list[Tensor] = []
        self.writes: dict[int, list[InitWrite]] = {}
        self.by_tensor: dict[int, list[InitWrite]] = {}

    def of(self, parameter: Tensor) -> list[InitWrite]:
        """The writes into a parameter; the last stands for its `.data` being replaced, if it was."""
        writes = self.writes.get(parameter.untyped_storage().data_ptr())
        if writes is not None:
            return writes
        writes = self.by_tensor.get(id(parameter), [])
        if not writes or writes[-1].count != parameter.numel():
            return writes
        last = writes[-1]
        return [*writes, InitWrite("assignment", False, last.after, 0, last.count, parameter.detach())]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema.name
        name = _name(func)
        writing = schema.endswith("_") and name in _OVERWRITES and isinstance(args[0], Tensor)
        if not writing:
            result = func(*args, **kwargs)
            if name.startswith(("empty", "new_empty")) and isinstance(result, Tensor):
                storage = result.untyped_storage()
                self.unset[storage.data_ptr()] = torch.ones(result.numel(), dtype=torch.bool)
                self.kept.append(result)
            return result
        target: Tensor = args[0]
        key = target.untyped_storage().data_ptr()
        unset = self.unset.get(key)
        small = 0 < target.numel() <= _LARGEST and target.is_contiguous()
        at = None
        if unset is not None:
            at = torch.as_strided(unset, target.shape, target.stride(), target.storage_offset())
        before = target.clone() if small and (at is None or not at.any()) else None
        result = func(*args, **kwargs)
        if at is not None:
            at.fill_(False)
        self.kept.append(target)
        if small:
            write = InitWrite(
                name, _by_torch(), before, int(target.storage_offset()), target.numel(), target.clone()
            )
            self.writes.setdefault(key, []).append(write)
            self.by_tensor.setdefault(id(target), []).append(write)
        return result


def _by_torch() -> bool:
    """Whether the running write comes from the `reset_parameters` of a module of torch."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("reset_parameters", "_reset_parameters"):
            return "/torch/nn/modules/" in frame.f_code.co_filename.replace("\\", "/")
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def watch_init() -> Iterator[Callable[[nn.Module], dict[str, list[InitWrite]]]]:
    """Watch what is written into the parameters of the networks built inside."""
    watch = _InitWatch()
    with watch:
        yield lambda model: {path: watch.of(parameter) for path, parameter in model.named_parameters()}
