"""Decides what to do when a job leaves its slot, from the run directory and the launcher's report alone.

Launchers only report facts; the run directory has the result of the training. A final state (done and
scored, diverged, failed with its own cause) is never overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablate.training.rundir import RunState, State

Exit = Literal[
    "finished",
    "killed",
    "out-of-memory",
    "preempted",
    "cancelled",
    "refused",
    "time-limit",
    "stopped",
    "busy",
]
"""How a job left its slot. `finished`: its worker reported the end; `killed`: the worker died; `refused`: the
scheduler did not accept it; `time-limit`: the limit was reached twice without progress; `stopped`: the driver
stopped it; `busy`: another process was writing the run."""
FINAL: frozenset[Exit] = frozenset({"cancelled", "refused", "time-limit"})
"""Exits after which a run is not retried automatically, whatever its state."""

Then = Literal["done", "fail", "retry", "requeue", "wait", "leave"]
"""`fail`: the run failed for good; `retry`: try again, which uses up an attempt; `requeue`: try again without
using one up; `wait`: check the directory later; `leave`: leave the run to the next driver."""

RETRIED = frozenset(
    {"out-of-memory", "lost-worker", "preempted", "interrupted", "device", "refused", "storage", "port-taken"}
)
"""Causes after which a run is retried automatically."""

CAUSES = {"killed": "lost-worker", "stopped": "interrupted"}


@dataclass(frozen=True)
class Action:
    """What the driver does next.

    Attributes:
        cause: why the attempt failed.
        becomes: new state of the run directory; None to keep it.
        smaller: whether to use more and smaller micro-batches in the next attempt.
    """

    then: Then
    cause: str | None = None
    becomes: State | None = None
    smaller: bool = False


def is_final(state: RunState) -> bool:
    """Whether a run failed or diverged for a reason that another attempt would not change."""
    return state.state == "diverged" or (state.state == "failed" and state.cause not in RETRIED)


def at_start(
    state: RunState,
    *,
    scored: bool,
    unscorable: str | None = None,
    divisible: bool = True,
    retry_failed: bool = False,
) -> Literal["done", "fail", "retry-failed", "run"]:
    """What a driver does with a run when it starts.

    Args:
        scored: whether the run has scores on every requested test set.
        unscorable: cause of the failed scoring of a finished training.
        divisible: whether a step can be cut into more micro-batches.
        retry_failed: whether to restart runs that failed or diverged for good.
    """
    if state.state == "done" and scored:
        return "done"
    if state.state == "done" and unscorable is not None and unscorable not in RETRIED:
        return "retry-failed" if retry_failed else "fail"
    if state.state == "failed" and state.cause == "output":
        return "run"
    too_large = state.state == "failed" and state.cause == "out-of-memory" and not divisible
    if is_final(state) or too_large:
        return "retry-failed" if retry_failed else "fail"
    return "run"


def decide(
    state: RunState,
    exit: Exit,
    *,
    scored: bool,
    unscorable: str | None = None,
    locked: bool = False,
    retries_left: bool = True,
    divisible: bool = True,
) -> Action:
    """The action for a run directory's state and the launcher's report.

    Args:
        scored: whether the run has scores on every requested test set.
        unscorable: cause of the failed scoring of a finished training.
        locked: whether a process is writing the directory now.
        retries_left: whether the run has retries left.
        divisible: whether a step can be cut into more micro-batches.
    """
    if state.state == "done" and scored:
        return Action("done")
    if is_final(state):
        return Action("fail", state.cause or state.state)
    if locked:
        return Action("wait")
    if exit == "busy":
        return Action("requeue")
    trained = state.state == "done"
    if exit == "stopped":
        unended = state.state in ("pending", "running")
        return Action("leave", "interrupted", becomes="pending" if unended else None)
    cause = _cause(state, exit, unscorable)
    final = trained and cause == unscorable and cause not in RETRIED
    whole = cause == "out-of-memory" and not divisible
    if final or whole or exit in FINAL or not retries_left:
        return Action("fail", cause, becomes=None if trained else "failed")
    return Action("retry", cause, becomes=None if trained else "pending", smaller=cause == "out-of-memory")


def _cause(state: RunState, exit: Exit, unscorable: str | None) -> str:
    """The cause of a failed attempt: a user's action if there was one, else the run's own cause, else the
    launcher's. Only the launcher knows that a run was killed for lack of memory."""
    if exit in FINAL:
        return exit
    if state.state == "failed" and state.cause is not None:
        return exit if exit == "out-of-memory" and state.cause == "lost-worker" else state.cause
    if exit == "finished":
        words = {"done": unscorable or "not scored", "pending": state.cause or "interrupted"}
        return words.get(state.state, "lost-worker")
    return CAUSES.get(exit, exit)
