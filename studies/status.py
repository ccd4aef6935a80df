"""The state of a study, read from its run directories."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from .plan import Plan, is_done, run_of


def status(plan: Plan, root: Path) -> dict[str, Any]:
    """The state of a study: `{"study", "runs": [...], "counts": {...}, "seconds_left", "time"}`.

    Each of `runs` has cell, seed, step_fraction, state, attempts, step, steps, val_pesq_wb, seconds_per_step,
    seconds, evaluation, evaluation_attempts, cause, message, curve_problem and run (the training signature).
    A run whose process is gone counts as pending.

    `evaluation` is done, pending or failed. If it failed, cause and message are the evaluation's, the state
    stays done, and `counts` has "evaluation failed". `curve_problem` is the reason why an expected curve is
    missing.
    """
    runs = []
    for at in plan.every_step_fraction():
        for cell, seed in at.runs:
            run = run_of(root, cell, seed)
            state = run.state
            name: str = state.state
            cause, message = state.cause, state.message
            whole = is_done(root, cell, seed)
            failed = None if whole else run.failed_evaluation(cell.scored_as(seed))
            evaluation = "failed" if failed else "pending"
            if failed is not None:
                cause, message = failed.cause, failed.message
            elif name == "running" and not run.locked:
                name, cause = "pending", "interrupted"
            elif whole:
                evaluation = "done"
            elif name == "done":
                name = "running" if run.locked else "pending"
            runs.append(
                {
                    "cell": cell.name,
                    "seed": seed,
                    "step_fraction": at.step_fraction,
                    "state": name,
                    "attempts": state.attempts,
                    "step": state.step,
                    "steps": state.steps or cell.config.steps,
                    "val_pesq_wb": state.val_pesq_wb,
                    "seconds_per_step": state.seconds_per_step,
                    "seconds": state.finished and state.started and state.finished - state.started,
                    "evaluation": evaluation,
                    "evaluation_attempts": failed.attempts if failed else None,
                    "cause": cause,
                    "message": message,
                    "curve_problem": state.curve_problem,
                    "run": run.signature,
                }
            )
    return {
        "study": plan.name,
        "runs": runs,
        "counts": dict(Counter(shown_state(run) for run in runs)),
        "seconds_left": seconds_left(runs),
        "time": time.time(),
    }


def shown_state(run: dict[str, Any]) -> str:
    """The state of one of the `runs` in a word."""
    return "evaluation failed" if run["evaluation"] == "failed" else run["state"]


def seconds_left(runs: list[dict[str, Any]]) -> float | None:
    """Remaining training time at the known rates, with as many runs at once as now; None without a rate."""
    rates: dict[str, list[float]] = {}
    for run in runs:
        if run["seconds_per_step"]:
            rates.setdefault(run["cell"], []).append(run["seconds_per_step"])
    if not rates:
        return None
    every = [rate for cell in rates.values() for rate in cell]
    ahead, usual = 0.0, max((run["steps"] for run in runs if run["steps"]), default=0)
    for run in runs:
        if run["state"] in ("pending", "running"):
            known = rates.get(run["cell"], every)
            ahead += max(0, (run["steps"] or usual) - run["step"]) * sum(known) / len(known)
    return ahead / max(1, sum(run["state"] == "running" for run in runs))
