"""Mirrors one run from its run directory to a child run in the store."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.ablations.grid import AnyCell
from ablate.training.files import locked
from ablate.training.rundir import RunState, read_json, write_json

from ..plan import run_label, run_of
from .store import History, Record, finite, same

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import DatasetInput, Metric
    from mlflow.tracking import MlflowClient

Mode = Literal["live", "final", "sync"]
"""When a pass is made. `live`: while the driver runs; `final`: when it ends; `sync`: by `ablate sync`, while
other processes may be running."""
LOG_TAIL = 200_000
"""Maximum number of bytes of a run's log to keep as an artifact."""
COSTS = {
    "parameters": "parameters",
    **{name: f"cost/{name}" for name in ("macs_per_second", "seconds_per_step", "peak_memory_bytes")},
    "real_time_factor": "cost/real_time_factor",
    "selected_step": "selected/step",
    **{f"val_{metric}": f"selected/val_{metric}" for metric in ("pesq_wb", "stoi")},
    **{f"noisy_val_{metric}": f"noisy/val_{metric}" for metric in ("pesq_wb", "stoi")},
}
"""Fields of a run's summary that become final metrics."""


@dataclass(frozen=True)
class Place:
    """Where a study's runs are in the store. All runs, including the parent, get `tags` and `datasets`."""

    root: Path
    study: str
    client: MlflowClient
    shown_uri: str
    experiment: str
    tags: Mapping[str, str]
    datasets: list[DatasetInput]


class Child:
    """Mirrors a cell x seed at a step budget; remembers what the store already has.

    Attributes:
        record: the run in the store; None before the training starts.
        trouble: why the run cannot be mirrored; empty if it can.
    """

    def __init__(self, place: Place, parent: str, cell: AnyCell, seed: int, fraction: float) -> None:
        self.run = run_of(place.root, cell, seed)
        self.key = cell.name, str(seed), self.run.signature
        self.label = run_label(cell.name, seed, fraction)
        self.record: Record | None = None
        self.trouble = ""
        self._place, self._cell = place, cell
        self._evaluations = cell.scored_as(seed)
        self._tags = {
            "ablate.kind": "run",
            "ablate.cell": cell.name,
            "ablate.seed": str(seed),
            **({} if fraction == 1.0 else {"ablate.length": f"{fraction:g}"}),
            "ablate.signature": self.run.signature,
            "mlflow.parentRunId": parent,
        }
        self._stamp: tuple[int, ...] = ()
        self._introduced = False
        self._sent: History | None = None

    def mirror(self, mode: Mode) -> None:
        """Bring the child run up to date with the run directory."""
        run, record, (first, *_) = self.run, self.record, self._evaluations
        scoring = [path(e) for e in self._evaluations for path in (run.scores_path, run.evaluation_path)]
        news = stamp(*(run.path / f for f in ("state.json", "metrics.jsonl", "summary.json")), *scoring)
        if news == self._stamp and (mode == "live" or record is None or record.status != "RUNNING"):
            return
        state, failed = run.state, run.failed_evaluation(self._evaluations)
        scored = run.has_scores(first)
        status = "FAILED" if failed else status_of(state, scored, mode)
        token = f"{state.state} {state.updated} {first[:12] if scored else 'unscored'}"
        label: str = state.state
        if failed:
            token, label = f"{token} {failed.updated}", "done, evaluation failed"
            told = {name: getattr(failed, name) for name in ("cause", "message", "attempts")}
            state = state.model_copy(update=told)
        elif label == "done" and not scored:
            label = "done, not scored"
        if record is None:
            mirrored = state.state == "pending" and not state.attempts
        else:
            known = record.tags.get("ablate.mirrored"), record.status
            mirrored = status != "RUNNING" and known == (token, status)
        if not mirrored:
            lines = run.metrics()
            record = record or self._create(state)
            if status == "RUNNING" != record.status:
                record.set_status(status)
            if not self._introduced:
                self._introduce(record)
            record = self._send_metrics(record, state, lines, settled=status in {"FINISHED", "FAILED"})
            record.log_tags(state_tags(state, "running" if status == "RUNNING" else label))
            if status != "RUNNING":
                self._finish(record, state, status, scored)
                record.log_tags({"ablate.mirrored": token})
        self._stamp = news

    def _create(self, state: RunState) -> Record:
        place = self._place
        told = {key: value for key, value in state_tags(state, state.state).items() if value}
        start = int((state.started or state.updated or time.time()) * 1000)
        tags = {**place.tags, **told, **self._tags}
        run = place.client.create_run(place.experiment, start, tags, run_name=self.label)
        self.record, self._sent = Record(place.client, run), {}
        self._remember(self.record, None)
        return self.record

    def _introduce(self, record: Record) -> None:
        """Log the facts about a run that are known before it starts."""
        cell = self._cell
        config = cell.config.model_dump(mode="json")
        params = {"cell": cell.name, "seed": self.key[1], "parameters": cell.parameters}
        params |= {f"factor.{name}": level for name, level in cell.levels.items()}
        for part, fields in config.items():
            params |= {f"{part}.{name}": "none" if v is None else v for name, v in fields.items()}
        record.log_params(params)
        record.client.log_inputs(record.run_id, self._place.datasets)
        record.client.log_dict(record.run_id, config, "config.json")
        self._introduced = True

    def _remember(self, record: Record, cursor: int | None) -> None:
        """Record the store's run and its last sent step in the run directory, which studies may share."""
        place, path = self._place, self.run.path / "mlflow.json"
        with locked(place.root / "mlflow-runs.lock"):
            known = read_json(path) or {}
            children = known.setdefault(place.shown_uri, {}).setdefault(place.study, {})
            children[self.label] = {"run_id": record.run_id, "cursor": cursor}
            write_json(path, known)

    def _send_metrics(
        self, record: Record, state: RunState, lines: list[dict[str, Any]], *, settled: bool
    ) -> Record:
        """Send missing steps. If a settled run disagrees with the store, recreate the store's run."""
        wanted = _curves(lines)
        if self._sent is None:
            self._sent = record.history({key for key, _ in wanted})
        if self._sent is None or (settled and not _agree(self._sent, wanted)):
            record.client.delete_run(record.run_id)
            record = self._create(state)
            self._introduce(record)
        sent = self._sent or {}
        missing = [metric for at, metric in wanted.items() if at not in sent]
        if missing:
            record.client.log_batch(record.run_id, metrics=missing)
            self._remember(record, max(int(line["step"]) for line in lines))
        self._sent = sent | {(metric.key, metric.step): metric.value for metric in missing}
        return record

    def _finish(self, record: Record, state: RunState, status: str, scored: bool) -> None:
        """Send final metrics, tags, artifacts and status."""
        import pandas

        run, summary, path = self.run, self.run.summary, self.run.scores_path(self._evaluations[0])
        ended = state.finished or state.updated or time.time()
        costs = {"parameters": self._cell.parameters, **summary}
        values = {key: float(costs[name]) for name, key in COSTS.items() if finite(costs.get(name))}
        files = {name: run.path / name for name in ("metrics.jsonl", "summary.json")}
        files |= {f"audio/{clip.name}": clip for clip in run.audio.glob("*-enhanced.wav")}
        with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as name:
            folder = Path(name)
            if scored:
                scores, files["scores.parquet"] = pandas.read_parquet(path), path
                values |= _means(scores)
                scores.to_csv(folder / "scores.csv", index=False)
            if run.log.exists():
                (folder / "log.txt").write_bytes(run.log.read_bytes()[-LOG_TAIL:])
            for name, source in files.items():
                if source.exists():
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(source, folder / name)
            record.log_last(values, ended)
            record.client.log_artifacts(record.run_id, str(folder))
        measured = {f"ablate.{name}": summary.get(name) for name in ("scan_backend", "device", "machine")}
        measured["mlflow.source.git.commit"] = summary.get("commit", summary.get("git_commit"))
        record.log_tags({key: str(value) for key, value in measured.items() if value})
        record.set_status(status, ended)


def stamp(*paths: Path) -> tuple[int, ...]:
    """Modification times and sizes of files, to detect changes; zeros for a missing file."""
    found: list[int] = []
    for path in paths:
        try:
            stat = path.stat()
            found += stat.st_mtime_ns, stat.st_size
        except FileNotFoundError:
            found += 0, 0
    return tuple(found)


def _curves(lines: list[dict[str, Any]]) -> dict[tuple[str, int], Metric]:
    """A run's curves by key and step, with the last value of each step."""
    from mlflow.entities import Metric

    found: dict[tuple[str, int], Metric] = {}
    for line in sorted(lines, key=lambda line: int(line["step"])):
        step, when = int(line["step"]), int(line.get("time", 0) * 1000)
        for name, value in line.items():
            if name not in {"step", "time"} and finite(value):
                key = name if "/" in name else f"train/{name}"
                found[key, step] = Metric(key, float(value), when, step)
    return found


def _means(scores: pandas.DataFrame) -> dict[str, float]:
    """Means over the scored test utterances, and the numbers of utterances and errors."""
    means = scores.drop(columns=["seconds", "snr"], errors="ignore").mean(numeric_only=True).to_dict()
    found = {f"test/{name}": float(value) for name, value in means.items() if finite(value)}
    found["test/utterances"] = float(len(scores))
    if "error" in scores and (errors := int(scores["error"].notna().sum())):
        found["test/errors"] = float(errors)
    return found


def _agree(sent: History, wanted: dict[tuple[str, int], Metric]) -> bool:
    """Whether all values in the store equal those of the run directory."""
    return all(at in wanted and same(wanted[at].value, value) for at, value in sent.items())


def status_of(state: RunState, scored: bool, mode: Mode) -> str:
    """MLflow's status of a run; an unfinished run counts as running only if a process is working on it."""
    if state.state == "done" and scored:
        return "FINISHED"
    if state.state in {"failed", "diverged"}:
        return "KILLED" if state.cause == "interrupted" else "FAILED"
    if state.state == "pending" or mode == "final":
        return "KILLED"
    return "RUNNING" if mode == "live" or _alive(state) else "KILLED"


def state_tags(state: RunState, label: str) -> dict[str, str]:
    return {
        "ablate.state": label,
        "ablate.cause": state.cause or "",
        "ablate.message": (state.message or "")[:1000],
        "ablate.attempts": str(state.attempts),
    }


def _alive(state: RunState) -> bool:
    """Whether the process that wrote a state still runs; on another machine, whether it wrote recently."""
    import psutil

    if state.pid is None or state.updated is None:
        return False
    if state.host != socket.gethostname():
        return time.time() - state.updated < 300
    try:
        return psutil.Process(state.pid).create_time() <= state.updated
    except psutil.Error:
        return False
