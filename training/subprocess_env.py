"""Python processes that run a module of this project, wherever the parent was started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that say how many threads the libraries that compute may use."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a module; `-P` keeps what lies in the working directory out of its imports."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**changes: str) -> dict[str, str]:
    """This process' environment, in which a child finds the same code.

    A checkout of another name is found through its editable installation alone.
    """
    above = [str(_PACKAGE.parent)] if _PACKAGE.name == "ablate" else []
    paths = [*above, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **changes, "PYTHONPATH": os.pathsep.join(paths)}
