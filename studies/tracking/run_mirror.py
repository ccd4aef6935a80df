"""One cell x seed: its run directory on one side, a child run of the store on the other."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.training.files import locked
from ablate.training.rundir import EvaluationState, RunState, read_json, write_json

from . import curves
from .curves import Curve
from .sampler import Sampler
from .store import History, Record, finite, same
from .study import PlannedRun, Study

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

Mode = Literal["live", "final", "sync"]
"""When a pass is made. `live`: the driver runs; `final`: it ends; `sync`: whoever is alive may run."""
LOG_TAIL = 200_000
"""Bytes of a run's log that are kept as an artifact."""


@dataclass(frozen=True)
class Place:
    """Where the child runs of a study go."""

    study: Study
    client: MlflowClient
    experiment: str
    parent: str
    shown_uri: str
    sampler: Sampler


@dataclass(frozen=True)
class _Snapshot:
    """A run directory as read in one go."""

    state: RunState
    lines: list[dict[str, Any]]
    summary: dict[str, Any]
    scored: bool
    unscorable: EvaluationState | None


class Child:
    """Mirrors a cell x seed; what the store holds already is kept in memory between passes.

    Attributes:
        slot: the cell x seed as the plan has it now.
        record: the run of the store; none before the training starts.
        trouble: why the run cannot be mirrored; empty if it can.
        noisy: validation PESQ of the noisy input, as far as it is known.
    """

    def __init__(self, slot: PlannedRun, place: Place, record: Record | None) -> None:
        self.slot = slot
        self.record = record
        self.trouble = ""
        self._place = place
        self._stamp: tuple[int, ...] = ()
        self._token = record.tags.get("ablate.mirrored", "") if record else ""
        self._introduced = False
        self._sent: History | None = None
        self._curve: Curve | None = None
        self.noisy: float | None = None

    def mirror(self, mode: Mode) -> None:
        """Bring the child run up to date with the run directory."""
        stamp = self.slot.stamp()
        record = self.record
        if stamp == self._stamp and (mode == "live" or record is None or record.ended):
            if record is not None and not record.ended:
                self._sample(record)
            return
        run = self.slot.run
        state = run.state
        scored = run.has_scores(self.slot.evaluation)
        failed = run.failed_evaluation(self.slot.evaluations)
        status = "FAILED" if failed else status_of(state, scored, mode)
        token = f"{state.state} {state.updated} {self.slot.evaluation[:12] if scored else 'unscored'}"
        token += f" {failed.updated}" if failed else ""
        if record is None:
            mirrored = state.state == "pending" and not state.attempts
        else:
            mirrored = status != "RUNNING" and (self._token, record.status) == (token, status)
        if not mirrored:
            self._update(_Snapshot(state, run.metrics(), run.summary, scored, failed), status, token)
        self._stamp = stamp

    def _update(self, snapshot: _Snapshot, status: str, token: str) -> None:
        record = self.record or self._create(snapshot)
        if record.status != status and status == "RUNNING":
            record.set_status(status)
            record.log_tags(state_tags(snapshot.state, "running"))
        if not self._introduced:
            self._introduce(record)
        record = self._send_metrics(record, snapshot, settled=status in {"FINISHED", "FAILED"})
        if status == "RUNNING":
            self._sample(record)
        else:
            self._finish(record, snapshot, status)
            record.client.set_tag(record.run_id, "ablate.mirrored", token)
            self._token = token

    def _create(self, snapshot: _Snapshot) -> Record:
        slot, place, state = self.slot, self._place, snapshot.state
        tags = {
            **place.study.tags(),
            **{key: value for key, value in state_tags(state, state.state).items() if value},
            "ablate.kind": "run",
            "ablate.cell": slot.cell["name"],
            "ablate.seed": str(slot.seed),
            **({} if slot.step_fraction == 1.0 else {"ablate.length": f"{slot.step_fraction:g}"}),
            "ablate.signature": slot.run.signature,
            "mlflow.parentRunId": place.parent,
        }
        if test_digest := place.study.plan["corpus"].get("test_digest"):
            tags["ablate.test_digest"] = test_digest
        start = int((state.started or state.updated or time.time()) * 1000)
        run = place.client.create_run(place.experiment, start, tags, run_name=slot.label)
        record = self.record = Record(place.client, run)
        self._sent = {}
        self._remember(record, None)
        return record

    def _introduce(self, record: Record) -> None:
        """Log what is known of a run before it starts."""
        record.log_params(_params(self.slot))
        record.client.log_inputs(record.run_id, self._place.study.datasets())
        record.client.log_dict(record.run_id, self.slot.cell["config"], "config.json")
        self._introduced = True

    def _remember(self, record: Record, cursor: int | None) -> None:
        """Keep run id and last step sent in the run directory, where several studies may meet."""
        place, path = self._place, self.slot.run.path / "mlflow.json"
        with locked(place.study.root / "mlflow-runs.lock"):
            known = read_json(path) or {}
            children = known.setdefault(place.shown_uri, {}).setdefault(place.study.name, {})
            entry = {"run_id": record.run_id, "cursor": cursor}
            if children.get(self.slot.label) != entry:
                children[self.slot.label] = entry
                write_json(path, known)

    def _recall(self, record: Record) -> int | None:
        """The last step that was sent to this very run, as far as the run directory knows."""
        known = read_json(self.slot.run.path / "mlflow.json") or {}
        entry = known.get(self._place.shown_uri, {}).get(self._place.study.name, {}).get(self.slot.label, {})
        return entry.get("cursor") if entry.get("run_id") == record.run_id else None

    def _send_metrics(self, record: Record, snapshot: _Snapshot, *, settled: bool) -> Record:
        """Send the steps the store lacks. A settled run is compared with the store and, where they
        disagree, made anew: the run directory is right."""
        wanted = _metrics(snapshot.lines)
        self._keep_curve(snapshot.lines, snapshot.summary)
        last = max((int(line["step"]) for line in snapshot.lines), default=None)
        if self._sent is None:
            cursor = self._recall(record)
            if not settled and cursor is not None and (last is None or last <= cursor):
                return record
            self._sent = record.history(wanted)
        sent = self._sent
        if sent is None or (settled and not _agree(sent, wanted)):
            return self._replace(record, snapshot)
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

    def _replace(self, record: Record, snapshot: _Snapshot) -> Record:
        """Put a fresh run in the place of one that holds other values than the run directory."""
        record.client.delete_run(record.run_id)
        fresh = self._create(snapshot)
        self._introduce(fresh)
        return self._send_metrics(fresh, snapshot, settled=False)

    def _finish(self, record: Record, snapshot: _Snapshot, status: str) -> None:
        """Final metrics, tags, artifacts and status."""
        import pandas

        state, summary = snapshot.state, snapshot.summary
        ended = state.finished or state.updated or time.time()
        path = self.slot.run.scores_path(self.slot.evaluation)
        scores = pandas.read_parquet(path) if snapshot.scored else None
        values = _costs(summary, self.slot.cell) | ({} if scores is None else _means(scores))
        record.log_last(values, ended)
        label: str = "done, not scored" if state.state == "done" and not snapshot.scored else state.state
        if failed := snapshot.unscorable:
            label = "done, evaluation failed"
            told = {"cause": failed.cause, "message": failed.message, "attempts": failed.attempts}
            state = state.model_copy(update=told)
        measured = {
            "ablate.scan_backend": summary.get("scan_backend"),
            "ablate.device": summary.get("device"),
            "ablate.machine": summary.get("machine"),
            "mlflow.source.git.commit": summary.get("commit", summary.get("git_commit")),
        }
        record.log_tags(state_tags(state, label) | {k: str(v) for k, v in measured.items() if v})
        with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as staging:
            self._stage(Path(staging), scores)
            record.client.log_artifacts(record.run_id, staging)
        record.set_status(status, ended)

    def _stage(self, folder: Path, scores: pandas.DataFrame | None) -> None:
        """Lay the run's artifacts out in a folder."""
        slot, run = self.slot, self.slot.run
        (folder / "config.json").write_text(json.dumps(slot.cell["config"], indent=1))
        for name in ("metrics.jsonl", "summary.json"):
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, folder / name)
        if run.log.exists():
            (folder / "log.txt").write_bytes(_tail(run.log, LOG_TAIL))
        if scores is not None:
            shutil.copyfile(run.scores_path(slot.evaluation), folder / "scores.parquet")
            scores.to_csv(folder / "scores.csv", index=False)
        if clips := sorted(run.audio.glob("*-enhanced.wav")):
            (folder / "audio").mkdir()
            for clip in clips:
                shutil.copyfile(clip, folder / "audio" / clip.name)
        if self._curve:
            curves.draw(folder / "pesq_curve.png", {slot.label: [self._curve]}, self.noisy, slot.label)

    @property
    def curve(self) -> Curve:
        """Validation PESQ over steps; read from disk if no pass had to."""
        if self._curve is None and self.record is not None and not self.trouble:
            self._keep_curve(self.slot.run.metrics(), self.slot.run.summary)
        return self._curve or []

    def _keep_curve(self, lines: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        values = {int(line["step"]): line.get("val/pesq_wb") for line in lines}
        self._curve = sorted((step, float(value)) for step, value in values.items() if finite(value))
        if finite(noisy := summary.get("noisy_val_pesq_wb")):
            self.noisy = float(noisy)

    def _sample(self, record: Record) -> None:
        """Log processor, memory and GPU of the worker that writes the run on this machine."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        step = max(0, (now - record.start) // 1000)
        values = self._place.sampler.sample(self.slot.run)
        record.log_metrics([Metric(key, value, now, step) for key, value in values.items()])


def _params(slot: PlannedRun) -> dict[str, Any]:
    params: dict[str, Any] = {"cell": slot.cell["name"], "seed": slot.seed}
    params |= {f"factor.{name}": level for name, level in slot.cell.get("levels", {}).items()}
    for part, fields in slot.cell["config"].items():
        params |= {f"{part}.{name}": "none" if v is None else v for name, v in fields.items()}
    params["parameters"] = slot.cell.get("parameters")
    return params


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


def _costs(summary: dict[str, Any], cell: dict[str, Any]) -> dict[str, float]:
    """What a run cost and what was selected, as final metrics."""
    names = {
        "parameters": "parameters",
        "macs_per_second": "cost/macs_per_second",
        "seconds_per_step": "cost/seconds_per_step",
        "peak_memory_bytes": "cost/peak_memory_bytes",
        "real_time_factor": "cost/real_time_factor",
        "selected_step": "selected/step",
        "val_pesq_wb": "selected/val_pesq_wb",
        "val_stoi": "selected/val_stoi",
        "noisy_val_pesq_wb": "noisy/val_pesq_wb",
        "noisy_val_stoi": "noisy/val_stoi",
    }
    values = {"parameters": cell.get("parameters"), **summary}
    return {key: float(values[name]) for name, key in names.items() if finite(values.get(name))}


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


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - size))
        return handle.read(size)


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
