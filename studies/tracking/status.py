"""MLflow's status of a run, from its state on disk."""

from __future__ import annotations

import socket
import time
from typing import Literal

from ablate.training.rundir import RunState

Mode = Literal["live", "final", "sync"]
"""When a pass is made. `live`: the driver runs; `final`: it ends; `sync`: whoever is alive may run."""


def status_of(state: RunState, scored: bool, mode: Mode) -> str:
    """What is unfinished counts as running only while somebody works on it."""
    if state.state == "done" and scored:
        return "FINISHED"
    if state.state in {"failed", "diverged"}:
        return "KILLED" if state.cause == "interrupted" else "FAILED"
    if state.state == "pending" or mode == "final":
        return "KILLED"
    return "RUNNING" if mode == "live" or _alive(state) else "KILLED"


def state_tags(state: RunState, label: str) -> dict[str, str]:
    return {
        "ablate.state": label,
        "ablate.cause": state.cause or "",
        "ablate.message": (state.message or "")[:1000],
        "ablate.attempts": str(state.attempts),
    }


def _alive(state: RunState) -> bool:
    """Whether the process that wrote a state still runs; on another machine: whether it wrote lately."""
    import psutil

    if state.pid is None or state.updated is None:
        return False
    if state.host != socket.gethostname():
        return time.time() - state.updated < 300
    try:
        return psutil.Process(state.pid).create_time() <= state.updated
    except psutil.Error:
        return False
