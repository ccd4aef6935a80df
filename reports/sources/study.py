"""Scores and facts of a study, read from its run directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.ablations.factors import Factor
from ablate.ablations.grid import AnyCell
from ablate.studies.energy import recorded
from ablate.studies.ensembles import Ensemble, stored
from ablate.studies.plan import Plan, load, study_path
from ablate.studies.scores import RunInfo, scores_of_runs


@dataclass(frozen=True, eq=False)
class StepBudgetScores:
    """Scores and runs of a study at another step budget."""

    scores: pd.DataFrame
    runs: Sequence[RunInfo]


@dataclass(frozen=True)
class StudyInfo:
    """Facts about a study for its report.

    Attributes:
        base: the level of every factor in the all-off cell.
        baseline: the reference cell.
        plan: None if the runs were trained elsewhere.
        step_fractions: scores at other step budgets, by fraction.
        further: extra test set -> its scores, if any.
        not_evaluated: extra test set -> runs whose evaluation on it failed.
        no_further: why the source lacks scores on extra test sets; or empty.
        ensembles: cell -> scores of its seed ensemble.
        energy: kind of counter -> joules that this machine used during training.
        notes: assumptions about a table from elsewhere.
    """

    name: str
    source: str
    base: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None
    plan: Plan | None = None
    runs: Sequence[RunInfo] = ()
    step_fractions: Mapping[float, StepBudgetScores] = field(default_factory=dict)
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    not_evaluated: Mapping[str, Sequence[RunInfo]] = field(default_factory=dict)
    no_further: str = ""
    ensembles: Mapping[str, Ensemble] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan, runs: Sequence[RunInfo], source: str, **more: Any) -> StudyInfo:
        """Facts about a study that was planned here."""
        base = {factor.name: factor.off for factor in plan.factors}
        baseline = next((cell.name for cell in plan.cells if not cell.levels), None)
        return cls(plan.name, source, base, baseline, plan, runs, **more)

    @cached_property
    def cells(self) -> dict[str, AnyCell]:
        """The plan's cells by name."""
        return {cell.name: cell for cell in self.plan.cells} if self.plan else {}

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.plan.factors if self.plan else ()

    @property
    def is_demo(self) -> bool:
        return self.plan is not None and self.plan.corpus.is_demo

    @property
    def every_run(self) -> list[RunInfo]:
        """The runs of all step budgets."""
        return [*self.runs, *(run for found in self.step_fractions.values() for run in found.runs)]

    def steps(self, fraction: float) -> tuple[int, ...]:
        """Numbers of steps of the runs at a step budget; several if a factor changes the steps."""
        cells = self.plan.at(fraction).cells if self.plan else ()
        return tuple(sorted({cell.config.steps or 0 for cell in cells}))

    @cached_property
    def by_cell(self) -> dict[str, list[RunInfo]]:
        """The runs of each cell."""
        found: dict[str, list[RunInfo]] = {}
        for run in self.runs:
            found.setdefault(run.cell, []).append(run)
        return found


def scores_from_study(root: Path | str, name: str | None = None) -> tuple[pd.DataFrame, StudyInfo]:
    """The scores of every planned run that has scores, and facts about the study.

    Args:
        name: name of the study. Default: the most recent.

    Raises:
        InputError: the study does not exist, or its plan is damaged or has a later format.
    """
    root = Path(root)
    plan = load(root, name)
    scores, runs = scores_of_runs(plan, root)
    others = {at.step_fraction: scores_of_runs(at, root) for at in plan.every_step_fraction()[1:]}
    further, not_evaluated = {}, {}
    for place, test in enumerate(plan.extra_test_sets, start=1):
        table, scored = scores_of_runs(plan, root, place)
        if any(run.scored for run in scored):
            further[test.name] = table
        not_evaluated[test.name] = [run for run in scored if run.state == "done" and run.cause]
    folder = study_path(root, plan.name)
    return scores, StudyInfo.of(
        plan,
        runs,
        str(folder),
        step_fractions={fraction: StepBudgetScores(*found) for fraction, found in others.items()},
        further=further,
        not_evaluated=not_evaluated,
        ensembles=stored(plan, root),
        energy=recorded(folder),
    )
