"""The plan of a study: cells, seeds, signatures; on disk as `studies/<name>/plan.json`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ablate.ablations.claims import Endpoint
from ablate.ablations.factors import Factor
from ablate.ablations.grid import Cell, Design, safe_name
from ablate.ablations.runspec import Data, RunSpec, run_path
from ablate.models.config import Frozen
from ablate.training.config import EvaluationJob, RunConfig
from ablate.training.provenance import git_commit, machine
from ablate.training.rundir import RunDir, read_json, write_json

from .request import Request, Tuning

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus

FORMAT = 1


class PlannedCell(Cell):
    """A cell with its size and the signatures of its runs by seed (JSON keys are text)."""

    parameters: int
    signatures: dict[int, str] = Field(default_factory=dict)
    evaluations: dict[int, str] = Field(default_factory=dict)
    starts: dict[int, dict[str, str]] = Field(default_factory=dict)
    tuned: dict[str, float] | None = None


class CorpusNote(Data):
    """The corpus as the plan records it."""

    kind: str
    is_demo: bool
    notes: tuple[str, ...] = ()
    train: int
    validation: int
    test: int


class AuditRecord(Frozen):
    """What the audit found before training, which codes were waived, or that it was skipped."""

    findings: tuple[dict[str, Any], ...] = ()
    waived: tuple[str, ...] = ()
    skipped: bool = False


class Plan(Frozen):
    """A study, resolved. Everything a driver, a report or a mirror needs to know of it."""

    format: int = FORMAT
    name: str
    base: str
    baseline: str | None
    factors: tuple[Factor, ...]
    design: Design
    aliases: tuple[str, ...] = ()
    constraints: tuple[dict[str, str], ...] = ()
    cells: tuple[PlannedCell, ...]
    seeds: tuple[int, ...]
    recipe: str
    corpus: CorpusNote
    endpoint: Endpoint
    tune: Tuning | None = None
    start_from: str | None = None
    plugins: tuple[str, ...] = ()
    audit: AuditRecord = AuditRecord(skipped=True)
    looks: tuple[dict[str, Any], ...] = ()
    git_commit: str | None = None
    machine: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    created: float

    @model_validator(mode="before")
    @classmethod
    def _of_version_0_1(cls, fields: Any) -> Any:
        """The margin stood beside the endpoint too."""
        if isinstance(fields, Mapping):
            return {name: value for name, value in fields.items() if name != "margin"}
        return fields

    def spec(self, cell: PlannedCell, seed: int) -> RunSpec:
        return RunSpec.of(cell, seed, self.data, start_from=cell.starts.get(seed), plugins=self.plugins)

    @property
    def data(self) -> Data:
        return Data.model_validate(self.corpus.model_dump(include=set(Data.model_fields)))

    @property
    def tuned(self) -> bool:
        """Whether the cells are ready to train the study's seeds."""
        return self.tune is None or all(cell.tuned is not None for cell in self.cells)

    def with_seeds(self, seeds: tuple[int, ...], root: Path) -> Plan:
        """This plan with more seeds; those it has stay.

        Raises:
            FileNotFoundError: a checkpoint that the new seeds start from is missing.
        """
        more = [seed for seed in seeds if seed not in self.seeds]
        cells = self.cells
        if self.start_from is not None:
            cells = tuple(
                cell.model_copy(
                    update={"starts": cell.starts | {s: find_start(self, cell, s, root) for s in more}}
                )
                for cell in cells
            )
        return self.model_copy(
            update={"seeds": tuple(sorted({*self.seeds, *seeds})), "cells": cells}
        ).signed()

    def signed(self) -> Plan:
        """This plan with the signatures of every cell x seed computed from its fields."""
        plan = self
        cells = []
        for cell in plan.cells:
            specs = {seed: plan.spec(cell, seed) for seed in plan.seeds}
            cells.append(
                cell.model_copy(
                    update={
                        "signatures": {seed: s.training_signature for seed, s in specs.items()},
                        "evaluations": {seed: s.evaluation_signature for seed, s in specs.items()},
                    }
                )
            )
        return plan.model_copy(update={"cells": tuple(cells)})

    def cell(self, name: str) -> PlannedCell:
        """Raises ValueError, naming the cells there are, where none has that name."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise ValueError(f"study {self.name!r} has no cell {name!r}; its cells: {', '.join(self.cell_names)}")

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self.cells]

    def evaluation_job(self, cell: PlannedCell, seed: int) -> EvaluationJob:
        return EvaluationJob(
            signature=cell.evaluations[seed],
            evaluation=cell.config.evaluation,
            test_path=self.corpus.test_path,
            test_digest=self.corpus.test_digest,
        )


class PlanChangedError(Exception):
    """A study of that name has another plan; the message shows the differences."""


def study_path(root: Path, name: str) -> Path:
    """`<root>/studies/<name>`; raises ValueError where the name could leave that folder."""
    return root / "studies" / safe_name(name, "study")


def load(root: Path, name: str) -> Plan:
    """The plan of a study on disk.

    Raises:
        FileNotFoundError: there is no such study; the message lists those there are.
    """
    data = read_json(study_path(root, name) / "plan.json")
    if data is None:
        known = ", ".join(names(root)) or "none"
        raise FileNotFoundError(f"no study {name!r} under {root}; studies there: {known}")
    return Plan.model_validate(data)


def names(root: Path) -> list[str]:
    """The studies under a root, the one written last first."""
    plans = (root / "studies").glob("*/plan.json")
    return [path.parent.name for path in sorted(plans, key=lambda p: p.stat().st_mtime, reverse=True)]


def latest(root: Path) -> str:
    """The name of the study written last; raises FileNotFoundError where there is none."""
    known = names(root)
    if not known:
        raise FileNotFoundError(f"no study under {root}; start one with ablate run --grid ...")
    return known[0]


def save(plan: Plan, root: Path) -> None:
    path = study_path(root, plan.name)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "plan.json", plan.model_dump(mode="json"))


def merge(old: Plan, new: Plan, root: Path) -> Plan:
    """The plan on disk joined with the one asked for: more seeds extend it, what the audit said stays.

    Raises:
        PlanChangedError: they differ in anything but seeds.
    """
    differences = compare(old, new)
    if differences:
        raise PlanChangedError(
            f"study {old.name!r} has another plan:\n  "
            + "\n  ".join(differences)
            + "\nGive the new one a name of its own with --study NAME."
        )
    return old.with_seeds(new.seeds, root)


def compare(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans beyond their seeds, one line each, old -> new."""
    lines = [
        f"{field}: {_short(getattr(old, field))} -> {_short(getattr(new, field))}"
        for field in ("base", "baseline", "design", "constraints", "endpoint", "start_from", "tune")
        if getattr(old, field) != getattr(new, field)
    ]
    lines += [
        f"corpus {field}: {getattr(old.corpus, field)} -> {getattr(new.corpus, field)}"
        for field in ("name", "digest", "test_digest")
        if getattr(old.corpus, field) != getattr(new.corpus, field)
    ]
    lines += [f"plugins: {old.plugins} -> {new.plugins}"] if old.plugins != new.plugins else []
    factors = {factor.name: factor for factor in old.factors}
    lines += [
        f"factor {factor.name}: its {field} changed"
        for factor in new.factors
        if factor.name in factors
        for field in ("levels", "claims", "declares")
        if getattr(factor, field) != getattr(factors[factor.name], field)
    ]
    before = {cell.name: cell for cell in old.cells}
    after = {cell.name: cell for cell in new.cells}
    lines += [f"cell {name}: gone" for name in before if name not in after]
    lines += [f"cell {name}: new" for name in after if name not in before]
    changed: dict[str, list[str]] = {}
    for name in before.keys() & after.keys():
        tuned = set(before[name].tuned or ())
        a, b = before[name].config, after[name].config
        fields = {**a.result_fields(), **_evaluation(a)}
        others = {**b.result_fields(), **_evaluation(b)}
        for path in fields:
            if fields[path] != others[path] and path not in tuned:
                changed.setdefault(f"{path}: {fields[path]!r} -> {others[path]!r}", []).append(name)
    return lines + [f"{change} ({len(cells)} cells)" for change, cells in sorted(changed.items())]


def _evaluation(config: RunConfig) -> dict[str, Any]:
    return {path: value for path, value in config.flat().items() if path.startswith("evaluation.")}


def _short(value: Any) -> str:
    return str(value.model_dump(mode="json") if isinstance(value, Frozen) else value)


def make(request: Request, root: Path) -> tuple[Plan, Corpus]:
    """Resolve a request: open its corpus, build its cells, count their parameters, sign every run.

    Raises:
        ValueError, FileNotFoundError: the grid, a setting or the data is wrong; nothing is written.
    """
    grid = request.grid
    cells = grid.cells()
    from ablate.training.data.corpus import Corpus

    corpus = Corpus.open(request.data, cache=cache_path(root), test_data=request.test_data)
    note = CorpusNote(
        path=_absolute(request.data),
        name=corpus.name,
        digest=corpus.digest,
        test_path=request.test_data and _absolute(request.test_data),
        test_digest=corpus.test_digest,
        kind=corpus.kind,
        is_demo=corpus.is_demo,
        notes=tuple(corpus.notes),
        train=len(corpus.train),
        validation=len(corpus.validation),
        test=len(corpus.test),
    )
    planned = tuple(
        PlannedCell(
            name=cell.name,
            levels=cell.levels,
            config=in_steps(cell.config, len(corpus.train)),
            parameters=parameters(cell),
        )
        for cell in cells
    )
    plan = Plan(
        name=safe_name(request.study or default_name(request, corpus.name), "study"),
        base=request.base,
        baseline=request.baseline,
        factors=request.factors,
        design=request.design,
        aliases=tuple(grid.aliases()),
        constraints=request.constraints,
        cells=planned,
        seeds=(),
        recipe=request.recipe,
        corpus=note,
        endpoint=request.endpoint,
        tune=request.tune,
        start_from=request.start_from,
        plugins=tuple(str(Path(p).resolve()) for p in request.plugins),
        git_commit=git_commit(Path.cwd()),
        machine=machine(),
        versions={name: version(name) for name in ("ablate", "torch", "numpy", "optuna", "mlflow")},
        created=time.time(),
    )
    return plan.with_seeds(request.seeds, root), corpus


def parameters(cell: Cell) -> int:
    """How many parameters the network of a cell has, by building it."""
    from ablate.models import build_model

    return sum(parameter.numel() for parameter in build_model(cell.config.model).parameters())


def in_steps(config: RunConfig, train_files: int) -> RunConfig:
    """The configuration with the recipe's epochs expressed in steps of this corpus.

    Raises:
        ValueError: the recipe gives neither steps nor epochs.
    """
    recipe = config.recipe
    if recipe.steps is None and recipe.epochs is None:
        raise ValueError(f"recipe {recipe.name!r} gives neither steps nor epochs; set recipe.steps")
    steps = recipe.steps or math.ceil(recipe.epochs * train_files / recipe.batch_size)  # type: ignore[operator]
    return config.with_changes({"recipe.steps": steps, "recipe.epochs": None})


def find_start(plan: Plan, cell: Cell, seed: int, root: Path) -> dict[str, str]:
    """The checkpoint that `--from` names for a cell x seed, with the digest of its content.

    `best` and `latest` are those of the same cell, network and seed in the study written last.

    Raises:
        FileNotFoundError: there is none.
    """
    if plan.start_from not in ("best", "latest"):
        path = Path(str(plan.start_from))
        if not path.is_file():
            raise FileNotFoundError(f"--from {plan.start_from}: no such checkpoint file")
        return {"path": str(path.resolve()), "digest": sha256(path.read_bytes()).hexdigest()}
    for name in names(root):
        other = load(root, name)
        for candidate in other.cells if name != plan.name else ():
            if (candidate.name, candidate.config.model) == (cell.name, cell.config.model):
                signature = candidate.signatures.get(seed, "none")
                path = RunDir(run_path(root, signature)).checkpoints / f"{plan.start_from}.pt"
                if path.is_file():
                    return {"path": str(path.resolve()), "digest": sha256(path.read_bytes()).hexdigest()}
    raise FileNotFoundError(
        f"--from {plan.start_from}: no other study under {root} has a checkpoint "
        f"of cell {cell.name!r}, seed {seed}"
    )


def default_name(request: Request, corpus: str) -> str:
    """A study's name from its base, grid, recipe and corpus; long ones are cut and end in a digest."""
    factors = [
        f.name if set(f.levels) == {"off", "on"} else f"{f.name}={'.'.join(f.levels)}"
        for f in request.factors
    ]
    name = "-".join([request.base, "+".join(factors), request.recipe, corpus])
    name = "".join(c if c.isalnum() or c in "_.+=,-" else "_" for c in name)
    return name if len(name) <= 120 else f"{name[:110]}-{sha256(name.encode()).hexdigest()[:8]}"


def cache_path(root: Path) -> Path:
    """Where resampled corpora and the demo corpus are kept."""
    return root / "cache"


def run_dirs(plan: Plan, root: Path) -> dict[tuple[str, int], RunDir]:
    """The run directory of every cell x seed."""
    return {
        (cell.name, seed): RunDir(run_path(root, cell.signatures[seed]))
        for cell in plan.cells
        for seed in plan.seeds
    }


def is_done(plan: Plan, root: Path, cell: PlannedCell, seed: int) -> bool:
    """Whether a cell x seed is trained and scored."""
    run = RunDir(run_path(root, cell.signatures[seed]))
    return run.state.state == "done" and run.scores_path(cell.evaluations[seed]).exists()


def _absolute(path: str) -> str:
    return path if path == "demo" else str(Path(path).resolve())
