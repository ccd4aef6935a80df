"""A part of a training step as a CUDA graph: recorded once, then replayed in one launch."""

from __future__ import annotations

import gc
import logging
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .config import Recipe
from .determinism import listening, tolerantly

WARM_UP = 3
"""Normal calls before one is recorded: the first use creates plans, workspaces and kernels, which cannot be
recorded."""
WAITING = re.compile("synchronizing CUDA operation")

Result = TypeVar("Result")
Tensors = tuple[Tensor, ...]

logger = logging.getLogger(__name__)


class NotRecorded(Exception):
    """Nothing has run on the device: repeat the call, which then runs normally."""


def recorded(work: Callable[[], Result]) -> Result:
    """The result of work that contains a `Graph`, as `tolerantly`; repeated if recording failed."""
    try:
        return tolerantly(work)
    except NotRecorded:
        return tolerantly(work)


@dataclass(frozen=True)
class Capture:
    """Recorded operations, and the tensors that every replay reads and writes."""

    replay: Callable[[], None]
    inputs: list[Tensor]
    outputs: Tensors
    gradients: list[Tensor | None]


class Graph:
    """A function that leaves gradients, recorded at its fourth call of a kind and then replayed.

    The first calls run normally, on the stream to record. If they draw random numbers on the processor, wait
    for the device, or cannot be recorded, every call runs normally, and `reason` says why.

    Args:
        work: called with tensors of fixed shapes (or None) and with options; returns tensors. Its result may
            depend on nothing else of the processor.
        module: the one with the gradients, and with buffers that it may write.
        device: a GPU.
    """

    def __init__(self, work: Callable[..., Tensors], module: nn.Module, device: torch.device) -> None:
        self.work = work
        self.module = module
        self.parameters = list(module.parameters())
        self.device = device
        self.reason: str | None = None
        self._calls: Counter[Any] = Counter()
        self._recorded: dict[Any, Capture] = {}

    @classmethod
    def of(
        cls, recipe: Recipe, work: Callable[..., Tensors], module: nn.Module, device: torch.device
    ) -> Graph | None:
        """A graph if the recipe asks for one and the device is a GPU; else None."""
        return cls(work, module, device) if recipe.cuda_graph and device.type == "cuda" else None

    def __call__(self, *inputs: Tensor | None, **options: bool) -> Tensors:
        """The result of `work`; NotRecorded if it turns out that it cannot be recorded."""
        if self.reason is not None:
            return self.work(*inputs, **options)
        kind = (*(x is None for x in inputs), *sorted(options.items()))
        if kind not in self._recorded:
            if self._calls[kind] < WARM_UP:
                self._calls[kind] += 1
                outputs, found = self._watched(inputs, options)
                if found and self._calls[kind] > 1:  # at the first, kernels may be tried and plans be made
                    self._give_up(found[0])
                return outputs
            try:
                self._recorded[kind] = self._record(inputs, options)
            except Exception as error:
                first: BaseException = error  # torch ends the recording, which fails in turn
                while first.__context__ is not None:
                    first = first.__context__
                self._give_up(" ".join(f"{type(first).__name__}: {first}".split()))
                raise NotRecorded from error
        recording = self._recorded[kind]
        torch._foreach_copy_(recording.inputs, [x for x in inputs if x is not None])
        recording.replay()
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return tuple(x.clone() for x in recording.outputs)

    def told(self) -> str:
        """Its outcome in a word, or the reason."""
        return self.reason or ("on" if self._recorded else f"fewer than {WARM_UP + 1} steps of a kind")

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._recorded.clear()
        logger.warning("training steps run without a CUDA graph: %s", reason)

    def _watched(
        self, inputs: Sequence[Tensor | None], options: dict[str, bool]
    ) -> tuple[Tensors, list[str]]:
        """Work normally; also returns what a recording would not repeat."""
        drawn, places = _drawn(), self._places()
        with _waits() as found:
            outputs = self._beside(inputs, options)
        if not all(map(np.array_equal, drawn, _drawn())):
            found.append("random numbers are drawn on the CPU")
        if places != self._places():
            found.append("a buffer is replaced instead of written into")
        return outputs, found

    def _places(self) -> list[int]:
        return [x.data_ptr() for x in (*self.parameters, *self.module.buffers())]

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def _beside(self, inputs: Sequence[Tensor | None], options: dict[str, bool]) -> Tensors:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self.work(*inputs, **options)
        current.wait_stream(self._stream)
        return outputs

    def _record(self, inputs: Sequence[Tensor | None], options: dict[str, bool]) -> Capture:
        held = [None if x is None else x.clone() for x in inputs]
        gc.collect()  # a graph of an earlier training must not be freed while this one is recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = self.work(*held, **options)
        gradients = [parameter.grad for parameter in self.parameters]
        return Capture(graph.replay, [x for x in held if x is not None], outputs, gradients)


def _drawn() -> list[Any]:
    """The states of the processor's random generators."""
    _, keys, *place = np.random.get_state()
    return [random.getstate()[1], keys, place, torch.get_rng_state()]


@contextmanager
def _waits() -> Iterator[list[str]]:
    """Collects operations inside that wait for the device; other warnings are unchanged."""
    found: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()

    def hear(_: Any, category: Any, file: str, line: int, *rest: Any) -> None:
        found.append(f"a step waits for the device ({file}:{line})")

    with listening(WAITING, hear):
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(mode)
