"""Only deterministic operations, until one has no such form: it is logged, and the work continues."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

REFUSAL = re.compile(r"(\S+) does not have a deterministic implementation")
"""Torch's text about an operation, as an error or, if it only warns, as a warning."""

_FUSED_ATTENTION: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]

_refused: list[str] = []

logger = logging.getLogger(__name__)


@contextmanager
def strict() -> Iterator[None]:
    """Operations without a deterministic form raise inside the block; restored afterwards."""
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = filling.fill_uninitialized_memory
    attention = [enabled() for enabled, _ in _FUSED_ATTENTION]
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False
    _refused.clear()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        for (_, enable), was in zip(_FUSED_ATTENTION, attention, strict=True):
            enable(was)
        filling.fill_uninitialized_memory = filled
        _refused.clear()


def refused() -> list[str]:
    """Operations without a deterministic form that were used since `strict` began, in order."""
    return list(_refused)


def tolerate(names: Iterable[str]) -> None:
    """From now on, only warn about operations without a deterministic form, if some are known to be used.

    With warnings only, fused attention on CUDA would take its non-deterministic form (cuDNN's has no other),
    so attention is then computed by plain products.
    """
    for name in names:
        if name not in _refused:
            _refused.append(name)
            logger.warning("%s is not deterministic here: a repeated run may differ in the last bits", name)
    if _refused:
        torch.use_deterministic_algorithms(True, warn_only=True)
        if torch.cuda.is_initialized():
            for _, enable in _FUSED_ATTENTION:
                enable(False)


def tolerantly(work: Callable[[], Result]) -> Result:
    """The result of `work`; if one of its operations refuses, work is repeated with that one tolerated."""
    if not torch.are_deterministic_algorithms_enabled():
        return work()
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        try:
            return work()
        except RuntimeError as error:
            if (found := REFUSAL.search(str(error))) is None:
                raise
            tolerate([found[1]])
    with listening(REFUSAL, lambda found, *_: tolerate([found[1]])):
        return work()


@contextmanager
def listening(pattern: re.Pattern[str], hear: Callable[..., object]) -> Iterator[None]:
    """Pass warnings that match a pattern to `hear`: match, category, file and line; others are shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{pattern.pattern}")
        show = warnings.showwarning

        def listen(message: Warning | str, *details: Any) -> None:
            found = pattern.search(str(message))
            hear(found, *details) if found else show(message, *details)

        warnings.showwarning = listen  # type: ignore[assignment]
        yield
