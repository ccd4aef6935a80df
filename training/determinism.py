"""Deterministic operations alone, until one has no such form: it is named, and the work goes on."""

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
"""What torch says of an operation, as an error or, where it only warns, as a warning."""

_FUSED_ATTENTION: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]

_refused: list[str] = []

logger = logging.getLogger(__name__)


@contextmanager
def strict() -> Iterator[None]:
    """Operations without a deterministic form raise inside; as before afterwards."""
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
    """Have operations without a deterministic form only warn, from now on, if some are known to be used.

    Where torch only warns, fused attention on CUDA takes the form that is not deterministic (cuDNN's has no
    other): attention is then computed by plain products.
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
    """What work gives; where one of its operations refuses, it is done again with that one tolerated.

    Args:
        work: may be done twice.
    """
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
    """Tell `hear` of the warnings with a pattern: the match, category, file and line; others are shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{pattern.pattern}")
        show = warnings.showwarning

        def listen(message: Warning | str, *details: Any) -> None:
            found = pattern.search(str(message))
            hear(found, *details) if found else show(message, *details)

        warnings.showwarning = listen  # type: ignore[assignment]
        yield
