"""Python processes that run a module of this project, wherever the parent was started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables for the number of threads of numeric libraries."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a module; `-P` excludes the working directory from its imports."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**changes: str) -> dict[str, str]:
    """This process' environment, in which a child finds the same code.

    A checkout with another name is only found through its editable installation.
    """
    above = [str(_PACKAGE.parent)] if _PACKAGE.name == "ablate" else []
    paths = [*above, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **changes, "PYTHONPATH": os.pathsep.join(paths)}
