"""Traces the writes into parameters while a network is built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .operations import call_site, operation_name


@dataclass(frozen=True)
class InitWrite:
    """A write into a parameter while its network was built.

    Attributes:
        operation: `zero`, `fill`, `uniform`, `copy`, ...
        stock: whether the `reset_parameters` of one of torch's modules wrote it.
        site: file and line of the code that wrote.
        before: the values that it replaced; None if there were none yet.
        start, count: which elements of the parameter.
        after: the values written.
    """

    operation: str
    stock: bool
    before: Tensor | None
    start: int
    count: int
    after: Tensor | None
    site: str = ""


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
        """The writes into a parameter; if its `.data` was replaced, that is the last one."""
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
        name = operation_name(func)
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
                *(name, _by_torch(), before, int(target.storage_offset()), target.numel(), target.clone()),
                site=call_site()[0],
            )
            self.writes.setdefault(key, []).append(write)
            self.by_tensor.setdefault(id(target), []).append(write)
        return result


def _by_torch() -> bool:
    """Whether the current write comes from the `reset_parameters` of one of torch's modules."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in ("reset_parameters", "_reset_parameters"):
            return "/torch/nn/modules/" in frame.f_code.co_filename.replace("\\", "/")
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def watch_init() -> Iterator[Callable[[nn.Module], dict[str, list[InitWrite]]]]:
    """Record the writes into parameters of the networks that are built inside the block."""
    watch = _InitWatch()
    with watch:
        yield lambda model: {path: watch.of(parameter) for path, parameter in model.named_parameters()}
