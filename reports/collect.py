"""Scores and what is known of a study: from run directories, a file, or an MLflow server."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ablate.models.registry import suggestion
from ablate.studies.plan import Plan, PlannedCell, load, study_path
from ablate.studies.plan.store import read as read_plan
from ablate.studies.scores import RunInfo, join_scores, read_scores
from ablate.training.metrics.registry import METRICS
from ablate.training.rundir import read_json

from .ingest import parse_levels, same_level

KEYS = ("cell", "seed", "utterance")
DETAILS = ("speaker", "snr", "noise", "training", "status")


@dataclass(frozen=True)
class StudyInfo:
    """What a report says beside the numbers. `plan` is a study's `plan.json`; empty for a file."""

    name: str
    source: str
    base: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    runs: Sequence[RunInfo] = ()

    @cached_property
    def cells(self) -> dict[str, Mapping[str, Any]]:
        """The plan's cells by name."""
        return {cell["name"]: cell for cell in self.plan.get("cells", [])}

    @property
    def factors(self) -> list[Mapping[str, Any]]:
        return list(self.plan.get("factors", []))

    @property
    def corpus(self) -> Mapping[str, Any]:
        return self.plan.get("corpus") or {}

    @property
    def is_demo(self) -> bool:
        return bool(self.corpus.get("is_demo"))

    @property
    def metric(self) -> str:
        return (self.plan.get("endpoint") or {}).get("metric", "pesq_wb")

    @property
    def margin(self) -> float | None:
        """Of the endpoint; None: its metric's own."""
        return (self.plan.get("endpoint") or {}).get("margin")

    def of_cell(self, cell: str) -> list[RunInfo]:
        return [run for run in self.runs if run.cell == cell]


# ---------------------------------------------------------------------------------------- studies


def scores_from_study(root: Path | str, name: str | None = None) -> tuple[pd.DataFrame, StudyInfo]:
    """The scores of every planned run that has them, and what is known of the study.

    Args:
        root: directory of `studies/` and `runs/`.
        name: of the study; none: the most recent one.

    Raises:
        InputError: no such study, or its plan is damaged or of a later format.
    """
    plan = load(Path(root), name)
    scores, runs = read_scores(plan, Path(root))
    return scores, _info(plan, runs, source=str(study_path(Path(root), plan.name)))


def scores_from_mlflow(
    tracking_uri: str, experiment: str, study: str | None = None
) -> tuple[pd.DataFrame, StudyInfo]:
    """The scores of a study that was mirrored to an MLflow server; no run directory is needed.

    Args:
        tracking_uri: of the server or database.
        experiment: its name.
        study: name of the parent run; none: the most recent parent run that has a plan.

    Raises:
        ValueError: no such experiment, or no parent run with a plan in it.
    """
    from mlflow.exceptions import MlflowException

    from ablate.studies.tracking import connect, redact

    client = connect(tracking_uri)
    shown = redact(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
        raise ValueError(f"no experiment {experiment!r} at {shown} (there: {known})")

    def search(filter_string: str) -> list[Any]:
        runs: list[Any] = []
        token = None
        while True:
            page = client.search_runs(
                [found.experiment_id],
                filter_string,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    everything = search("")
    parents = [run for run in everything if "mlflow.parentRunId" not in run.data.tags]
    if study is not None:
        parents = [run for run in parents if run.info.run_name == study]
    with tempfile.TemporaryDirectory() as scratch:

        def download(run_id: str, path: str) -> Path | None:
            target = Path(scratch) / run_id
            target.mkdir(exist_ok=True)
            try:
                return Path(client.download_artifacts(run_id, path, str(target)))
            except (MlflowException, OSError):
                return None

        plan, parent = None, None
        for run in parents:
            if path := download(run.info.run_id, "plan.json"):
                plan, parent = read_plan(path), run
                break
        if plan is None or parent is None:
            named = f" named {study!r}" if study else ""
            raise ValueError(f"no run{named} with a plan.json in experiment {experiment!r} at {shown}")
        children = {
            (run.data.tags.get("ablate.cell", ""), run.data.tags.get("ablate.seed", "")): run
            for run in reversed(everything)
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        }

        def run_of(cell: PlannedCell, seed: int) -> tuple[RunInfo, Path]:
            child = children.get((cell.name, str(seed)))
            missing = Path(scratch) / "missing"
            signatures = cell.signatures[seed], cell.evaluations[seed]
            if child is None:
                return RunInfo(cell.name, seed, *signatures, state="pending"), missing
            run_id = child.info.run_id
            scores = download(run_id, "scores.parquet")
            summary = download(run_id, "summary.json")
            metrics = download(run_id, "metrics.jsonl")
            tags = child.data.tags
            state = tags.get("ablate.state") or _state_of(child.info.status, scores is not None)
            info = RunInfo(
                cell=cell.name,
                seed=seed,
                training=tags.get("ablate.signature", signatures[0]),
                evaluation=signatures[1],
                state=state,
                cause=tags.get("ablate.cause"),
                summary=read_json(summary) if summary else {},
                metrics=_lines(metrics) if metrics else [],
                scored=scores is not None,
            )
            return info, scores or missing

        scores, infos = join_scores(plan, run_of)
        return scores, _info(plan, infos, source=f"{shown}, experiment {experiment}")


def _state_of(status: str, scored: bool) -> str:
    if scored:
        return "done"
    return {"FAILED": "failed", "RUNNING": "running", "KILLED": "failed"}.get(status, "pending")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _info(plan: Plan, runs: Sequence[RunInfo], source: str) -> StudyInfo:
    return StudyInfo(
        name=plan.name,
        source=source,
        base={factor.name: factor.off for factor in plan.factors},
        baseline=next((cell.name for cell in plan.cells if not cell.levels), None),
        plan=plan.model_dump(mode="json"),
        runs=runs,
    )


# ------------------------------------------------------------------------------------------ files


def scores_from_file(
    path: Path | str,
    base: Mapping[str, str] | str,
    baseline: str | None = None,
    metric: str = "pesq_wb",
) -> tuple[pd.DataFrame, StudyInfo]:
    """Scores of results trained elsewhere: CSV or parquet, a row per cell, seed and utterance.

    Args:
        path: a table with `cell`, one column per factor (empty for the baseline), `seed`,
            `utterance`, the metric; optional `speaker`, `snr`, `noise`, `training`, `status`.
        base: the level of every factor in the all-off cell.
        baseline: name of the reference cell; none: no gap is reported.
        metric: the column that must be there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, the base names no cell, or the baseline is not in the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no scores file {path}")
    levels = parse_levels(base) if isinstance(base, str) else dict(base)
    if not levels:
        raise ValueError('the base is empty: name every factor\'s off level, e.g. --base "bidirectional=off"')
    frame = _read_table(path, levels)
    missing = [name for name in (*KEYS, *levels, metric) if name not in frame.columns]
    if missing:
        have = ", ".join(map(str, frame.columns))
        raise ValueError(f"{path} lacks {_columns(missing)}; it has {have}")
    if not pd.api.types.is_numeric_dtype(frame[metric]):
        raise ValueError(f"{path}: column {metric!r} is not numeric, e.g. {frame[metric].dropna().iloc[0]!r}")
    for name, level in levels.items():
        there = [str(known) for known in frame[name].dropna().unique()]
        levels[name] = same_level(level, there) or level
    cells = frame[["cell", *levels]].drop_duplicates()
    doubled = cells.loc[cells["cell"].duplicated(), "cell"]
    if len(doubled):
        raise ValueError(f"{path}: cell {doubled.iloc[0]!r} has rows with different factor levels")
    rows = cells
    for name, level in levels.items():
        rows = rows[rows[name] == level]
    names = [str(name) for name in cells["cell"]]
    if rows.empty:
        known = {name: sorted(map(str, cells[name].dropna().unique())) for name in levels}
        raise ValueError(
            f"{path}: no base cell with {_levels(levels)}; levels in the file: "
            + "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
        )
    if baseline is not None and baseline not in names:
        raise ValueError(f"{path}: no cell {baseline!r}{suggestion(baseline, names)}")
    pairs = frame[["cell", "seed"]].drop_duplicates()
    diverged: set[tuple[str, int]] = set()
    if "status" in frame.columns:
        bad = sorted(set(map(str, frame["status"].dropna().unique())) - {"done", "diverged"})
        if bad:
            raise ValueError(f"{path}: status {bad[0]!r} is neither done nor diverged")
        gone = frame.loc[frame["status"] == "diverged", ["cell", "seed"]].drop_duplicates()
        diverged = {(str(c), int(s)) for c, s in zip(gone["cell"], gone["seed"], strict=True)}
    runs = [
        RunInfo(
            str(cell),
            int(seed),
            state="diverged" if (str(cell), int(seed)) in diverged else "done",
            scored=(str(cell), int(seed)) not in diverged,
        )
        for cell, seed in zip(pairs["cell"], pairs["seed"], strict=True)
    ]
    return frame, StudyInfo(path.stem, str(path), levels, baseline, runs=runs)


def _read_table(path: Path, levels: Mapping[str, str]) -> pd.DataFrame:
    texts = ("cell", "utterance", "speaker", "noise", "training", "status", *levels)
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            options = pacsv.ConvertOptions(
                column_types={name: pa.string() for name in texts},
                strings_can_be_null=True,
                null_values=["", "nan", "NaN", "NA", "null"],
            )
            table = pacsv.read_csv(path, convert_options=options)
        elif suffix == ".parquet":
            table = pq.read_table(path)
        else:
            raise ValueError(
                f"{path}: scores are read from .csv or .parquet, not {suffix or 'a bare name'!r}"
            )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    frame = table.to_pandas()
    for name in texts:
        if name in frame.columns:
            column = frame[name]
            if not isinstance(column.dtype, pd.CategoricalDtype):
                empty = column.isna() | (column.astype("string") == "")
                column = column.astype("string").astype("object").mask(empty)
            frame[name] = pd.Categorical(column, categories=column.dropna().unique())
    if "seed" in frame.columns:
        seeds = pd.to_numeric(frame["seed"], errors="coerce")
        if seeds.isna().any():
            wrong = frame.loc[seeds.isna(), "seed"].iloc[0]
            raise ValueError(f"{path}: seed {wrong!r} is not a whole number")
        frame["seed"] = seeds.astype("int64")
    return frame


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The score columns of a frame, the known ones first."""
    return [name for name in METRICS if name in frame.columns and frame[name].notna().any()]


def snr_label(value: Any) -> str:
    """A signal-to-noise ratio as a table prints it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unknown"
    return re.sub(r"\.0$", "", f"{value}") + " dB"


def _columns(names: Sequence[str]) -> str:
    return ("column " if len(names) == 1 else "columns ") + ", ".join(map(repr, names))


def _levels(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={level}" for name, level in levels.items())
