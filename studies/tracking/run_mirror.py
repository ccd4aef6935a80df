"""One run of a study: its run directory on one side, a child run of the store on the other."""

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
from ablate.training.rundir import RunDir, RunState, read_json, write_json

from ..plan import Plan, run_label
from .store import History, Record, finite, same

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import DatasetInput, Metric
    from mlflow.tracking import MlflowClient

Mode = Literal["live", "final", "sync"]
"""When a pass is made. `live`: the driver runs; `final`: it ends; `sync`: whoever is alive may run."""
LOG_TAIL = 200_000
"""Bytes of a run's log that are kept as an artifact."""
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
    """Where the runs of a study go. `tags` and `datasets` are those of every run, the parent included."""

    root: Path
    study: str
    client: MlflowClient
    shown_uri: str
    experiment: str
    tags: Mapping[str, str]
    datasets: list[DatasetInput]
    parent: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """A cell x seed of the plan, at a share of its steps: one child run."""

    cell: AnyCell
    seed: int
    run: RunDir
    step_fraction: float

    @classmethod
    def of(cls, plan: Plan, root: Path) -> list[PlannedRun]:
        """All of a plan's."""
        return [
            cls(cell, seed, RunDir(root / "runs" / cell.signatures[seed]), at.step_fraction)
            for at in plan.every_step_fraction()
            for cell, seed in at.runs
        ]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cell.name, str(self.seed), self.run.signature

    @property
    def label(self) -> str:
        return run_label(self.cell.name, self.seed, self.step_fraction)

    @property
    def evaluations(self) -> tuple[str, ...]:
        return self.cell.scored_as(self.seed)

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever there is news of the run."""
        files = [self.run.path / name for name in ("state.json", "metrics.jsonl", "summary.json")]
        tests = [
            f(each) for each in self.evaluations for f in (self.run.scores_path, self.run.evaluation_path)
        ]
        return tuple(value for path in (*files, *tests) for value in stamp(path))


class Child:
    """Mirrors a cell x seed; what the store holds already is kept in memory between passes.

    Attributes:
        slot: the cell x seed as the plan has it now.
        record: the run of the store; none before the training starts.
        trouble: why the run cannot be mirrored; empty if it can.
    """

    def __init__(self, slot: PlannedRun, place: Place, record: Record | None) -> None:
        self.slot = slot
        self.record = record
        self.trouble = ""
        self._place = place
        self._stamp: tuple[int, ...] = ()
        self._introduced = False
        self._sent: History | None = None

    def mirror(self, mode: Mode) -> None:
        """Bring the child run up to date with the run directory."""
        stamp, record, run = self.slot.stamp(), self.record, self.slot.run
        if stamp == self._stamp and (mode == "live" or record is None or record.ended):
            return
        state, failed = run.state, run.failed_evaluation(self.slot.evaluations)
        scored = run.has_scores(self.slot.evaluations[0])
        status = "FAILED" if failed else status_of(state, scored, mode)
        token = f"{state.state} {state.updated} {self.slot.evaluations[0][:12] if scored else 'unscored'}"
        token += f" {failed.updated}" if failed else ""
        label: str = "done, not scored" if state.state == "done" and not scored else state.state
        if failed:
            label = "done, evaluation failed"
            told = {name: getattr(failed, name) for name in ("cause", "message", "attempts")}
            state = state.model_copy(update=told)
        if record is None:
            mirrored = state.state == "pending" and not state.attempts
        else:
            known = record.tags.get("ablate.mirrored", ""), record.status
            mirrored = status != "RUNNING" and known == (token, status)
        if not mirrored:
            self._update(state, "running" if status == "RUNNING" else label, status, token, scored)
        self._stamp = stamp

    def _update(self, state: RunState, label: str, status: str, token: str, scored: bool) -> None:
        lines = self.slot.run.metrics()
        record = self.record or self._create(state)
        if status == "RUNNING" != record.status:
            record.set_status(status)
        if not self._introduced:
            self._introduce(record)
        record = self._send_metrics(record, state, lines, settled=status in {"FINISHED", "FAILED"})
        record.log_tags(state_tags(state, label))
        if status != "RUNNING":
            self._finish(record, state, status, scored)
            record.log_tags({"ablate.mirrored": token})

    def _create(self, state: RunState) -> Record:
        slot, place = self.slot, self._place
        tags = {
            **place.tags,
            **{key: value for key, value in state_tags(state, state.state).items() if value},
            "ablate.kind": "run",
            "ablate.cell": slot.cell.name,
            "ablate.seed": str(slot.seed),
            **({} if slot.step_fraction == 1.0 else {"ablate.length": f"{slot.step_fraction:g}"}),
            "ablate.signature": slot.run.signature,
            "mlflow.parentRunId": place.parent,
        }
        start = int((state.started or state.updated or time.time()) * 1000)
        run = place.client.create_run(place.experiment, start, tags, run_name=slot.label)
        record = self.record = Record(place.client, run)
        self._sent = {}
        self._remember(record, None)
        return record

    def _introduce(self, record: Record) -> None:
        """Log what is known of a run before it starts."""
        cell = self.slot.cell
        config = cell.config.model_dump(mode="json")
        params = {"cell": cell.name, "seed": self.slot.seed, "parameters": cell.parameters}
        params |= {f"factor.{name}": level for name, level in cell.levels.items()}
        for part, fields in config.items():
            params |= {f"{part}.{name}": "none" if v is None else v for name, v in fields.items()}
        record.log_params(params)
        record.client.log_inputs(record.run_id, self._place.datasets)
        record.client.log_dict(record.run_id, config, "config.json")
        self._introduced = True

    def _remember(self, record: Record, cursor: int | None) -> None:
        """Keep run id and last step sent in the run directory, where several studies may meet."""
        place, path = self._place, self.slot.run.path / "mlflow.json"
        with locked(place.root / "mlflow-runs.lock"):
            known = read_json(path) or {}
            children = known.setdefault(place.shown_uri, {}).setdefault(place.study, {})
            entry = {"run_id": record.run_id, "cursor": cursor}
            if children.get(self.slot.label) != entry:
                children[self.slot.label] = entry
                write_json(path, known)

    def _recall(self, record: Record) -> int | None:
        """The last step that was sent to this very run, as far as the run directory knows."""
        known = read_json(self.slot.run.path / "mlflow.json") or {}
        entry = known.get(self._place.shown_uri, {}).get(self._place.study, {}).get(self.slot.label, {})
        return entry.get("cursor") if entry.get("run_id") == record.run_id else None

    def _send_metrics(
        self, record: Record, state: RunState, lines: list[dict[str, Any]], *, settled: bool
    ) -> Record:
        """Send the steps the store lacks. A settled run is compared with the store and, where they
        disagree, made anew: the run directory is right."""
        wanted = _metrics(lines)
        last = max((int(line["step"]) for line in lines), default=None)
        if self._sent is None:
            cursor = self._recall(record)
            if not settled and cursor is not None and (last is None or last <= cursor):
                return record
            self._sent = record.history(wanted)
        sent = self._sent
        if sent is None or (settled and not _agree(sent, wanted)):
            record.client.delete_run(record.run_id)
            fresh = self._create(state)
            self._introduce(fresh)
            return self._send_metrics(fresh, state, lines, settled=False)
        missing = [
            metric
            for key, steps in wanted.items()
            for step, metric in steps.items()
            if step not in sent.get(key, {})
        ]
        missing.sort(key=lambda metric: metric.step)
        record.log_metrics(missing)
        for metric in missing:
            sent.setdefault(metric.key, {})[metric.step] = metric.value
        if missing:
            self._remember(record, last)
        return record

    def _finish(self, record: Record, state: RunState, status: str, scored: bool) -> None:
        """Final metrics, tags, artifacts and status."""
        import pandas

        run, summary = self.slot.run, self.slot.run.summary
        ended = state.finished or state.updated or time.time()
        scores = pandas.read_parquet(run.scores_path(self.slot.evaluations[0])) if scored else None
        costs = {"parameters": self.slot.cell.parameters, **summary}
        values = {key: float(costs[name]) for name, key in COSTS.items() if finite(costs.get(name))}
        record.log_last(values | ({} if scores is None else _means(scores)), ended)
        measured = {f"ablate.{name}": summary.get(name) for name in ("scan_backend", "device", "machine")}
        measured["mlflow.source.git.commit"] = summary.get("commit", summary.get("git_commit"))
        record.log_tags({key: str(value) for key, value in measured.items() if value})
        with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as staging:
            self._stage(Path(staging), scores)
            record.client.log_artifacts(record.run_id, staging)
        record.set_status(status, ended)

    def _stage(self, folder: Path, scores: pandas.DataFrame | None) -> None:
        """Lay the run's artifacts out in a folder."""
        run = self.slot.run
        for name in ("metrics.jsonl", "summary.json"):
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, folder / name)
        if run.log.exists():
            (folder / "log.txt").write_bytes(run.log.read_bytes()[-LOG_TAIL:])
        if scores is not None:
            shutil.copyfile(run.scores_path(self.slot.evaluations[0]), folder / "scores.parquet")
            scores.to_csv(folder / "scores.csv", index=False)
        for clip in sorted(run.audio.glob("*-enhanced.wav")):
            (folder / "audio").mkdir(exist_ok=True)
            shutil.copyfile(clip, folder / "audio" / clip.name)


def stamp(path: Path) -> tuple[int, ...]:
    """Time of change and size of a file; zeros where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def _metrics(lines: list[dict[str, Any]]) -> dict[str, dict[int, Metric]]:
    """Curves of a run, key -> step -> metric; of a step that was written twice the last."""
    from mlflow.entities import Metric

    found: dict[str, dict[int, Metric]] = {}
    for line in lines:
        step, stamp = int(line["step"]), int(line.get("time", 0) * 1000)
        for name, value in line.items():
            if name not in {"step", "time"} and finite(value):
                key = name if "/" in name else f"train/{name}"
                found.setdefault(key, {})[step] = Metric(key, float(value), stamp, step)
    return found


def _means(scores: pandas.DataFrame) -> dict[str, float]:
    """Means over the test utterances that could be scored, and how many could not."""
    means = scores.drop(columns=["seconds", "snr"], errors="ignore").mean(numeric_only=True).to_dict()
    found = {f"test/{name}": float(value) for name, value in means.items() if finite(value)}
    found["test/utterances"] = float(len(scores))
    if "error" in scores and (errors := int(scores["error"].notna().sum())):
        found["test/errors"] = float(errors)
    return found


def _agree(sent: History, wanted: dict[str, dict[int, Metric]]) -> bool:
    """Whether what the store holds is part of what the run directory holds."""
    return all(
        step in (lines := wanted.get(key, {})) and same(lines[step].value, value)
        for key, steps in sent.items()
        for step, value in steps.items()
    )


def status_of(state: RunState, scored: bool, mode: Mode) -> str:
    """What is unfinished counts as running only while somebody works on it."""
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
    """Whether the process that wrote a state still runs; on another machine: whether it wrote lately."""
    import psutil

    if state.pid is None or state.updated is None:
        return False
    if state.host != socket.gethostname():
        return time.time() - state.updated < 300
    try:
        return psutil.Process(state.pid).create_time() <= state.updated
    except psutil.Error:
        return False
