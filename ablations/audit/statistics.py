"""Freezes the statistics of normalisations while probes change the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .operations import operation_name

_MEANS = ("mean", "sum")
_REDUCTIONS = (
    *_MEANS,
    *("var", "std", "var_mean", "std_mean", "linalg_vector_norm"),
    "ablate::statistics_so_far",
)


class FrozenStatistics(TorchDispatchMode):
    """Records the statistics of normalisations in one forward and uses them again in the next.

    With frozen statistics, one frame can affect another only through the part itself. This covers layer,
    group, instance, batch and RMS norms, and the means and variances of norms written by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaying = False
        self.places = 0
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
    def replay(self, places: int = 0) -> Iterator[None]:
        """Reuse the recorded statistics, except those of single time places.

        The latter do not connect places; if frozen, they let powers of a changed input explode.

        Args:
            places: length of the time axis, which must not divide any width.
        """
        self.replaying, self._position, self.places = True, 0, places
        with self:
            yield

    def _of_each_place(self, statistic: Tensor) -> bool:
        """Whether a statistic is of single places. Also true if it is empty, as for running statistics."""
        count = statistic.numel()
        return not count or (self.places > 0 and count % self.places == 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name in ("native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm"):
            return self._norm(name, func, args, kwargs)
        if name in _REDUCTIONS:
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
        if self._of_each_place(saved[0]):
            return func(*args, **kwargs)
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
            saved = self._saved[index]
            if index not in self._frozen or self._of_each_place(saved[0]):
                return result
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
        """Mark variances for reuse, and means that belong to one (of the same values, or of squares)."""
        spread = {id(x) for name, x in self._reduced.values() if name not in _MEANS}
        for index, (name, x) in self._reduced.items():
            if name not in _MEANS or id(x) in spread:
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
