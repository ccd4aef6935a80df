"""The number of cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The number of cores in this process' CPU affinity; on macOS, all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
