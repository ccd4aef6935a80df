"""What the operations of a forward do, whatever module they run in: seen below autograd."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def operation_name(function: Any) -> str:
    """`add` for `aten::add_` and `aten::add`."""
    return function._schema.name.removeprefix("aten::").rstrip("_")


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
        look = _LOOKS.get(operation_name(func))
        before = look and look(args, kwargs)
        result = func(*args, **kwargs)
        if before:
            kind, share, ratio, detail = before
            self.found.append(Activity(self.stack[-1], operation_name(func), kind, share, ratio, detail))
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
