"""Mirrors run directories into MLflow, at once or later.

The run directories are the truth; a training never talks to MLflow. A mirroring process reads them and brings
the tracking store up to date, pass by pass, so that a store that is down or slow costs a training nothing and
whatever was missed is sent by a later pass. Every pass is idempotent.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import quote, unquote

from training.rundir import RunDir, RunState, read_json, write_json

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Mode = Literal["live", "final", "sync"]

URI_VARIABLE = "MLFLOW_TRACKING_URI"
INTERVAL = 2.0
"""Seconds between two passes while a study runs; more where passes would take over a twentieth of a core."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, while the tracking store does not answer."""
SAMPLE_EVERY = 10.0
"""Seconds between two samples of a worker's processor and memory."""
REDRAW_EVERY = 60.0
"""Seconds between two drawings of the study's curves while it runs."""
NOTE_LIMIT = 7500
"""Characters of a note; MLflow refuses tags beyond 8000."""
COMPARED = 60
"""Runs that a comparison link names, at most."""
VIEW = "ablate"
"""Name of the shared view of an experiment's runs."""
_SECTIONS = {"val": True, "test": True, "train": True, "selected": False, "noisy": False, "cost": False}
"""Groups of charts in that view, in order, and whether they are open."""
LOG_TAIL = 200_000
"""Bytes of a run's log that are kept as an artifact."""

_CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_SECRET_KEY = re.compile(r"(pass|pwd|secret|token|key|credential|auth|signature|sig$|user)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)[^\s]*@")
_FAULTS_OF_ONE_RUN = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
)


class TrackingError(RuntimeError):
    """The tracking store did not take what was sent; the message holds no secret."""


def default_uri(root: Path | str) -> str:
    """The store that needs no server: an SQLite file in the root."""
    return f"sqlite:///{Path(root).resolve() / 'mlflow.db'}"


def resolve_uri(root: Path | str, tracking_uri: str | None = None) -> str:
    """The tracking URI in force: the one given, else `MLFLOW_TRACKING_URI`, else the root's own file."""
    return tracking_uri or os.environ.get(URI_VARIABLE) or default_uri(root)


def redact(uri: str) -> str:
    """A URI without its user, password and secret query values: fit to be shown, logged and stored."""
    head, _, query = uri.partition("?")
    if not head.startswith(("sqlite:", "file:")):
        if "://" in uri and "@" in query and "@" not in head:
            head, query = uri, ""
        head = _CREDENTIALS.sub(r"\g<scheme>***@", head)
    if query:
        pairs = [pair.partition("=") for pair in query.split("&")]
        query = "&".join(f"{k}{eq}{'***' if eq and _SECRET_KEY.search(k) else v}" for k, eq, v in pairs)
    return f"{head}?{query}" if query else head


def scrub(text: str, uri: str) -> str:
    """A message without the secrets of `uri`, nor those that MLflow takes from the environment."""
    secrets = {os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")}
    if found := _CREDENTIALS.match(uri):
        user, colon, password = uri[found.end("scheme") : found.end() - 1].partition(":")
        secrets |= {f"{user}:{password}", password, unquote(password)} if colon else {user, unquote(user)}
    for pair in uri.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if _SECRET_KEY.search(key):
            secrets |= {value, unquote(value)}
    text = text.replace(uri, redact(uri))
    for secret in sorted((s for s in secrets if len(s) > 2), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub(r"\g<scheme>***@", text)


def _is_database(uri: str) -> bool:
    return uri.split(":", 1)[0].split("+", 1)[0] in {"sqlite", "postgresql", "mysql", "mssql"}


def connect(uri: str) -> MlflowClient:
    """A client of the tracking store that neither retries by itself nor reports usage to anyone."""
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    utils.MAX_RETRY_COUNT = 1  # not ten tries with growing pauses: whoever waits here tries again by itself
    return MlflowClient(tracking_uri=uri)


def prepare(uri: str) -> None:
    """Make the schema of the tracking store, in one process at a time: concurrent migrations fail.

    Raises:
        TrackingError: the store does not answer.
    """
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f"{database.name}.lock")
    else:
        digest = sha256(uri.encode()).hexdigest()[:16]
        lock = Path(tempfile.gettempdir()) / f"ablate-{os.getuid()}-{digest}.lock"
    with _held(lock):
        try:
            connect(uri).search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"{redact(uri)} does not answer: {scrub(_brief(error), uri)}") from None


@contextmanager
def _held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file; yields whether it is held, which only a caller that does not wait has to ask."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _brief(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def study_path(root: Path, name: str) -> Path:
    """The folder of a study.

    Raises:
        ValueError: the name is no plain folder name.
        FileNotFoundError: there is no such study.
    """
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a study; use letters, digits, '-', '_' and '.'")
    path = root / "studies" / name
    if not (path / "plan.json").exists():
        known = ", ".join(studies(root)) or "none"
        raise FileNotFoundError(f"no study {name!r} under {root / 'studies'}; there is: {known}")
    return path


def studies(root: Path) -> list[str]:
    """Names of the studies under a root, the newest plan last."""
    plans = sorted((root / "studies").glob("*/plan.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent.name for path in plans]


@dataclass(frozen=True)
class _Slot:
    """A cell x seed of the plan: one child run."""

    cell: dict[str, Any]
    seed: int
    signature: str
    evaluation: str
    files: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cell["name"], str(self.seed), self.signature

    @property
    def label(self) -> str:
        return f"{self.cell['name']} seed {self.seed}"


@dataclass
class _Child:
    """What is known of a child run in the tracking store."""

    run_id: str
    status: str
    token: str = ""
    start: int = 0
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    introduced: bool = False
    sent: dict[str, dict[int, float]] | None = None


@dataclass
class _Snapshot:
    """A run directory as read in one go."""

    state: RunState
    lines: list[dict[str, Any]]
    summary: dict[str, Any]
    scored: bool


@dataclass
class Outcome:
    """How far mirroring came: whether the store now holds everything, and a sentence that says so."""

    complete: bool
    message: str

    def __bool__(self) -> bool:
        return self.complete


class Mirror:
    """Passes over one study; what the store holds already is kept in memory between them."""

    def __init__(self, root: Path | str, study: str, tracking_uri: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.study = study
        self.folder = study_path(self.root, study)
        self.uri = resolve_uri(self.root, tracking_uri)
        self.shown_uri = redact(self.uri)
        self._client: MlflowClient | None = None
        self._forget()
        self._curves: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
        self._noisy: float | None = None
        self._plan: dict[str, Any] = {}
        self._plan_stamp: tuple[int, ...] = ()
        self._slots: list[_Slot] = []
        self._curves_changed = True
        self._drawn = 0.0
        self._sampler = _Sampler()

    def _forget(self) -> None:
        """Trust nothing that is remembered of the store: the next pass asks it."""
        self._experiment = ""
        self._parent: _Child | None = None
        self._children: dict[tuple[str, str, str], _Child] = {}
        self._stamps: dict[tuple[str, str, str], tuple[int, ...]] = {}
        self._report_stamps: dict[str, tuple[int, ...]] = {}
        self._troubled: dict[tuple[str, str, str], str] = {}
        self._ask_again = math.inf

    @property
    def lock_path(self) -> Path:
        """Held by the one process that mirrors this study to this store."""
        digest = sha256(self.shown_uri.encode()).hexdigest()[:8]
        return self.folder / f"tracker-{digest}.lock"

    def mirror(self, mode: Mode) -> list[str]:
        """One pass. `live`: the driver runs; `final`: it ends; `sync`: whoever is alive may run.

        Returns:
            A line for each run that could not be mirrored. Empty: the store holds everything.

        Raises:
            TrackingError: the store does not answer.
        """
        try:
            return self._pass(mode)
        except TrackingError:
            self._forget()
            raise
        except Exception as error:
            self._forget()
            raise TrackingError(scrub(_brief(error), self.uri)) from None

    def _pass(self, mode: Mode) -> list[str]:
        self._read_plan()
        if self._troubled and (mode != "live" or time.monotonic() > self._ask_again):
            self._forget()
        if not self._experiment:
            self._open()
        for slot in self._slots:
            if slot.key in self._troubled:
                continue
            try:
                self._mirror_slot(slot, mode)
            except Exception as error:
                if not self._concerns_one_run(error):
                    raise
                self._troubled[slot.key] = f"{slot.label}: {scrub(_brief(error), self.uri)}"
                self._ask_again = time.monotonic() + LONGEST_PAUSE
        self._mirror_parent(mode)
        return list(self._troubled.values())

    def _concerns_one_run(self, error: Exception) -> bool:
        """Whether an error is about one run's files or values, so that the others can go on."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code in _FAULTS_OF_ONE_RUN
        if isinstance(error, OSError):
            return str(error.filename or "").startswith(f"{self.root / 'runs'}{os.sep}")
        return isinstance(error, ValueError | KeyError | TypeError)

    # The plan and the store

    def _read_plan(self) -> None:
        path = self.folder / "plan.json"
        if (stamp := _stamp(path)) != self._plan_stamp:
            self._plan = json.loads(path.read_text())
            self._plan_stamp = stamp
            self._slots = list(self._read_slots())
            self._curves_changed = True

    def _read_slots(self) -> Iterator[_Slot]:
        for cell in self._plan["cells"]:
            for seed, signature in cell["signatures"].items():
                evaluation = cell.get("evaluations", {}).get(seed, "")
                folder = str(self.root / "runs" / signature)
                names = ("state.json", "metrics.jsonl", "summary.json", f"scores/{evaluation}.parquet")
                files = tuple(f"{folder}/{name}" for name in names)
                yield _Slot(cell, int(seed), signature, evaluation, files)

    def _run(self, slot: _Slot) -> RunDir:
        return RunDir(self.root / "runs" / slot.signature)

    def _open(self) -> None:
        """Find or make the experiment and the parent run, and list the children there are."""
        prepare(self.uri)
        client = self._client = self._client or connect(self.uri)
        experiment = client.get_experiment_by_name(self.study)
        if experiment is None:
            location = None
            if _is_database(self.uri):
                location = (self.root / "mlartifacts" / quote(self.study, safe="")).as_uri()
            experiment_id = client.create_experiment(self.study, location, tags=_experiment_tags())
        else:
            experiment_id = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment_id)
            for name, value in _experiment_tags().items():
                if experiment.tags.get(name) != value:
                    client.set_experiment_tag(experiment_id, name, value)
        parents: list[Run] = []
        for run in _all_runs(client, experiment_id):
            tags = run.data.tags
            if tags.get("ablate.kind") == "study":
                parents.append(run)
            elif tags.get("ablate.kind") == "run":
                key = tags["ablate.cell"], tags["ablate.seed"], tags["ablate.signature"]
                if key in self._children:
                    client.delete_run(run.info.run_id)
                else:
                    self._children[key] = _known(run)
        self._experiment = experiment_id
        self._parent = self._open_parent(parents)

    def _open_parent(self, found: list[Run]) -> _Child:
        client = self.client
        plan = self._plan
        recipe = plan.get("recipe")
        params = {
            "base": plan["base"],
            "baseline": plan.get("baseline"),
            "design": plan.get("design"),
            "recipe": recipe.get("name") if isinstance(recipe, dict) else recipe,
            "endpoint": plan.get("endpoint"),
            "corpus": plan["corpus"]["name"],
        }
        if found:
            parent = _known(found[0])
        else:
            tags = {**self._common_tags(), "ablate.kind": "study", "mlflow.runName": self.study}
            start = int(_seconds(plan.get("created")) * 1000)
            run = client.create_run(self._experiment, start_time=start, tags=tags, run_name=self.study)
            parent = _known(run)
        self._log_params(parent, params)
        client.log_inputs(parent.run_id, self._datasets())
        client.log_artifact(parent.run_id, str(self.folder / "plan.json"))
        return parent

    @property
    def client(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _common_tags(self) -> dict[str, str]:
        plan = self._plan
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "ablate",
            "mlflow.source.type": "LOCAL",
            "ablate.study": self.study,
            "ablate.data_digest": plan["corpus"]["digest"],
        }
        if plan.get("git_commit"):
            tags["mlflow.source.git.commit"] = plan["git_commit"]
        return tags

    def _datasets(self) -> list[Any]:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        corpus = self._plan["corpus"]
        source = json.dumps({"uri": str(corpus["path"])})
        found = []
        for context, digest in (("training", corpus["digest"]), ("test", corpus.get("test_digest"))):
            if digest:
                profile = json.dumps({"kind": corpus.get("kind"), "sha256": digest})
                name = corpus["name"] if context == "training" else f"{corpus['name']} (test)"
                dataset = Dataset(name[:500], digest[:36], "local", source, profile=profile)
                found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        return found

    def _log_params(self, child: _Child, params: dict[str, Any]) -> None:
        """Log the parameters the run lacks; MLflow refuses to change one."""
        from mlflow.entities import Param

        named = {_name(key): value for key, value in params.items() if value is not None}
        missing = {key: value for key, value in named.items() if key not in child.params}
        items = [Param(key, _text(value)[:6000]) for key, value in missing.items()]
        for start in range(0, len(items), 100):
            self.client.log_batch(child.run_id, params=items[start : start + 100])
        child.params |= missing.keys()

    def _log_tags(self, child: _Child, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        changed = {key: value for key, value in tags.items() if child.tags.get(key, "") != value}
        if changed:
            self.client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in changed.items()])
            child.tags |= changed

    # A child run

    def _mirror_slot(self, slot: _Slot, mode: Mode) -> None:
        child = self._children.get(slot.key)
        run = self._run(slot)
        stamp = tuple(value for path in slot.files for value in _stamp(path))
        if stamp == self._stamps.get(slot.key) and (mode == "live" or child is None or _ended(child.status)):
            if child is not None and mode == "live" and child.status == "RUNNING":
                self._sample(child, run)
            return
        state = run.state
        scored = run.scores_path(slot.evaluation).exists()
        status = _status(state, scored, mode)
        if child is None and state.state == "pending" and not state.attempts:
            self._stamps[slot.key] = stamp
            return
        token = f"{state.state} {state.updated} {slot.evaluation[:12] if scored else 'unscored'}"
        if child is not None and child.token == token and child.status == status and _ended(status):
            self._stamps[slot.key] = stamp
            return
        snapshot = _Snapshot(state, run.metrics(), run.summary, scored)
        if child is None:
            child = self._create(slot, snapshot)
        elif child.status != status and status == "RUNNING":
            self.client.update_run(child.run_id, status="RUNNING")
            self._log_tags(child, _state_tags(state, "running"))
            child.status = "RUNNING"
        if not child.introduced:
            self._introduce(slot, child)
        child = self._send_metrics(slot, child, snapshot, settled=status in {"FINISHED", "FAILED"})
        if _ended(status):
            self._finish(slot, child, run, snapshot, status)
            self.client.set_tag(child.run_id, "ablate.mirrored", token)
            child.token = token
        else:
            self._sample(child, run)
        self._stamps[slot.key] = stamp

    def _create(self, slot: _Slot, snapshot: _Snapshot) -> _Child:
        assert self._parent is not None
        tags = {
            **self._common_tags(),
            **{
                key: value
                for key, value in _state_tags(snapshot.state, snapshot.state.state).items()
                if value
            },
            "ablate.kind": "run",
            "ablate.cell": slot.cell["name"],
            "ablate.seed": str(slot.seed),
            "ablate.signature": slot.signature,
            "mlflow.parentRunId": self._parent.run_id,
        }
        if corpus_test := self._plan["corpus"].get("test_digest"):
            tags["ablate.test_digest"] = corpus_test
        start = snapshot.state.started or snapshot.state.updated or time.time()
        run = self.client.create_run(self._experiment, int(start * 1000), tags, run_name=slot.label)
        child = self._children[slot.key] = _known(run)
        child.sent = {}
        self._remember(slot, child, None)
        return child

    def _introduce(self, slot: _Slot, child: _Child) -> None:
        """Log what is known of a run before it starts."""
        self._log_params(child, _params(slot))
        self.client.log_inputs(child.run_id, self._datasets())
        self.client.log_dict(child.run_id, slot.cell["config"], "config.json")
        child.introduced = True

    def _remember(self, slot: _Slot, child: _Child, cursor: int | None) -> None:
        """Keep run id and last step sent in the run directory, where several studies may meet."""
        path = self._run(slot).path / "mlflow.json"
        with _held(self.root / "mlflow-runs.lock"):
            known = read_json(path) or {}
            children = known.setdefault(self.shown_uri, {}).setdefault(self.study, {})
            entry = {"run_id": child.run_id, "cursor": cursor}
            if children.get(slot.label) != entry:
                children[slot.label] = entry
                write_json(path, known)

    def _recall(self, slot: _Slot, child: _Child) -> int | None:
        """The last step that was sent to this very run, as far as the run directory knows."""
        known = read_json(self._run(slot).path / "mlflow.json") or {}
        entry = known.get(self.shown_uri, {}).get(self.study, {}).get(slot.label, {})
        return entry.get("cursor") if entry.get("run_id") == child.run_id else None

    def _send_metrics(self, slot: _Slot, child: _Child, snapshot: _Snapshot, *, settled: bool) -> _Child:
        """Send the steps the store lacks. A settled run is compared with the store and, where they
        disagree, made anew: the run directory is right."""
        from mlflow.entities import Metric

        wanted: dict[str, dict[int, Metric]] = {}
        for line in snapshot.lines:
            for name, value in line.items():
                if name not in {"step", "time"} and _finite(value):
                    key = name if "/" in name else f"train/{name}"
                    stamp = int(line.get("time", 0) * 1000)
                    metric = Metric(key, float(value), stamp, int(line["step"]))
                    wanted.setdefault(key, {})[metric.step] = metric
        self._keep_curve(slot, wanted.get("val/pesq_wb", {}), snapshot.summary)
        last = max((int(line["step"]) for line in snapshot.lines), default=None)
        if child.sent is None:
            cursor = self._recall(slot, child)
            if not settled and cursor is not None and (last is None or last <= cursor):
                return child
            child.sent = self._history(child, wanted)
        if child.sent is None or (settled and not _agree(child.sent, wanted)):
            return self._replace(slot, child, snapshot)
        missing = [m for steps in wanted.values() for m in steps.values() if not _has(child.sent, m)]
        missing.sort(key=lambda metric: metric.step)
        for start in range(0, len(missing), 1000):
            self.client.log_batch(child.run_id, metrics=missing[start : start + 1000])
        for metric in missing:
            child.sent.setdefault(metric.key, {})[metric.step] = metric.value
        if missing:
            self._remember(slot, child, last)
        return child

    def _history(self, child: _Child, keys: Iterable[str]) -> dict[str, dict[int, float]] | None:
        """What the store holds of some metrics: key -> step -> value; None if a step stands there twice."""
        found: dict[str, dict[int, float]] = {}
        for key in keys:
            history = self.client.get_metric_history(child.run_id, key)
            found[key] = {metric.step: metric.value for metric in history}
            if len(found[key]) < len(history):
                return None
        return found

    def _replace(self, slot: _Slot, child: _Child, snapshot: _Snapshot) -> _Child:
        """Put a fresh child in the place of one that holds other values than the run directory."""
        self.client.delete_run(child.run_id)
        fresh = self._create(slot, snapshot)
        self._introduce(slot, fresh)
        return self._send_metrics(slot, fresh, snapshot, settled=False)

    def _finish(self, slot: _Slot, child: _Child, run: RunDir, snapshot: _Snapshot, status: str) -> None:
        """Final metrics, tags, artifacts and status."""
        from mlflow.entities import Metric

        state, summary = snapshot.state, snapshot.summary
        ended = state.finished or state.updated or time.time()
        scores = _read_scores(run.scores_path(slot.evaluation)) if snapshot.scored else None
        values = {**_costs(summary, slot.cell), **(_means(scores) if scores is not None else {})}
        known = self.client.get_run(child.run_id).data.metrics
        metrics = [
            Metric(_name(key), value, int(ended * 1000), 0)  # at step 0 the UI draws bars
            for key, value in values.items()
            if key not in known or not math.isclose(known[key], value, rel_tol=1e-9, abs_tol=1e-12)
        ]
        if metrics:
            self.client.log_batch(child.run_id, metrics)
        label = "done, not scored" if state.state == "done" and not snapshot.scored else state.state
        measured = {
            "ablate.scan_backend": summary.get("scan_backend"),
            "ablate.device": summary.get("device"),
            "ablate.machine": summary.get("machine"),
            "mlflow.source.git.commit": summary.get("git_commit"),
        }
        self._log_tags(child, _state_tags(state, label) | {k: str(v) for k, v in measured.items() if v})
        with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as staging:
            self._stage(Path(staging), slot, run, snapshot, scores)
            self.client.log_artifacts(child.run_id, staging)
        self.client.set_terminated(child.run_id, status, int(ended * 1000))
        child.status = status

    def _stage(self, folder: Path, slot: _Slot, run: RunDir, snapshot: _Snapshot, scores: Any) -> None:
        """Lay a run's artifacts out in a folder."""
        (folder / "config.json").write_text(json.dumps(slot.cell["config"], indent=1))
        for name in ("metrics.jsonl", "summary.json"):
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, folder / name)
        if run.log.exists():
            (folder / "log.txt").write_bytes(_tail(run.log, LOG_TAIL))
        if scores is not None:
            shutil.copyfile(run.scores_path(slot.evaluation), folder / "scores.parquet")
            scores.to_csv(folder / "scores.csv", index=False)
        if clips := sorted(run.audio.glob("*.wav")):
            (folder / "audio").mkdir()
            for clip in clips:
                shutil.copyfile(clip, folder / "audio" / clip.name)
        curve = self._curves.get(slot.key)
        if curve:
            noisy = snapshot.summary.get("noisy_val_pesq_wb")
            _draw(folder / "pesq_curve.png", {slot.label: [curve]}, noisy, slot.label)

    def _keep_curve(self, slot: _Slot, values: dict[int, Any], summary: dict[str, Any]) -> None:
        curve = sorted((step, metric.value) for step, metric in values.items())
        if curve != self._curves.get(slot.key):
            self._curves[slot.key] = curve
            self._curves_changed = True
        if _finite(noisy := summary.get("noisy_val_pesq_wb")):
            self._noisy = float(noisy)

    def _sample(self, child: _Child, run: RunDir) -> None:
        """Log processor, memory and GPU of the worker that writes a run on this machine."""
        from mlflow.entities import Metric

        values = self._sampler.sample(run)
        if values:
            now = int(time.time() * 1000)
            step = max(0, (now - child.start) // 1000)
            self.client.log_batch(child.run_id, [Metric(k, v, now, step) for k, v in values.items()])

    # The parent run

    def _mirror_parent(self, mode: Mode) -> None:
        parent = self._parent
        assert parent is not None
        slots = self._slots
        children = [child for slot in slots if (child := self._children.get(slot.key))]
        counts = {status: sum(c.status == status for c in children) for status in ("FINISHED", "FAILED")}
        done, failed = counts["FINISHED"], counts["FAILED"]
        progress = f"{done} of {len(slots)} done" + (f", {failed} failed or diverged" if failed else "")
        tags = {
            "ablate.progress": progress,
            "ablate.seeds": ",".join(str(seed) for seed in self._plan.get("seeds", [])),
            "mlflow.note.content": self._note(progress, [child.run_id for child in children]),
        }
        self._log_tags(parent, tags)
        self._log_report(parent)
        if self._curves_changed and (mode != "live" or time.monotonic() - self._drawn > REDRAW_EVERY):
            self._draw_curves(parent, slots)
        if mode == "live" or any(not _ended(child.status) for child in children):
            status = "RUNNING"
        elif failed and done + failed == len(slots):
            status = "FAILED"
        else:
            status = "FINISHED" if done == len(slots) else "KILLED"
        if status != parent.status:
            if status == "RUNNING":
                self.client.update_run(parent.run_id, status=status)
            else:
                self.client.set_terminated(parent.run_id, status)
            parent.status = status

    def _note(self, progress: str, run_ids: list[str]) -> str:
        head = [f"**{progress}.**"]
        if run_ids:
            link = compare_link(self._experiment, run_ids)
            which = "these runs" if len(run_ids) <= COMPARED else f"the first {COMPARED} runs"
            head.append(f"[Compare {which}]({link}).")
        if self._plan["corpus"].get("is_demo"):
            head.append("Demo corpus: for trying the harness, not for conclusions.")
        lines = [" ".join(head)]
        table = self.folder / "report" / "table.md"
        if table.exists():
            text = table.read_text()
            room = NOTE_LIMIT - sum(len(line) + 2 for line in lines)
            if len(text) > room:
                rows = text[: max(0, room - 80)].rpartition("\n")[0]
                text = f"{rows}\n\n(cut; the whole table is the artifact report/table.md)"
            lines.append(text)
        return "\n\n".join(lines)

    def _log_report(self, parent: _Child) -> None:
        folder = self.folder / "report"
        for path in sorted(folder.rglob("*")) if folder.exists() else []:
            name = str(path.relative_to(folder))
            stamp = _stamp(path)
            if path.is_file() and not path.name.startswith(".") and self._report_stamps.get(name) != stamp:
                where = str(Path("report") / path.relative_to(folder).parent)
                self.client.log_artifact(parent.run_id, str(path), where)
                self._report_stamps[name] = stamp

    def _draw_curves(self, parent: _Child, slots: list[_Slot]) -> None:
        cells: dict[str, list[list[tuple[int, float]]]] = {}
        for slot in slots:
            curve = self._curves.get(slot.key)
            if curve is None and slot.key in self._children:
                run = self._run(slot)
                values = {int(m["step"]): m.get("val/pesq_wb") for m in run.metrics()}
                curve = sorted((step, float(v)) for step, v in values.items() if _finite(v))
                self._curves[slot.key] = curve
                if _finite(noisy := run.summary.get("noisy_val_pesq_wb")):
                    self._noisy = float(noisy)
            if curve:
                cells.setdefault(slot.cell["name"], []).append(curve)
        if cells:
            with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as staging:
                figure = Path(staging) / "pesq_curves.png"
                _draw(figure, cells, self._noisy, f"{self.study}: validation PESQ by cell")
                self.client.log_artifact(parent.run_id, str(figure))
        self._curves_changed = False
        self._drawn = time.monotonic()


def _experiment_tags() -> dict[str, str]:
    """Tags that make an experiment model development in the UI and give it a shared view.

    The view groups the child runs by cell, so that a chart has one curve for each cell.
    """
    view = {
        "searchFilter": "tags.`ablate.kind` = 'run'",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "cell"}],
        },
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [],
        "compareRunSections": [
            {
                "uuid": f"{VIEW}-{name}",
                "name": name,
                "display": shown,
                "isReordered": False,
                "isGenerated": True,
            }
            for name, shown in _SECTIONS.items()
        ],
        "isAccordionReordered": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def runs_link(experiment_id: str) -> str:
    """The MLflow page of an experiment's runs, grouped by cell and charted, relative to the server."""
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    )


def compare_link(experiment_id: str, run_ids: list[str]) -> str:
    """The part after `#` of the MLflow page that compares some runs, as a relative link."""
    runs = quote(json.dumps(run_ids[:COMPARED], separators=(",", ":")))
    experiments = quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def _all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """The active runs of an experiment, the oldest first."""
    page = None
    while True:
        found = client.search_runs(
            [experiment_id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=page
        )
        yield from found
        page = found.token
        if not page:
            return


def _known(run: Run) -> _Child:
    tags, params = run.data.tags, run.data.params
    token = tags.get("ablate.mirrored", "")
    start = run.info.start_time or 0
    return _Child(run.info.run_id, run.info.status, token, start, set(params), dict(tags))


def _ended(status: str) -> bool:
    return status != "RUNNING"


def _status(state: RunState, scored: bool, mode: Mode) -> str:
    """MLflow's status of a run. What is unfinished counts as running only while somebody works on it."""
    if state.state == "done" and scored:
        return "FINISHED"
    if state.state in {"failed", "diverged"}:
        return "KILLED" if state.cause == "interrupted" else "FAILED"
    if state.state == "pending" or mode == "final":
        return "KILLED"
    return "RUNNING" if mode == "live" or _alive(state) else "KILLED"


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


def _state_tags(state: RunState, label: str) -> dict[str, str]:
    return {
        "ablate.state": label,
        "ablate.cause": state.cause or "",
        "ablate.message": (state.message or "")[:1000],
        "ablate.attempts": str(state.attempts),
    }


def _params(slot: _Slot) -> dict[str, Any]:
    params: dict[str, Any] = {"cell": slot.cell["name"], "seed": slot.seed}
    params |= {f"factor.{name}": level for name, level in slot.cell.get("levels", {}).items()}
    for part, fields in slot.cell["config"].items():
        params |= {f"{part}.{name}": "none" if v is None else v for name, v in fields.items()}
    params["parameters"] = slot.cell.get("parameters")
    return params


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
    return {key: float(values[name]) for name, key in names.items() if _finite(values.get(name))}


def _read_scores(path: Path) -> Any:
    import pandas

    return pandas.read_parquet(path)


def _means(scores: Any) -> dict[str, float]:
    """Means over the test utterances that could be scored, and how many could not."""
    means = scores.drop(columns=["seconds", "snr"], errors="ignore").mean(numeric_only=True).to_dict()
    found = {f"test/{name}": float(value) for name, value in means.items() if _finite(value)}
    found["test/utterances"] = float(len(scores))
    if "error" in scores and (errors := int(scores["error"].notna().sum())):
        found["test/errors"] = float(errors)
    return found


def _agree(sent: dict[str, dict[int, float]], wanted: dict[str, dict[int, Any]]) -> bool:
    """Whether what the store holds is part of what the run directory holds."""
    return all(
        step in (lines := wanted.get(key, {}))
        and math.isclose(lines[step].value, value, rel_tol=1e-9, abs_tol=1e-12)
        for key, steps in sent.items()
        for step, value in steps.items()
    )


def _has(sent: dict[str, dict[int, float]], metric: Any) -> bool:
    return metric.step in sent.get(metric.key, {})


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(key: str) -> str:
    """A key as MLflow takes it: letters, digits, `_ - . : / ` and blanks."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)[:250]


def _seconds(created: Any) -> float:
    """A plan's time of making, as a number or in ISO form, in seconds since the epoch."""
    from datetime import datetime

    if _finite(created):
        return float(created)
    try:
        return datetime.fromisoformat(str(created)).timestamp()
    except ValueError:
        return time.time()


def _stamp(path: Path | str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - size))
        return handle.read(size)


def _draw(
    path: Path, cells: dict[str, list[list[tuple[int, float]]]], noisy: float | None, title: str
) -> None:
    """Validation PESQ over steps: the mean over seeds for each cell, and a band from lowest to highest."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained" if len(cells) > 1 else None)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = colormaps["tab10" if len(cells) <= 10 else "tab20"]
    styles = ("-", "--", ":", "-.")
    for index, (name, curves) in enumerate(cells.items()):
        by_step: dict[int, list[float]] = {}
        for curve in curves:
            for step, value in curve:
                by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        mean = [sum(by_step[s]) / len(by_step[s]) for s in steps]
        colour, style = colours(index % colours.N), styles[index // colours.N % len(styles)]
        label = f"{name} ({len(curves)} seeds)" if len(curves) > 1 else name
        axes.plot(steps, mean, style, color=colour, label=label, marker="o", markersize=3)
        if len(curves) > 1:
            low, high = [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps]
            axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    if noisy is not None:
        axes.axhline(noisy, color="0.4", linewidth=1, linestyle=(0, (4, 3)), label="noisy input")
    axes.set(xlabel="optimiser step", ylabel="validation PESQ-WB", title=title)
    axes.grid(alpha=0.25)
    if len(cells) > 1:
        columns = 1 + len(cells) // 25
        figure.legend(loc="outside right upper", fontsize=8 if len(cells) <= 25 else 6, ncols=columns)
    elif noisy is not None:
        axes.legend(loc="best", fontsize=8)
    figure.savefig(path)


class _Sampler:
    """Processor, memory and GPU of worker processes on this machine."""

    def __init__(self) -> None:
        self._processes: dict[int, Any] = {}
        self._last: dict[Path, float] = {}
        self._host = socket.gethostname()
        self._nvml = _nvml()

    def sample(self, run: RunDir) -> dict[str, float]:
        """What the worker of a run uses now, with its children; empty if it is not yet time or not here."""
        import psutil

        now = time.monotonic()
        if now - self._last.get(run.path, -math.inf) < SAMPLE_EVERY:
            return {}
        self._last[run.path] = now
        state = run.state
        if state.pid is None or state.host != self._host or state.state != "running":
            return {}
        try:
            worker = self._processes.setdefault(state.pid, psutil.Process(state.pid))
            family = [worker, *worker.children(recursive=True)]
            shares, memory = [], 0
            for process in family:
                process = self._processes.setdefault(process.pid, process)
                shares.append(process.cpu_percent(None))
                memory += process.memory_info().rss
        except psutil.Error:
            self._processes.pop(state.pid, None)
            return {}
        values = {
            "system/cpu_percent": float(sum(shares)),
            "system/memory_megabytes": memory / 1e6,
            "system/machine_cpu_percent": psutil.cpu_percent(None),
            "system/machine_memory_percent": psutil.virtual_memory().percent,
        }
        return values | self._gpus({process.pid for process in family})

    def _gpus(self, pids: set[int]) -> dict[str, float]:
        """Use of the GPUs on which one of the processes runs."""
        nvml = self._nvml
        if nvml is None:
            return {}
        found: dict[str, float] = {}
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                mine = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(device) if p.pid in pids]
                if mine:
                    used = sum(process.usedGpuMemory or 0 for process in mine)
                    share = nvml.nvmlDeviceGetUtilizationRates(device).gpu
                    found[f"system/gpu_{index}_percent"] = float(share)
                    found[f"system/gpu_{index}_memory_megabytes"] = used / 1e6
        except nvml.NVMLError:
            return {}
        return found


def _nvml() -> Any:
    """NVIDIA's library, or None where there is no such package, driver or card."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


def mirror(root: Path | str, study: str, tracking_uri: str | None = None) -> Outcome:
    """Bring the MLflow experiment of a study up to date with its run directories, in one full pass.

    Raises:
        ValueError, FileNotFoundError: there is no such study.
        TrackingError: the store does not answer.
    """
    target = Mirror(root, study, tracking_uri)
    with _held(target.lock_path, wait=False) as held:
        if not held:
            return Outcome(False, f"another process mirrors {study} to {target.shown_uri} at this moment")
        return _outcome(target, target.mirror("sync"))


def _outcome(target: Mirror, problems: list[str]) -> Outcome:
    if not problems:
        return Outcome(True, f"{target.study} is mirrored in {target.shown_uri}")
    shown = "; ".join(problems[:5])
    return Outcome(False, f"{len(problems)} runs of {target.study} could not be mirrored: {shown}")


class TrackerProcess:
    """A process beside the driver that mirrors a study until it is stopped or the driver is gone.

    It never blocks the driver: what the tracking store does not take is left for `ablate sync`.
    """

    def __init__(self, root: Path | str, study: str, tracking_uri: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.study = study
        self.uri = resolve_uri(self.root, tracking_uri)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where the process says what goes wrong."""
        return self.root / "studies" / self.study / "tracker.log"

    def start(self) -> None:
        """Start the process; the URI goes through the environment, for it may hold a password."""
        arguments = ["--root", str(self.root), "--study", self.study]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "studies.tracker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **_CLIENT_SETTINGS, URI_VARIABLE: self.uri, "OMP_NUM_THREADS": "1"},
        )

    def stop(self, timeout: float = 60.0) -> Outcome:
        """End with a final pass; after `timeout` seconds the process is killed.

        Returns:
            Whether the store holds everything; if not, the message says what to do.
        """
        process = self._process
        if process is None:
            return Outcome(True, "no tracker was started")
        assert process.stdin is not None
        process.stdin.close()
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        if code == 0:
            return Outcome(True, f"{self.study} is mirrored in {redact(self.uri)}")
        reason = f"it took more than {timeout:.0f} s" if code is None else _last_line(self.log)
        return Outcome(
            False,
            f"MLflow does not hold all of {self.study} yet ({reason}); "
            f"nothing is lost: run `ablate sync {self.study}` when {redact(self.uri)} answers",
        )


def _last_line(path: Path) -> str:
    try:
        return path.read_text().rstrip().rpartition("\n")[2] or "no message"
    except FileNotFoundError:
        return "no message"


def follow(
    root: Path, study: str, uri: str, *, stopped: Callable[[float], bool], say: Callable[[str], None]
) -> bool:
    """Mirror a study until `stopped(seconds)`, which waits at most that long, answers yes.

    Returns:
        Whether the store holds everything at the end.
    """
    target = Mirror(root, study, uri)
    while True:
        with _held(target.lock_path, wait=False) as held:
            if held:
                return _follow(target, stopped, say)
        if stopped(INTERVAL):
            say(f"another process mirrors {study} to {target.shown_uri}")
            return False


def _follow(target: Mirror, stopped: Callable[[float], bool], say: Callable[[str], None]) -> bool:
    pause, said = 0.0, ""
    while not stopped(pause):
        begun = time.process_time()
        try:
            problems = target.mirror("live")
            text = _outcome(target, problems).message if problems else ""
            pause = max(INTERVAL, 20 * (time.process_time() - begun))
        except TrackingError as error:
            pause = min(LONGEST_PAUSE, max(INTERVAL, pause * 2))
            text = str(error)
        if text != said:
            say(text or f"{target.shown_uri} takes everything again")
            said = text
    started = time.monotonic()
    while True:
        try:
            outcome = _outcome(target, target.mirror("final"))
        except TrackingError as error:
            outcome = Outcome(False, str(error))
        if outcome.complete or time.monotonic() - started > 2:
            say(outcome.message)
            return outcome.complete
        time.sleep(0.5)


def main(arguments: list[str] | None = None) -> int:
    """The mirroring process: ends with a final pass when its standard input closes."""
    import argparse

    parser = argparse.ArgumentParser(prog="studies.tracker", description=main.__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--study", required=True)
    options = parser.parse_args(arguments)
    uri = resolve_uri(options.root)
    log = study_path(options.root, options.study) / "tracker.log"

    def say(message: str) -> None:
        with log.open("a") as handle:
            handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {scrub(message, uri)}\n")

    terminated = False

    def terminate(*_: Any) -> None:
        nonlocal terminated
        terminated = True

    signal.signal(signal.SIGTERM, terminate)
    driver = os.getppid()
    os.nice(10)

    def stopped(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not terminated and os.getppid() == driver:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ready, _, _ = select.select([sys.stdin], [], [], min(left, 1.0))
            if ready and not os.read(sys.stdin.fileno(), 4096):
                return True
        return True

    try:
        return 0 if follow(options.root, options.study, uri, stopped=stopped, say=say) else 1
    except Exception as error:
        say(_brief(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
