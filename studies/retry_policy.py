"""What follows when a task leaves its slot: one pure table over the run directory and what the launcher saw.

Launchers report facts and judge nothing; the run directory says what came of the training. A final state
(done and scored, diverged, failed with a cause of its own) is never overwritten, whatever is reported.
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
"""How a task left its slot: its worker said so (`finished`), died (`killed`), was killed for memory, lost
its slot to the scheduler, was cancelled by a user, was never taken by the scheduler (`refused`), reached the
time limit twice without a step in between, ended as the driver asked for it (`stopped`), or found another
process writing the run and did nothing (`busy`)."""
FINAL: frozenset[Exit] = frozenset({"cancelled", "refused", "time-limit"})
"""Exits after which a run is not tried again by itself, whatever it says of itself."""

Then = Literal["done", "fail", "retry", "requeue", "wait", "leave"]
"""`done`; `fail`: for good; `retry`: an attempt was lost, try again; `requeue`: none was lost, try again;
`wait`: look at the directory again later; `leave`: for the next driver."""

RETRIED = frozenset(
    {"out-of-memory", "lost-worker", "preempted", "interrupted", "device", "refused", "storage", "port-taken"}
)
"""Causes after which a run is tried again by itself; every other cause is the run's own."""

CAUSES = {"killed": "lost-worker", "stopped": "interrupted"}


@dataclass(frozen=True)
class Action:
    """What the driver does.

    Attributes:
        cause: why an attempt did not end well.
        becomes: the state that the run directory gets; none: it stays as it is.
        smaller: the next attempt cuts its steps into more micro-batches.
    """

    then: Then
    cause: str | None = None
    becomes: State | None = None
    smaller: bool = False


def is_final(state: RunState) -> bool:
    """Whether a run failed or diverged for a reason that another attempt meets again."""
    return state.state == "diverged" or (state.state == "failed" and state.cause not in RETRIED)


def at_start(
    state: RunState,
    *,
    scored: bool,
    unscorable: str | None = None,
    divisible: bool = True,
    retry_failed: bool = False,
) -> Literal["done", "fail", "retry-failed", "run"]:
    """What a driver does with a run that it finds.

    Args:
        scored: every test that is asked for has its scores.
        unscorable: why the scoring of a finished training failed.
        divisible: a step can be cut into more micro-batches.
        retry_failed: start again what failed or diverged for good.
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
    """What follows from a run directory's state and the launcher's report.

    Args:
        scored: every test that was asked for has its scores.
        unscorable: why the scoring of a finished training failed.
        locked: a process is writing the directory at this moment.
        retries_left: the run may be tried again.
        divisible: a step can be cut into more micro-batches.
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
    """Why an attempt did not end well: the run's own word before the launcher's, a user's before both. A run
    that was killed does not know what for; where it was memory the launcher does."""
    if exit in FINAL:
        return exit
    if state.state == "failed" and state.cause is not None:
        return exit if exit == "out-of-memory" and state.cause == "lost-worker" else state.cause
    if exit == "finished":
        words = {"done": unscorable or "not scored", "pending": state.cause or "interrupted"}
        return words.get(state.state, "lost-worker")
    return CAUSES.get(exit, exit)
