"""The directory of one run: the truth that Optuna and MLflow mirror. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ablate.models.config import Frozen

from . import files
from .files import LockHeldError, append_lines, atomic_write, locked, read_lines, tell_once

State = Literal["pending", "running", "done", "failed", "diverged"]
Cause = Literal[
    "out-of-memory",
    "device",
    "lost-worker",
    "preempted",
    "configuration",
    "data",
    "interrupted",
    "output",
    "storage",
    "time-limit",
    "changed-link",
    "port-taken",
    "error",
]


class RunLockedError(RuntimeError):
    """Another process is writing this run directory."""


class RunState(Frozen):
    """`state.json`: the progress of a run. Times are seconds since the epoch.

    Attributes:
        curve_problem: why a command's curve, which its study file promised, is missing.
    """

    state: State = "pending"
    attempts: int = 0
    cause: str | None = None
    message: str | None = None
    step: int = 0
    steps: int | None = None
    started: float | None = None
    updated: float | None = None
    finished: float | None = None
    host: str | None = None
    pid: int | None = None
    seconds_per_step: float | None = None
    val_pesq_wb: float | None = None
    curve_problem: str | None = None


class EvaluationState(Frozen):
    """The progress of scoring a finished run on one test, stored beside `RunState`."""

    state: Literal["pending", "running", "failed", "done"] = "pending"
    attempts: int = 0
    cause: str | None = None
    message: str | None = None
    updated: float | None = None


class RunDir:
    """One run on disk, at `<root>/runs/<training signature>/`.

    `spec.json` is the configuration, `state.json` the progress, `metrics.jsonl` has a line per validation,
    `attempts.jsonl` one per attempt, `scores/<evaluation signature>.parquet` a row per test utterance, and
    `summary.json` the final measurements (parameters, seconds per step, memory) and the environment.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.signature = self.path.name
        self.checkpoints = self.path / "checkpoints"
        self.audio = self.path / "audio"
        self.log = self.path / "log.txt"
        self.metrics_path = self.path / "metrics.jsonl"
        self.work = self.path / "work"
        """Where a training command runs; a network's training has none."""

    @property
    def has_weights(self) -> bool:
        """Whether a finished run can still be scored: by its checkpoint, or by the output of a training
        command."""
        names = (*(f"checkpoints/{name}.pt" for name in ("latest", "previous", "best")), "ended.json")
        return any((self.path / name).exists() for name in names)

    @property
    def spec(self) -> dict[str, Any]:
        return json.loads((self.path / "spec.json").read_text())

    def write_spec(self, spec: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "spec.json", spec)

    @property
    def summary(self) -> dict[str, Any]:
        """The final measurements of the run; empty before it ends."""
        return read_json(self.path / "summary.json") or {}

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def scores_path(self, evaluation_signature: str) -> Path:
        return self.path / "scores" / f"{evaluation_signature}.parquet"

    def has_scores(self, evaluation_signature: str) -> bool:
        """Whether a test is scored; an empty or truncated file counts as missing, with a warning."""
        path = self.scores_path(evaluation_signature)
        whole = _is_whole_parquet(path)
        if whole is False:
            tell_once(path, "the file is empty or truncated and counts as missing; `ablate run` scores again")
        return bool(whole)

    def set_damaged_aside(self) -> None:
        """Rename empty or truncated score files, so that they are written again."""
        for path in (self.path / "scores").glob("*.parquet"):
            if _is_whole_parquet(path) is False:
                files.set_aside(path)

    def evaluation_path(self, evaluation_signature: str) -> Path:
        return self.path / "scores" / f"{evaluation_signature}.json"

    def evaluation(self, evaluation_signature: str) -> EvaluationState:
        """The progress of a scoring; a file of scores means done, whatever the record says."""
        if self.has_scores(evaluation_signature):
            return EvaluationState(state="done")
        return EvaluationState.model_validate(read_json(self.evaluation_path(evaluation_signature)) or {})

    def failed_evaluation(self, evaluation_signatures: Iterable[str]) -> EvaluationState | None:
        """The first failed one of some scorings, if the run has finished."""
        found = map(self.evaluation, evaluation_signatures) if self.state.state == "done" else ()
        return next((evaluation for evaluation in found if evaluation.state == "failed"), None)

    def update_evaluation(self, evaluation_signature: str, **changes: Any) -> None:
        """Change fields in the record of a scoring, unless it is done."""
        known = self.evaluation(evaluation_signature)
        if known.state != "done":
            state = known.model_copy(update={"updated": time.time(), **changes})
            write_json(self.evaluation_path(evaluation_signature), state.model_dump())

    def drop_results(self) -> None:
        """Remove the scores and audio of earlier weights: the run is about to train new ones."""
        for path in (self.path / "scores", self.audio):
            shutil.rmtree(path, ignore_errors=True)
        (self.path / "summary.json").unlink(missing_ok=True)

    @property
    def state(self) -> RunState:
        path = self.path / "state.json"
        data = read_json(path)
        if data is None and path.exists():
            return self._rebuilt_state()
        return RunState.model_validate(data) if data else RunState()

    def _rebuilt_state(self) -> RunState:
        """The state of a run with an empty or truncated `state.json`, from its other files: a run with a
        `summary.json` has ended, any other continues."""
        curve, summary = self.metrics(), self.summary
        step = curve[-1]["step"] if curve else int(bool(summary))
        ended = (self.path / "summary.json").stat().st_mtime if summary else None
        return RunState(
            state="done" if summary else "pending",
            attempts=len(self.attempts()),
            step=step,
            steps=step if summary else None,
            updated=ended,
            finished=ended,
            seconds_per_step=summary.get("seconds_per_step"),
            val_pesq_wb=summary.get("val_pesq_wb"),
        )

    def update_state(self, **changes: Any) -> RunState:
        """Change fields of `state.json`; `updated` becomes now."""
        state = self.state.model_copy(update={"updated": time.time(), **changes})
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "state.json", state.model_dump())
        return state

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the directory for writing (RunLockedError if another process does). The lock ends with the
        process, or with a child that inherits the yielded descriptor."""
        try:
            with locked(self.path / "lock", wait=False) as descriptor:
                yield descriptor
        except LockHeldError:
            holder = self.state
            what = f"is in use by process {holder.pid} on {holder.host}"
            if not self.path.exists():
                what = "was moved aside by another process"
            raise RunLockedError(f"run {self.signature[:12]} {what}") from None

    @property
    def locked(self) -> bool:
        """Whether a process holds the directory now. Writes nothing."""
        return files.is_locked(self.path / "lock")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_lines(self.metrics_path)

    def append_metrics(self, *lines: Mapping[str, Any]) -> None:
        """Append lines to `metrics.jsonl` and sync."""
        append_lines(self.metrics_path, lines)

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace `metrics.jsonl`: a resumed training writes the lines after its checkpoint again."""
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of `attempts.jsonl`: the first step of each attempt, and its environment."""
        return read_lines(self.path / "attempts.jsonl")

    def append_attempt(self, line: Mapping[str, Any]) -> None:
        append_lines(self.path / "attempts.jsonl", [line])

    @property
    def lost_steps(self) -> int:
        """Steps that attempts took between their last checkpoint and their death."""
        return sum(line.get("lost_steps", 0) for line in self.attempts())

    def references(self, test_digest: str) -> Path:
        """The folder of a test set's clean and noisy clips, shared by all runs of the root."""
        return self.path.parent.parent / "audio" / test_digest[:16]


def _is_whole_parquet(path: Path) -> bool | None:
    """Whether a Parquet file is complete; None if there is no file."""
    try:
        with path.open("rb") as file:
            start, size = file.read(4), file.seek(0, 2)
            file.seek(max(0, size - 4))
            return start == file.read(4) == b"PAR1" and size > 8
    except FileNotFoundError:
        return None


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing, or, with a warning, if it is empty or truncated."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        tell_once(path, "the file is empty or truncated and counts as missing")
        return None
