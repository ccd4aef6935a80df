"""The plan of a study: everything that a driver, a report or a mirror needs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from pydantic import AliasChoices, BeforeValidator, Field, PlainSerializer

from ablate.ablations.claims import Endpoint
from ablate.ablations.design import Kind
from ablate.ablations.factors import Factor
from ablate.ablations.grid import AnyCell, Cell, Config, Signatures
from ablate.ablations.runspec import Data, RunSpec
from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.training.config import BUILT_IN, EvaluationJob, RunConfig, TrainingProgram
from ablate.training.train_command.config import TrainingCommand

from ..study import FIRST_TUNING_SEED, Tuning

_FORMER_KINDS = {"one-in": "add-one", "one-out": "leave-one-out"}
_STORED_KINDS = {kind: former for former, kind in _FORMER_KINDS.items()}
StoredKind = Annotated[
    Kind,
    BeforeValidator(lambda kind: _FORMER_KINDS.get(kind, kind)),
    PlainSerializer(lambda kind: _STORED_KINDS.get(kind, kind)),
]
"""A kind of design; plans on disk store it under its original name."""
EXACT = 0.01
"""Maximum relative difference between a number of steps and the requested step budget."""


def _signatures(found: Signatures) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Signatures.model_fields}


def run_label(cell: str, seed: int, fraction: float = 1.0) -> str:
    """The name of a run in messages."""
    if seed >= FIRST_TUNING_SEED:
        return f"{cell} tuning trial {seed - FIRST_TUNING_SEED + 1}"
    return f"{cell} seed {seed}" + ("" if fraction == 1.0 else f" at {fraction:g}")


def steps_at(steps: int, fraction: float) -> int:
    """The number of steps nearest to a fraction of `steps`.

    Raises:
        InputError: that number differs from the fraction by more than 1 %, or is the full budget.
    """
    exact = fraction * steps
    found = math.floor(exact + 0.5)
    if found == steps:
        raise InputError(f"step fraction {fraction:g} of {steps:,} steps is the full budget; leave it out")
    if found < 1 or abs(found - exact) > EXACT * exact:
        low = math.floor(exact)
        fitting = " or ".join(f"{n / steps:.4g} ({n:,})" for n in (low, low + 1) if n not in (0, steps))
        raise InputError(
            f"step fraction {fraction:g} of {steps:,} steps is {exact:g} steps, not a whole number; "
            f"nearest fractions: {fitting}"
        )
    return found


class CorpusNote(Data):
    """The corpus as the plan records it."""

    kind: str
    is_demo: bool
    notes: tuple[str, ...] = ()
    train: int
    validation: int
    test: int


class ExtraTestSet(Frozen):
    """An extra test set as the plan records it."""

    name: str
    path: str
    digest: str
    files: int


class AuditRecord(Frozen):
    """The audit before training: findings and waived codes, or that it was skipped."""

    findings: tuple[dict[str, Any], ...] = ()
    waived: tuple[str, ...] = ()
    skipped: bool = False


class Look(Frozen):
    """An interim look at the intervals for `--target-half-width`.

    Attributes:
        seeds: largest number of seeds of a cell.
        trainings: number of runs of the study.
        target: the effect (or gap) with the widest interval.
        half_width: half-width of the target's interval; None if there are no intervals.
        time: time of the look, in seconds since the epoch.
    """

    seeds: int
    trainings: int
    target: str = ""
    half_width: float | None
    wanted: float
    time: float


class PlanChange(Frozen):
    """Changes of scoring or claims that were made after runs had scores, one line each."""

    time: float
    lines: tuple[str, ...]


class Plan(Frozen):
    """A resolved study.

    Attributes:
        seeds: union of the seeds of all cells.
        measures: metric of a plug-in -> `FACTS` of `training.metrics.registry`.
        step_fractions: further step budgets, as fractions of every cell's steps.
        step_fraction: step budget of the plan's cells: 1, or less in a plan made by `at`.
    """

    format: Literal[1] = 1
    name: str
    base: str
    baseline: str | None
    factors: tuple[Factor, ...]
    design: StoredKind
    aliases: tuple[str, ...] = ()
    constraints: tuple[dict[str, str], ...] = ()
    cells: tuple[AnyCell, ...]
    seeds: tuple[int, ...]
    recipe: str
    step_fractions: tuple[float, ...] = Field(
        default=(), validation_alias=AliasChoices("step_fractions", "lengths"), serialization_alias="lengths"
    )
    step_fraction: float = Field(
        default=1.0, validation_alias=AliasChoices("step_fraction", "length"), serialization_alias="length"
    )
    corpus: CorpusNote
    extra_test_sets: tuple[ExtraTestSet, ...] = Field(
        default=(),
        validation_alias=AliasChoices("extra_test_sets", "further_tests"),
        serialization_alias="further_tests",
    )
    endpoint: Endpoint
    tune: Tuning | None = None
    start_from: str | None = None
    plugins: dict[str, str | None] = Field(default_factory=dict)
    measures: dict[str, dict[str, str | float | bool | None]] = Field(default_factory=dict)
    train: TrainingCommand | None = None
    audit: AuditRecord = AuditRecord(skipped=True)
    looks: tuple[Look, ...] = ()
    changes: tuple[PlanChange, ...] = ()
    commands: tuple[str, ...] = ()
    git_commit: str | None = None
    machine: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    created: float

    def spec(self, cell: AnyCell, seed: int) -> RunSpec:
        return RunSpec(
            cell=cell.name,
            config=cell.config,
            seed=seed,
            data=self.corpus,
            start_from=cell.starts.get(seed),
            plugins=self.plugins,
            train=self.train,
        )

    @property
    def program(self) -> TrainingProgram:
        """The program that trains the cells."""
        return self.train or BUILT_IN

    @property
    def networks(self) -> tuple[Cell, ...]:
        """The cells that the built-in trainer trains; empty if a command trains them."""
        return cast("tuple[Cell, ...]", tuple(c for c in self.cells if isinstance(c.config, RunConfig)))

    @property
    def tuned(self) -> bool:
        """Whether all cells are tuned, or tuning is not requested."""
        return self.tune is None or all(cell.tuned is not None for cell in self.cells)

    def signed(self, more: Mapping[str, Collection[int]] = MappingProxyType({})) -> Plan:
        """This plan with the signatures of every cell x seed, plus those of `more` seeds by cell."""
        cells = []
        for cell in self.cells:
            signatures, evaluations, further = {}, {}, {}
            for seed in sorted({*cell.seeds, *more.get(cell.name, ())}):
                spec = self.spec(cell, seed)
                training, evaluation = spec.training_signature, spec.evaluation_signature
                signatures[seed], evaluations[seed] = training, evaluation
                if self.extra_test_sets:
                    further[seed] = tuple(
                        spec.evaluated_on(test.digest, training) for test in self.extra_test_sets
                    )
            signed = {"signatures": signatures, "evaluations": evaluations, "further": further}
            cells.append(cell.model_copy(update=signed))
        every = {cell.name: cell.seeds for cell in cells}
        shorter = {fraction: self.at(fraction).signed(every).cells for fraction in self.step_fractions}
        for index, cell in enumerate(cells):
            found = {fraction: Signatures(**_signatures(other[index])) for fraction, other in shorter.items()}
            cells[index] = cell.model_copy(update={"step_fractions": found})
        seeds = tuple(sorted({seed for cell in cells for seed in cell.seeds}))
        return self.model_copy(update={"cells": tuple(cells), "seeds": seeds})

    def at(self, fraction: float) -> Plan:
        """The plan at a step budget, with its first test set only.

        If the budget is not one of the plan's, the cells do not have signatures yet.

        Raises:
            InputError: no number of steps fits the budget.
        """
        if fraction == 1.0:
            return self

        def shortened(config: Config) -> Config:
            return config.with_changes({"recipe.steps": steps_at(config.steps or 0, fraction)})

        cells = tuple(
            cell.model_copy(
                update={
                    "config": shortened(cell.config),
                    "step_fractions": {},
                    **_signatures(cell.step_fractions.get(fraction, Signatures())),
                }
            )
            for cell in self.cells
        )
        return self.model_copy(
            update={"cells": cells, "step_fractions": (), "step_fraction": fraction, "extra_test_sets": ()}
        )

    def every_step_fraction(self) -> list[Plan]:
        """This plan, and those of its other step budgets."""
        return [self, *map(self.at, self.step_fractions)]

    @property
    def former_results(self) -> int | None:
        """The oldest results version of runs for which this code would give other results; None if none."""
        found = set()
        for cell in self.cells:
            for seed in cell.seeds[:1]:
                spec = self.spec(cell, seed)
                version = spec.results_version(cell.signatures[seed])
                if version is not None and version < spec.config.results_version:
                    found.add(version)
        return min(found, default=None)

    def cell(self, name: str) -> AnyCell:
        """The cell of a name. Raises InputError, with the known names, if it does not exist."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise InputError(f"study {self.name!r} has no cell {name!r}; its cells: {', '.join(self.cell_names)}")

    @property
    def runs(self) -> list[tuple[AnyCell, int]]:
        """Every cell x seed."""
        return [(cell, seed) for cell in self.cells for seed in cell.seeds]

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self.cells]

    @property
    def test_name(self) -> str:
        """Name of the first test set, on which verdicts are based."""
        path = self.corpus.test_path
        return self.corpus.name if path is None else Path(path).name

    def evaluation_jobs(self, cell: AnyCell, seed: int) -> list[EvaluationJob]:
        """The evaluations of a run, one for each test set, in the order of the test sets."""
        tests = [(self.corpus.test_path, self.corpus.test_digest)]
        tests += [(test.path, test.digest) for test in self.extra_test_sets]
        return [
            EvaluationJob(
                signature=signature, evaluation=cell.config.evaluation, test_path=path, test_digest=digest
            )
            for signature, (path, digest) in zip(cell.scored_as(seed), tests, strict=True)
        ]
