"""How a training can end early, and the messages."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ablate.models.errors import storage_problem

from .data.batches import DataError
from .rundir import Cause


class Interrupted(Exception):
    """The training was asked to stop and has saved everything needed to resume."""


class DivergedError(ArithmeticError):
    """A loss, gradient or weight is no longer finite.

    `evidence` has the step, the loss, the norm of each gradient, and the batch's waves.
    """

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message)
        self.evidence = evidence


class RunFailure(Exception):
    """The task during which an error, its `__cause__`, occurred."""

    def __init__(self, doing: Cause) -> None:
        super().__init__(doing)
        self.doing = doing


@contextmanager
def failure_cause(doing: Cause) -> Iterator[None]:
    """Attach a cause to errors inside the block; the innermost one counts."""
    try:
        yield
    except (RunFailure, Interrupted, DivergedError):
        raise
    except Exception as error:
        raise RunFailure(doing) from error


def cause_of(error: Exception) -> tuple[BaseException, Cause]:
    """The error behind a failure, and its cause."""
    if isinstance(error, RunFailure) and error.__cause__ is not None:
        return error.__cause__, classify(error.__cause__, error.doing)
    return error, classify(error, "error")


SIGNS: dict[Cause, tuple[str, ...]] = {
    "out-of-memory": (
        *("out of memory", "memoryerror", "can't allocate memory", "not enough memory"),
        *("defaultcpuallocator", "cublas_status_alloc_failed", "cudnn_status_alloc_failed"),
    ),
    "device": ("cuda error", "cudnn error", "cublas_status_", "cudnn_status_", "cufft_"),
    "port-taken": ("address already in use", "eaddrinuse"),
}
"""Signs of a cause in a RuntimeError, or in the last line of a command."""


def classify(error: BaseException, doing: Cause) -> Cause:
    """The cause of a failure: from the error if it shows one, else from the task."""
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return "out-of-memory"
    for cause, signs in SIGNS.items():
        if any(sign in text for sign in signs):
            return cause
    if isinstance(error, DataError):
        return "data"
    if storage_problem(error):
        return "storage"
    return doing
