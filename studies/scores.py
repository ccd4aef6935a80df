"""A study's scores as one long table, and facts about its runs. Does not need torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.ablations.grid import AnyCell
from ablate.training.metrics.passport import KEY, OF_RUNS, SHOWN

from . import train_command
from .imported import is_imported
from .plan import Plan, run_of


@dataclass(frozen=True)
class RunInfo:
    """Facts about one run: state, curve and costs."""

    cell: str
    seed: int
    training: str = ""
    evaluation: str = ""
    state: str = "done"
    cause: str | None = None
    message: str | None = None
    step: int = 0
    steps: int | None = None
    seconds_per_step: float | None = None
    lost_steps: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    audio: Path | None = None
    scored: bool = False
    imported: bool = False
    curve_problem: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the run's training or scoring failed."""
        return self.state == "failed" or (self.state == "done" and self.cause is not None)

    @property
    def seconds(self) -> float | None:
        """Seconds of all its steps, including lost attempts; None if not timed."""
        each = self.summary.get("seconds_per_step") or self.seconds_per_step
        steps = self.step if self.state in ("diverged", "failed") else self.steps or self.step
        return each * (steps + self.lost_steps) if each and steps else None


Read = Callable[[AnyCell, int], tuple[RunInfo, Path]]
"""(cell, seed) -> facts about the run, and the path of its scores, which exist if it is scored."""


def scores_of_runs(plan: Plan, root: Path, test: int = 0) -> tuple[pd.DataFrame, list[RunInfo]]:
    """The scores of a plan's runs from their run directories, and facts about the runs.

    Args:
        test: index of the test set.

    Returns:
        A row per cell, seed and utterance: `cell`, a column per factor (empty for the baseline), `seed`,
        `training`, `status`, then the columns of the score files. A diverged run has one row without scores.
        A command's run with the same scores as another seed does not have rows.
    """

    same = same_scores(plan, root) if plan.train is not None else {}

    def read(cell: AnyCell, seed: int) -> tuple[RunInfo, Path]:
        run = run_of(root, cell, seed)
        state = run.state
        evaluation = cell.scored_as(seed)[test]
        path = run.scores_path(evaluation)
        told = run.failed_evaluation([evaluation]) or state
        info = RunInfo(
            cell=cell.name,
            seed=seed,
            training=run.signature,
            evaluation=evaluation,
            state=state.state,
            cause=told.cause,
            message=told.message,
            curve_problem=state.curve_problem,
            step=state.step,
            steps=state.steps,
            seconds_per_step=state.seconds_per_step,
            lost_steps=run.lost_steps,
            summary=run.summary,
            metrics=run.metrics(),
            audio=run.audio,
            scored=run.has_scores(evaluation),
            imported=is_imported(run),
        )
        if twin := same.get(f"{cell.name} seed {seed}"):
            info = replace(info, cause=train_command.SAME, message=twin, scored=False)
        return info, path

    return join_scores(plan, read)


def join_scores(plan: Plan, read: Read) -> tuple[pd.DataFrame, list[RunInfo]]:
    """The scores and facts of a plan's runs, each read by `read`; see `scores_of_runs`."""
    runs: list[RunInfo] = []
    tables: list[pa.Table] = []
    owners: list[tuple[AnyCell, RunInfo, int]] = []
    known: dict[Path, pa.Table] = {}
    for cell, seed in plan.runs:
        info, path = read(cell, seed)
        runs.append(info)
        if info.state == "diverged":
            owners.append((cell, info, 1))
            tables.append(pa.table({"utterance": pa.array([None], pa.string())}))
        elif info.scored:
            if path not in known:
                known[path] = _read_file(path)
            tables.append(known[path])
            owners.append((cell, info, known[path].num_rows))
    if any(run.scored for run in runs):
        return _frame(tables, owners, plan), runs
    columns = ["cell", *(factor.name for factor in plan.factors), "seed", "utterance", "pesq_wb", "status"]
    return pd.DataFrame({name: pd.Series(dtype="object") for name in columns}), runs


def _read_file(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        keep = [name for name in file.schema_arrow.names if name != "error"]
        return file.read(columns=keep, use_threads=False)


def _frame(tables: list[pa.Table], owners: list[tuple[AnyCell, RunInfo, int]], plan: Plan) -> pd.DataFrame:
    plain = [table.replace_schema_metadata(None) for table in tables]
    joined = pa.concat_tables(plain, promote_options="permissive")
    columns: dict[str, Any] = {}

    def spread(values: list[Any], categories: list[Any] | None = None) -> Any:
        """One value per run, repeated over its rows, as a categorical."""
        kinds = categories if categories is not None else list(dict.fromkeys(values))
        index = {value: code for code, value in enumerate(kinds)}
        codes = pd.Series([index.get(value, -1) for value in values], dtype="int32").to_numpy()
        return pd.Categorical.from_codes(codes.repeat(counts), categories=pd.Index(kinds, dtype="object"))

    counts = [rows for _, _, rows in owners]
    columns["cell"] = spread([cell.name for cell, _, _ in owners])
    for factor in plan.factors:
        levels = [cell.levels.get(factor.name) for cell, _, _ in owners]
        columns[factor.name] = spread(levels, list(factor.levels))
    columns["seed"] = pd.Series([run.seed for _, run, _ in owners], dtype="int64").repeat(counts).to_numpy()
    columns["training"] = spread([run.training for _, run, _ in owners])
    columns["status"] = spread(["diverged" if run.state == "diverged" else "done" for _, run, _ in owners])
    for name in joined.column_names:
        column = joined.column(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            encoded = column.cast(pa.string()).dictionary_encode().combine_chunks()
            if isinstance(encoded, pa.ChunkedArray):
                encoded = pa.concat_arrays(encoded.unify_dictionaries().chunks)
            codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            kinds = pd.Index(encoded.dictionary.to_pylist(), dtype="object")
            columns[name] = pd.Categorical.from_codes(codes, categories=kinds)
        else:
            columns[name] = column.to_numpy()
    frame = pd.DataFrame(columns)
    frame.attrs[OF_RUNS] = _passports(tables, owners)
    return frame


def _passports(tables: list[pa.Table], owners: list[tuple[AnyCell, RunInfo, int]]) -> list[dict[str, Any]]:
    """Each set of passports in the score files, with a few of the runs that have it; empty in old files."""
    runs: dict[bytes, list[str]] = {}
    for table, (_, run, _) in zip(tables, owners, strict=True):
        if run.scored:
            some = runs.setdefault((table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"), [])
            if len(some) < SHOWN:
                some.append(f"{run.cell} seed {run.seed}")
    return [{"passports": json.loads(attrs).get(KEY, {}), "runs": some} for attrs, some in runs.items()]


def same_scores(plan: Plan, root: Path) -> dict[str, str]:
    """Run -> sentence, for runs whose scores are, or were when scored, equal to those of another seed."""
    found: dict[str, str] = {}
    seen: dict[tuple[str, str], int] = {}
    for cell, seed in plan.runs:
        run = run_of(root, cell, seed)
        path, state = run.scores_path(cell.evaluations[seed]), run.state
        if state.cause == train_command.SAME and state.message:
            found[f"{cell.name} seed {seed}"] = state.message
        elif run.has_scores(cell.evaluations[seed]):
            first = seen.setdefault((cell.name, train_command.digest_of_scores(path)), seed)
            if first != seed:
                found[f"{cell.name} seed {seed}"] = f"its scores are those of seed {first} to the last digit"
    return found
