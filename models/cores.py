"""How many cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those the scheduler gives to this process; all of the machine where the system cannot say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
