"""The directory of one training: the truth that Optuna and MLflow mirror. Needs no torch."""

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
    """`state.json`: where a run stands. Times are seconds since the epoch.

    Attributes:
        curve_problem: why a command's curve, which its study file promised, is not there.
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
    """Where the scoring of a finished training on one test stands, a record beside `RunState`."""

    state: Literal["pending", "running", "failed", "done"] = "pending"
    attempts: int = 0
    cause: str | None = None
    message: str | None = None
    updated: float | None = None


class RunDir:
    """One training on disk, at `<root>/runs/<training signature>/`.

    `spec.json` says what to train, `state.json` where it stands, `metrics.jsonl` has a line per
    validation, `attempts.jsonl` one per attempt, `scores/<evaluation signature>.parquet` a row per test
    utterance, `summary.json` what was measured once at the end (parameters, seconds per step, memory) and
    what it ran on.
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
        """Whether a finished training can still be scored on a test: by its checkpoint, or by what a command
        of the user's own left."""
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
        """What was measured of the run; empty before it ends."""
        return read_json(self.path / "summary.json") or {}

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def scores_path(self, evaluation_signature: str) -> Path:
        return self.path / "scores" / f"{evaluation_signature}.parquet"

    def has_scores(self, evaluation_signature: str) -> bool:
        """Whether a test is scored; a file of scores that is empty or cut counts as none, which is said."""
        path = self.scores_path(evaluation_signature)
        whole = _is_whole_parquet(path)
        if whole is False:
            tell_once(path, "the file is empty or truncated and counts as missing; `ablate run` scores again")
        return bool(whole)

    def set_damaged_aside(self) -> None:
        """Rename what is empty or cut, so that it is written again."""
        for path in (self.path / "scores").glob("*.parquet"):
            if _is_whole_parquet(path) is False:
                files.set_aside(path)

    def evaluation_path(self, evaluation_signature: str) -> Path:
        return self.path / "scores" / f"{evaluation_signature}.json"

    def evaluation(self, evaluation_signature: str) -> EvaluationState:
        """Where a scoring stands; a file of scores says that it is done, whatever its record says."""
        if self.has_scores(evaluation_signature):
            return EvaluationState(state="done")
        return EvaluationState.model_validate(read_json(self.evaluation_path(evaluation_signature)) or {})

    def failed_evaluation(self, evaluation_signatures: Iterable[str]) -> EvaluationState | None:
        """The first of some scorings of a finished training that failed."""
        found = map(self.evaluation, evaluation_signatures) if self.state.state == "done" else ()
        return next((evaluation for evaluation in found if evaluation.state == "failed"), None)

    def update_evaluation(self, evaluation_signature: str, **changes: Any) -> None:
        """Write the record of a scoring with some fields replaced, unless it is done."""
        known = self.evaluation(evaluation_signature)
        if known.state != "done":
            state = known.model_copy(update={"updated": time.time(), **changes})
            write_json(self.evaluation_path(evaluation_signature), state.model_dump())

    def drop_results(self) -> None:
        """Remove what former weights were scored to: the training is about to give others."""
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
        """What the other files say of a run whose `state.json` is empty or cut: a run that has ended has its
        `summary.json`, and any other goes on."""
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
        """Write `state.json` with some fields replaced; `updated` is set to now."""
        state = self.state.model_copy(update={"updated": time.time(), **changes})
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "state.json", state.model_dump())
        return state

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the directory for writing (RunLockedError if another process does); the lock goes with the
        process, however it ends. Yields its descriptor; a child that inherits it holds the directory too."""
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
        """Whether some process holds the directory at this moment. Writes nothing."""
        return files.is_locked(self.path / "lock")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_lines(self.metrics_path)

    def append_metrics(self, *lines: Mapping[str, Any]) -> None:
        """Add lines to `metrics.jsonl` and have them on disk before returning."""
        append_lines(self.metrics_path, lines)

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace `metrics.jsonl`: a training that goes on writes the lines after its checkpoint again."""
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of `attempts.jsonl`: the step each attempt went on from, and what it ran on."""
        return read_lines(self.path / "attempts.jsonl")

    def append_attempt(self, line: Mapping[str, Any]) -> None:
        append_lines(self.path / "attempts.jsonl", [line])

    @property
    def lost_steps(self) -> int:
        """Steps that attempts took after their last checkpoint and before they died."""
        return sum(line.get("lost_steps", 0) for line in self.attempts())

    def references(self, test_digest: str) -> Path:
        """Where the clean and noisy clips of a test set lie, once for all runs of the root."""
        return self.path.parent.parent / "audio" / test_digest[:16]


def _is_whole_parquet(path: Path) -> bool | None:
    """Whether a Parquet file has its end; none: there is no file."""
    try:
        with path.open("rb") as file:
            start, size = file.read(4), file.seek(0, 2)
            file.seek(max(0, size - 4))
            return start == file.read(4) == b"PAR1" and size > 8
    except FileNotFoundError:
        return None


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: written beside it, synced, renamed."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=1))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none. One that is empty or cut counts as none, which
    is said."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        tell_once(path, "the file is empty or truncated and counts as missing")
        return None
