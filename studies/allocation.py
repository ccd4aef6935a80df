"""The runs to add that narrow a study's intervals most per hour."""

from __future__ import annotations

from pathlib import Path

from ablate.ablations.inference.allocation import Allocation, allocate
from ablate.models.errors import InputError, listed

from .analysis import analyze_study
from .plan import Plan
from .power import hours_per_run
from .scores import RunInfo, scores_of_runs


def next_trainings(
    plan: Plan, root: Path, *, width: float | None = None, count: int = 10, max_seeds: int | None = None
) -> Allocation:
    """The runs to add, most useful first; see `allocate`.

    Raises:
        InputError: the study or one of its cells does not have a scored run yet, or the width is not above 0.
    """
    table, runs = scores_of_runs(plan, root)
    if not any(run.scored for run in runs):
        raise InputError(f"no run of {plan.name!r} has scores yet; train its first seeds with ablate run")
    ended = {run.cell for run in runs if run.scored or run.failed or run.state == "diverged"}
    if pending := sorted({run.cell for run in runs} - ended):
        raise InputError(f"no run of {listed(pending)} has scores yet; train planned runs with ablate run")
    return allocate(
        analyze_study(plan, table),
        hours=hours_of(plan, runs),
        width=width,
        count=count,
        max_seeds=max_seeds,
        failed=failed_of(runs),
    )


def failed_of(runs: list[RunInfo]) -> dict[str, list[int]]:
    """Cell -> seeds that failed."""
    failed: dict[str, list[int]] = {}
    for run in runs:
        if run.failed:
            failed.setdefault(run.cell, []).append(run.seed)
    return failed


def hours_of(plan: Plan, runs: list[RunInfo]) -> dict[str, float] | None:
    """Hours of a run of each cell (the study's median for a cell without times); None if none has times."""
    usual = hours_per_run(runs)
    if usual is None:
        return None
    by_cell: dict[str, list[RunInfo]] = {name: [] for name in plan.cell_names}
    for run in runs:
        by_cell[run.cell].append(run)
    return {name: hours_per_run(own) or usual for name, own in by_cell.items()}
