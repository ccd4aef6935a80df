"""Mirrors one study in passes, each of which sends what the store lacks."""

from __future__ import annotations

import getpass
import json
import os
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ablate.training.files import LockHeldError, locked
from ablate.training.rundir import RunDir, read_json

from ..identity import root_identity
from ..plan import Plan, find, load, run_dirs, study_path
from ..redaction import brief, redact, scrub
from .run_mirror import Child, Mode, Place, stamp
from .store import (
    COMPARED,
    Record,
    TrackingError,
    compare_link,
    connect,
    default_uri,
    open_experiment,
    prepare,
    resolve_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

LONGEST_PAUSE = 60.0
"""Maximum seconds between two attempts while the store does not answer or a run cannot be mirrored."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
FAULTS_OF_ONE_RUN = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
)
"""MLflow's error codes that concern the data that was sent, not the store."""
NOTE_LIMIT = 7500
"""Maximum number of characters of a note; MLflow refuses tags longer than 8000."""


@dataclass(frozen=True)
class Mirrored:
    """The result of mirroring: whether the store is complete, and a sentence about it."""

    complete: bool
    message: str

    def __bool__(self) -> bool:
        return self.complete


class Mirror:
    """Mirrors one study in passes; remembers what the store already has.

    Raises:
        InputError: there is no such study.
    """

    def __init__(self, root: Path | str, study: str, tracking_uri: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.study = find(self.root, study)
        self.folder = study_path(self.root, study)
        self.uri = resolve_uri(self.root, tracking_uri)
        self.shown_uri = redact(self.uri)
        self._parent: Record | None = None
        self._children: list[Child] = []
        self._stamp: tuple[int, ...] = ()
        self._ask_again = 0.0

    @property
    def lock_path(self) -> Path:
        """The lock file of the only process that may mirror this study to this store."""
        digest = sha256(self.shown_uri.encode()).hexdigest()[:8]
        return self.folder / f"tracker-{digest}.lock"

    def outcome(self, problems: list[str]) -> Mirrored:
        """The result of a pass that had these problems."""
        if not problems:
            return Mirrored(True, f"{self.study} is complete in {self.shown_uri}")
        shown = "; ".join(problems[:5])
        return Mirrored(False, f"{len(problems)} runs of {self.study} could not be sent to MLflow: {shown}")

    def mirror(self, mode: Mode) -> list[str]:
        """Make one pass. Returns a line for each run that could not be mirrored.

        Raises TrackingError if the store does not answer.
        """
        try:
            return self._pass(mode)
        except Exception as error:
            self._parent = None  # trust nothing that is remembered of the store
            if isinstance(error, TrackingError):
                raise
            raise TrackingError(scrub(brief(error), self.uri)) from None

    def _pass(self, mode: Mode) -> list[str]:
        planned = stamp(self.folder / "plan.json")
        troubled = any(child.trouble for child in self._children)
        again = troubled and (mode != "live" or time.monotonic() > self._ask_again)
        if self._parent is None or planned != self._stamp or again:
            self._parent, self._stamp = self._open(), planned
            self._sent: dict[Path, tuple[int, ...]] = {}
        for child in self._children:
            if child.trouble:
                continue
            try:
                child.mirror(mode)
            except Exception as error:
                if not self._concerns_one_run(error):
                    raise
                child.trouble = f"{child.label}: {scrub(brief(error), self.uri)}"
                self._ask_again = time.monotonic() + LONGEST_PAUSE
        self._sum_up(self._parent, mode)
        return [child.trouble for child in self._children if child.trouble]

    def _concerns_one_run(self, error: Exception) -> bool:
        """Whether an error concerns one run's files or values only, so that the other runs can continue."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code in FAULTS_OF_ONE_RUN
        if isinstance(error, OSError):
            return str(error.filename or "").startswith(f"{self.root / 'runs'}{os.sep}")
        return isinstance(error, ValueError | KeyError | TypeError)

    def _open(self) -> Record:
        """Read the plan, find or create the experiment and the study's run, and find its existing child
        runs."""
        prepare(self.uri)
        plan, client = load(self.root, self.study), connect(self.uri)
        self._plan = plan
        identity = root_identity(self.root)
        artifacts = (self.root / "mlartifacts" / quote(self.study, safe="")).as_uri()
        experiment, runs = open_experiment(
            client,
            self.study,
            identity,
            self._ours,
            artifacts if self.uri.startswith(DATABASES) else None,
        )
        found: dict[tuple[str | None, ...], Record] = {}
        for run in runs:
            if "ablate.root" not in run.data.tags:
                client.set_tag(run.info.run_id, "ablate.root", identity)
            names = ("ablate.cell", "ablate.seed", "ablate.signature")
            key = tuple(run.data.tags.get(name) for name in names)
            if key in found and all(key):
                client.delete_run(run.info.run_id)
            elif "ablate.kind" in run.data.tags:
                found.setdefault(key, Record(client, run))
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "ablate",
            "mlflow.source.type": "LOCAL",
            "ablate.study": self.study,
            "ablate.root": identity,
            "ablate.data_digest": plan.corpus.digest,
            "ablate.test_digest": plan.corpus.test_digest,
        }
        if commit := plan.train.commit if plan.train else plan.git_commit:
            tags["mlflow.source.git.commit"] = commit
        place = Place(self.root, self.study, client, self.shown_uri, experiment, tags, _datasets(plan))
        if (parent := found.get((None, None, None))) is None:
            start, tags = int(plan.created * 1000), tags | {"ablate.kind": "study"}
            parent = Record(client, client.create_run(experiment, start, tags, run_name=plan.name))
        params = plan.model_dump(mode="json", include={"base", "baseline", "design", "recipe", "endpoint"})
        parent.log_params(params | {"corpus": plan.corpus.name})
        client.log_inputs(parent.run_id, place.datasets)
        self._experiment = experiment
        self._children = [
            Child(place, parent.run_id, cell, seed, at.step_fraction)
            for at in plan.every_step_fraction()
            for cell, seed in at.runs
        ]
        for child in self._children:
            child.record = found.get(child.key)
        return parent

    def _ours(self, runs: list[Run]) -> list[Run]:
        """The runs that this root created, by their tag or because a run directory names them."""
        identity = root_identity(self.root)
        if self.uri == default_uri(self.root):
            return runs
        told = [
            read_json(run.path / "mlflow.json") or {}
            for at in self._plan.every_step_fraction()
            for run in run_dirs(at, self.root).values()
        ]
        labels = [entry.get(self.shown_uri, {}).get(self.study, {}) for entry in told]
        named = {run["run_id"] for entry in labels for run in entry.values()}
        named |= {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id in named}
        return [
            run
            for run in runs
            if run.data.tags.get("ablate.root", identity if run.info.run_id in named else "") == identity
        ]

    def _sum_up(self, parent: Record, mode: Mode) -> None:
        """Update the study's run from its child runs, one for each cell x seed."""
        children = self._children
        records = [child.record for child in children if child.record is not None]
        statuses = [record.status for record in records]
        done, failed = statuses.count("FINISHED"), statuses.count("FAILED")
        progress = f"{done} of {len(children)} done" + (f", {failed} failed or diverged" if failed else "")
        parent.log_tags(
            {
                "ablate.progress": progress,
                "ablate.seeds": ",".join(map(str, self._plan.seeds)),
                "mlflow.note.content": self._note(progress, [record.run_id for record in records]),
            }
        )
        self._log_files(parent)
        if mode == "live" or "RUNNING" in statuses:
            status = "RUNNING"
        elif failed and done + failed == len(children):
            status = "FAILED"
        else:
            status = "FINISHED" if done == len(children) else "KILLED"
        if status != parent.status:
            parent.set_status(status)

    def _note(self, progress: str, run_ids: list[str]) -> str:
        note = f"**{progress}.**"
        if run_ids:
            which = "these runs" if len(run_ids) <= COMPARED else f"the first {COMPARED} runs"
            note += f" [Compare {which}]({compare_link(self._experiment, run_ids)})."
        if self._plan.corpus.is_demo:
            note += " Demo corpus: for trying out ablate, not for conclusions."
        table = self.folder / "report" / "table.md"
        if not table.exists():
            return note
        text, room = table.read_text(), NOTE_LIMIT - len(note) - 2
        if len(text) > room:
            rows = text[: max(0, room - 80)].rpartition("\n")[0]
            text = f"{rows}\n\n(cut; the whole table is the artifact report/table.md)"
        return f"{note}\n\n{text}"

    def _log_files(self, parent: Record) -> None:
        """Log the plan, the report, and the clean and noisy clips that all runs share."""
        clips = RunDir(self.root / "runs" / "any").references(self._plan.corpus.test_digest)
        files = dict.fromkeys(clips.glob("*.wav"), "audio") | {self.folder / "plan.json": ""}
        for path in self.folder.glob("report/**/*"):
            if path.is_file() and not path.name.startswith("."):
                files[path] = str(path.parent.relative_to(self.folder))
        for path, where in files.items():
            if self._sent.get(path) != (now := stamp(path)):
                parent.client.log_artifact(parent.run_id, str(path), where or None)
                self._sent[path] = now


def _datasets(plan: Plan) -> list[DatasetInput]:
    """The corpus as MLflow's dataset inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    corpus, found = plan.corpus, []
    for context, digest, part in (("training", corpus.digest, ""), ("test", corpus.test_digest, " (test)")):
        source = json.dumps({"uri": corpus.path})
        profile = json.dumps({"kind": corpus.kind, "sha256": digest})
        dataset = Dataset(f"{corpus.name}{part}"[:500], digest[:36], "local", source, profile=profile)
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def mirror(root: Path | str, study: str, tracking_uri: str | None = None) -> Mirrored:
    """Bring the MLflow experiment of a study up to date with its run directories, in one full pass.

    Raises:
        InputError: there is no such study.
        TrackingError: the store does not answer.
    """
    target = Mirror(root, study, tracking_uri)
    try:
        with locked(target.lock_path, wait=False):
            return target.outcome(target.mirror("sync"))
    except LockHeldError:
        return Mirrored(False, f"another process is sending {study} to {target.shown_uri}")
