"""Watches the operations of a forward, in any module, below autograd."""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.models.interface import Interface

aten = torch.ops.aten
NOT_THE_NETWORK = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Folders whose code is not part of a network."""


def operation_name(function: Any) -> str:
    """The name of an operation without namespace and in-place suffix: `add` for `aten::add_`."""
    return function._schema.name.removeprefix("aten::").rstrip("_")


def call_site() -> tuple[str, int]:
    """File and line of the nearest code outside torch and the audit, and the index of its instruction."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code.co_filename
        if not code.startswith((*NOT_THE_NETWORK, "<")):
            return f"{code}:{frame.f_lineno}", frame.f_lasti
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0


@dataclass
class Activity:
    """What one operation at one place of a module did, over all its calls.

    Attributes:
        kind: "clamp" or "saturation" (values at the bounds), "dead" (units never above the threshold), or
            "sum" (two terms of equal shape).
        site: file and line of the call.
        learned: number of weight matrices that the input depends on, at most two.
        shape, other_shape: shape of the first input, and its shape with a signal of another length.
        dead: axis -> which of its elements never exceeded the threshold.
        residual: of a sum, whether the smaller term was computed from the larger.
    """

    path: str
    operation: str
    kind: str
    site: str
    detail: str = ""
    learned: int = 2
    at_bound: float = 0
    values: int = 0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    dead: dict[int, Tensor] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    other_shape: tuple[int, ...] = ()
    residual: bool = True

    @property
    def moving_axes(self) -> set[int]:
        """Axes whose size differed when the input had another length: they hold time, not units."""
        if len(self.other_shape) != len(self.shape):
            return set(range(len(self.shape)))
        return {a for a, (m, n) in enumerate(zip(self.other_shape, self.shape, strict=True)) if m != n}

    @property
    def share(self) -> float:
        """Share of the values that are at a bound, or of the units that are dead along the worst axis."""
        if self.kind == "dead":
            return max((float(dead.float().mean()) for dead in self.dead.values()), default=0.0)
        return self.at_bound / max(self.values, 1)

    @property
    def dead_units(self) -> int:
        """Number of dead units along the worst axis."""
        return max((int(dead.sum()) for dead in self.dead.values()), default=0)

    @property
    def sizes(self) -> tuple[float, float]:
        """Root mean squares of the two terms of a sum."""
        first, second = ((s / max(self.values, 1)) ** 0.5 for s in self.squares)
        return first, second

    @property
    def ratio(self) -> float:
        """Ratio of the larger to the smaller term; 1 if one is exactly zero."""
        low, high = sorted(self.sizes)
        return high / low if low else 1.0


Key = tuple[str, str, str, int, str]
"""Key of an activity: module, operation, site, instruction, detail."""


class Watch(TorchDispatchMode):
    """Collects activities and the lineage of every tensor; `stack` holds the path of the running module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stack: list[str] = [""]
        self.found: dict[Key, Activity] = {}
        self.shapes: dict[Key, tuple[int, ...]] = {}
        self.only_shapes = False
        self._weights = {_storage(p): p for p in model.parameters()}
        self._made: dict[int, set[int]] = {}
        self._learned: dict[int, frozenset[int]] = {}
        self._nodes: dict[int, int] = {}
        self._alive: dict[int, list[weakref.ref[Tensor]]] = {}
        self._count = itertools.count(1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        look = _LOOKS.get(name)
        if look is not None:
            look(self, name, args, kwargs)
        result = func(*args, **kwargs)
        self._remember(name, args, result)
        return result

    def see(self, interface: Interface, batch: Tensor) -> None:
        """Watch a forward of a batch of signals; its activities add to those seen before."""
        taken = interface.arguments(batch)
        with self.running():
            self.model(*taken)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch forwards of the model; lineages end with the block."""
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                before = module.register_forward_pre_hook(lambda m, a, path=path: self.stack.append(path))
                after = module.register_forward_hook(self._left, with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            try:
                with torch.no_grad(), self:
                    yield
            finally:
                del self.stack[1:]
                for kept in (self._made, self._learned, self._nodes, self._alive):
                    kept.clear()

    # ------------------------------------------------------------------------------------------- lineage

    def _left(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """Record that a module's output depends on its input, even if code outside torch computed it."""
        self.stack.pop()
        inputs = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        for tensor in _tensors(out):
            if _storage(tensor) not in {_storage(t) for t in inputs}:
                unknown = self._node(tensor) not in self._made
                self._join(tensor, inputs, [p for p in module.parameters() if unknown])

    def _join(self, out: Tensor, inputs: Iterable[Tensor], weights: Iterable[Tensor]) -> None:
        """Record that `out` was computed from some tensors and with some weights."""
        node, sources = self._node(out), {self._node(t) for t in inputs}
        self._made.setdefault(node, set()).update(sources - {node})
        learned = self._learned.get(node, frozenset()).union(*(self._learned.get(s, ()) for s in sources))
        learned |= {_storage(w) for w in weights if w.dim() > 1}
        self._learned[node] = frozenset(sorted(learned)[:2])

    def _node(self, tensor: Tensor) -> int:
        """A number for the values in a storage; it changes once all tensors of the storage are gone."""
        key = _storage(tensor)
        if not any(ref() is not None for ref in self._alive.get(key, ())):
            self._nodes.pop(key, None)
        return self._keep(tensor, self._nodes.get(key) or next(self._count))

    def _keep(self, tensor: Tensor, node: int) -> int:
        key = _storage(tensor)
        alive = [ref for ref in self._alive.get(key, ()) if ref() is not None]
        self._alive[key] = alive if any(r() is tensor for r in alive) else [*alive, weakref.ref(tensor)]
        self._nodes[key] = node
        return node

    def _remember(self, name: str, args: Any, result: Any) -> None:
        inputs = list(_tensors(args))
        sources = {_storage(t): self._node(t) for t in inputs}
        for out in _tensors(result):
            key = _storage(out)
            if key in sources and name in _VIEWS:
                self._keep(out, sources[key])
            elif name in ("clone", "_to_copy", "contiguous") and inputs:
                self._keep(out, sources[_storage(inputs[0])])
            else:
                self._join(out, inputs, [self._weights[s] for s in sources if s in self._weights])

    def learned(self, tensor: Tensor) -> int:
        """Number of weight matrices that a tensor depends on: 0, 1, or 2 for two or more."""
        return len(self._learned.get(self._node(tensor), ()))

    def computed_from(self, tensor: Tensor, source: Tensor) -> bool:
        """Whether `tensor` was computed from `source`."""
        wanted, seen, todo = self._node(source), set(), [self._node(tensor)]
        if wanted == todo[0]:
            return False
        while todo:
            node = todo.pop()
            if node == wanted:
                return True
            if node not in seen:
                seen.add(node)
                todo += self._made.get(node, ())
        return False

    # --------------------------------------------------------------------------------------------- looks

    def at(self, name: str, kind: str, x: Tensor, detail: str = "") -> Activity | None:
        """The activity of the current call; None while only shapes are gathered."""
        site, instruction = call_site()
        key = (self.stack[-1], name, site, instruction, detail)
        if self.only_shapes:
            self.shapes.setdefault(key, tuple(x.shape))
            return None
        activity = self.found.get(key)
        if activity is None:
            activity = Activity(key[0], name, kind, site, detail, shape=tuple(x.shape))
            activity.learned = self.learned(x)
            activity.other_shape = self.shapes.get(key, activity.shape)
            self.found[key] = activity
        return activity


_VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "as_strided", "transpose", "t", "permute", "select", "slice", "split"),
        *("split_with_sizes", "unbind", "squeeze", "unsqueeze", "expand", "alias", "detach", "view_as_real"),
        *("view_as_complex", "unfold", "diagonal", "reshape"),
    )
)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


FLOOR = 1e-2
"""A one-sided bound nearer to zero is a guard against division by zero, not a clamp."""
FEW = 64
"""Operations on fewer values are not checked, since a share of so few means little."""


def _scalar(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return None if value is None else float(value)


def _bounded(watch: Watch, name: str, x: Any, low: Any, high: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() < FEW:
        return
    low, high = _scalar(low), _scalar(high)
    if low == 0 and high is None:
        _dead(watch, name, x, 0.0)
        return
    if (low is None or high is None) and max(abs(b) for b in (low, high, 0.0) if b is not None) < FLOOR:
        return
    activity = watch.at(name, "clamp", x, f"[{low}, {high}]")
    if activity is not None:
        at = torch.zeros_like(x, dtype=torch.bool)
        at = at if low is None else at | (x <= low)
        at = at if high is None else at | (x >= high)
        activity.at_bound += float(at.sum())
        activity.values += x.numel()


def _dead(watch: Watch, name: str, x: Any, threshold: float) -> None:
    """Units, along the last axis or the second, whose input never exceeds the threshold."""
    if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() < FEW:
        return
    activity = watch.at(name, "dead", x)
    if activity is None:
        return
    for axis in {1, x.dim() - 1} - activity.moving_axes:
        if x.shape[axis] > 1 and x.numel() // x.shape[axis] >= 16:
            dead = x.amax([a for a in range(x.dim()) if a != axis]) <= threshold
            before = activity.dead.get(axis)
            activity.dead[axis] = dead & before if before is not None and len(before) == len(dead) else dead


def _saturated(watch: Watch, name: str, x: Any, bound: float) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() < FEW:
        return
    activity = watch.at(name, "saturation", x)
    if activity is not None:
        activity.at_bound += float((x.abs() > bound).sum())
        activity.values += x.numel()


def _norm(x: Tensor) -> Tensor:
    kind = torch.complex128 if x.is_complex() else torch.float64
    return torch.linalg.vector_norm(x, dtype=kind)


def _terms(watch: Watch, name: str, a: Any, b: Any, alpha: Any = 1) -> None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return
    if a.dim() < 3 or a.numel() < 512 or not (a.is_floating_point() or a.is_complex()):
        return
    activity = watch.at(name, "sum", a)
    if activity is None:
        return
    squares = [float(_norm(t)) ** 2 for t in (a, b)]
    squares[1] *= float(alpha) ** 2
    if not all(s == s and s != float("inf") for s in squares):
        return
    activity.squares = [old + new for old, new in zip(activity.squares, squares, strict=True)]
    activity.values += a.numel()
    low, high = sorted(squares)
    if low and high > 100 * low:
        small, large = (b, a) if squares[1] == low else (a, b)
        activity.residual &= watch.computed_from(small, large)


Look = Callable[[Watch, str, Any, Any], None]
_LOOKS: dict[str, Look] = {
    "tanh": lambda w, n, a, k: _saturated(w, n, a[0], 3.8),
    "sigmoid": lambda w, n, a, k: _saturated(w, n, a[0], 6.9),
    "clamp": lambda w, n, a, k: _bounded(
        w, n, a[0], a[1] if len(a) > 1 else k.get("min"), a[2] if len(a) > 2 else k.get("max")
    ),
    "hardtanh": lambda w, n, a, k: _bounded(
        w, n, a[0], a[1] if len(a) > 1 else -1, a[2] if len(a) > 2 else 1
    ),
    "hardsigmoid": lambda w, n, a, k: _bounded(w, n, a[0], -3, 3),
    "clamp_min": lambda w, n, a, k: _bounded(w, n, a[0], a[1], None),
    "clamp_max": lambda w, n, a, k: _bounded(w, n, a[0], None, a[1]),
    "minimum": lambda w, n, a, k: _bounded(w, n, a[0], None, a[1]) if a[1].numel() == 1 else None,
    "maximum": lambda w, n, a, k: _bounded(w, n, a[0], a[1], None) if a[1].numel() == 1 else None,
    "relu": lambda w, n, a, k: _dead(w, n, a[0], 0.0),
    "gelu": lambda w, n, a, k: _dead(w, n, a[0], -3.0),
    "silu": lambda w, n, a, k: _dead(w, n, a[0], -8.0),
    "add": lambda w, n, a, k: _terms(w, n, a[0], a[1], k.get("alpha", 1)),
    "sub": lambda w, n, a, k: _terms(w, n, a[0], a[1], k.get("alpha", 1)),
    "lerp": lambda w, n, a, k: _terms(w, n, a[0] * (1 - a[2]), a[1] * a[2]),
    "addcmul": lambda w, n, a, k: _terms(w, n, a[0], a[1] * a[2], k.get("value", 1)),
}


def watched(model: nn.Module, interface: Interface, batch: Tensor) -> Watch:
    """A watch of a forward of noisy signals, after one of their first two thirds to find the time axes."""
    watch = Watch(model)
    watch.only_shapes = True
    watch.see(interface, batch[..., : max(batch.shape[-1] * 2 // 3, 4)])
    watch.only_shapes = False
    watch.see(interface, batch)
    return watch
