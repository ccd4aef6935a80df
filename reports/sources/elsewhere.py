"""Reads results trained elsewhere as a table: trackers' exports, folders and servers, and VERSA's output."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ablate.models.errors import InputError, listed
from ablate.models.registry import suggestion
from ablate.training.curves import CurveFormat
from ablate.training.event_files import wandb_run

from .columns import CURVE, OTHER_NAMES, curve_name
from .logs import read_logs
from .patterns import FIELD, FoundPath, places

Take = Literal["last", "max", "min"]
"""The value of a curve to use for a run."""
MLFLOW = "mlflow:"
LOG = ".log"
"""Suffix of the logs that `sources.logs` reads."""
RUN_NAME = "run_name"
"""Column that joins the two tables that autrainer writes for an experiment."""
TEXTS = ("cell", "utterance", "speaker", "noise", "training", "status")
"""Columns to read as text even if they look like numbers."""


def table_of(what: str, metric: str, take: Take, tracking_uri: str | None = None) -> pd.DataFrame:
    """A table of runs, or of runs and utterances.

    Args:
        what: a table (`.csv`, `.tsv`, `.parquet`, `.jsonl`); a pattern with fields, whose files are tables,
            VERSA's JSON lines, or curves (TensorBoard events, offline runs of W&B, JSON, an old log); a
            pattern without fields of offline runs of W&B, whose settings become columns; or
            `mlflow:EXPERIMENT`.
        metric: the metric, also in curves.
        take: whether to take the last, highest or lowest value of a curve.
        tracking_uri: tracking URI of the MLflow server.

    Raises:
        InputError: there are no such results, or they cannot be read.
    """
    if what.startswith(MLFLOW):
        if tracking_uri is None:
            raise InputError(f"{what} needs --tracking-uri, the server or database of the experiment")
        return mlflow_runs(tracking_uri, what.removeprefix(MLFLOW), metric, take)
    if FIELD.search(what):
        found = places(what)
        return pd.concat([_of_place(place, metric, take) for place in found], ignore_index=True)
    paths = sorted(Path().glob(what)) if not Path(what).is_absolute() and "*" in what else [Path(what)]
    if not paths or not all(path.exists() for path in paths):
        raise InputError(f"{what}: there is no such file")
    if any(path.suffix == ".wandb" or path.is_dir() for path in paths):
        return pd.DataFrame([_run_row(path, metric, take) for path in paths])
    tables = [read_table(path) for path in paths]
    if len(tables) > 1 and all(RUN_NAME in table.columns for table in tables):
        return reduce(partial(pd.merge, on=RUN_NAME), tables)
    return pd.concat(tables, ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a file.

    Raises:
        InputError: the file is not a table of a known kind.
    """
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _separated,
        ".tsv": partial(_separated, sep="\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": _json_lines,
        ".txt": _json_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: tables are read from {', '.join(readers)}, not {path.suffix or 'a bare name'!r}"
        )
    try:
        return reader(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from None


def _separated(path: Path, sep: str = ",") -> pd.DataFrame:
    """A table as text; `None` is a level, not an empty field.

    Columns of dictionaries (`summary` and `config` from the export script in W&B's manual) become a column
    per key.
    """
    texts = dict.fromkeys((*TEXTS, *OTHER_NAMES["utterance"]), str)
    empty = ["", "nan", "NaN", "NA", "null"]
    frame = pd.read_csv(path, sep=sep, dtype=texts, keep_default_na=False, na_values=empty)
    for name in ("config", "summary"):
        if name in frame.columns and frame[name].astype(str).str.startswith("{").all():
            held = pd.json_normalize([literal_eval(text) for text in frame[name]], sep=".")
            frame = pd.concat([frame.drop(columns=name), held.set_axis(frame.index)], axis=1)
    return frame


def _json_lines(path: Path) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines() if line.strip()])


def _of_place(place: FoundPath, metric: str, take: Take) -> pd.DataFrame:
    """The rows of one run, with the fields of its pattern."""
    path = place.path
    if (
        path.is_dir()
        or path.suffix in (".wandb", ".json", LOG)
        or path.name.startswith("events.out.tfevents.")
    ):
        frame = pd.DataFrame([_run_row(path, metric, take)])
    else:
        frame = read_table(path)
    return frame.assign(**place.fields)


def _run_row(path: Path, metric: str, take: Take) -> dict[str, Any]:
    """The settings of a run (nested names joined by dots), its curve, and the value to use."""
    rows = _logged(path) if path.suffix == LOG else CurveFormat(file=path.name).read(path)
    of_wandb = path.suffix == ".wandb" or (path.is_dir() and any(path.glob("*.wandb")))
    settings = wandb_run(path)[0] if of_wandb else {}
    values = [row[metric] for row in rows if metric in row]
    if not values:
        known = sorted({key for row in rows for key in row} - {"step"})
        raise InputError(f"{path} has no values of {metric!r}{suggestion(metric, known)}")
    flat = pd.json_normalize(settings, sep=".").to_dict("records")[0] if settings else {}
    curve = [{curve_name(key): value for key, value in row.items() if key[0] != "_"} for row in rows]
    taken = {metric: _taken(values, take), CURVE: curve}
    return {str(key): value for key, value in flat.items()} | taken


def _logged(path: Path) -> list[dict[str, float]]:
    """The test curve in an old log with one run."""
    run, *others = read_logs([path]).values()
    if others:
        raise InputError(f"{path} is the log of {1 + len(others)} trainings: make a file of each")
    return [{"step": epoch, "test/pesq_wb": value} for epoch, value in run.items()]


def _taken(values: Sequence[float], take: Take) -> float:
    return float({"last": values[-1], "max": max(values), "min": min(values)}[take])


def mlflow_runs(tracking_uri: str, experiment: str, metric: str, take: Take) -> pd.DataFrame:
    """A row per run of an MLflow experiment: its parameters, status, and the metric.

    Raises:
        InputError: the experiment does not exist or was deleted, or no run has the metric.
        TrackingError: the server does not answer, or refuses access.
    """
    from ablate.studies.redaction import redact
    from ablate.studies.tracking.store import all_runs, answering, connect

    with answering(tracking_uri):
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        there = listed(sorted(e.name for e in client.search_experiments())) or "none"
    if found is None or found.lifecycle_stage == "deleted":
        gone = "was deleted" if found is not None else "is not there"
        raise InputError(f"experiment {experiment!r} {gone} at {redact(tracking_uri)} (there: {there})")
    rows, measured = [], set()
    with answering(tracking_uri):
        for run in all_runs(client, found.experiment_id):
            measured |= {*run.data.metrics}
            curves = [name for name in run.data.metrics if curve_name(name).startswith(("val/", "test/"))]
            points = [
                point
                for name in {metric, *curves} & {*run.data.metrics}
                for point in client.get_metric_history(run.info.run_id, name)
            ]
            points.sort(key=lambda point: (point.step, point.timestamp))
            curve: dict[int, dict[str, float]] = {}
            for point in points:
                curve.setdefault(point.step, {"step": point.step})[curve_name(point.key)] = point.value
            values = [point.value for point in points if point.key == metric]
            row = {"status": run.info.status, metric: _taken(values, take) if values else None}
            rows.append({**run.data.params, **row, CURVE: list(curve.values())})
    if metric not in measured:
        raise InputError(
            f"no run of {experiment!r} has a metric {metric!r}{suggestion(metric, sorted(measured))}"
        )
    return pd.DataFrame(rows)
