"""Passes over one study: what the store lacks of its runs is sent."""

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

from ..identity import root_identity
from ..plan import Plan, find, load, study_path
from ..redaction import brief, redact, scrub
from .run_mirror import Child, Mode, Place, stamp
from .store import Record, TrackingError, connect, default_uri, open_experiment, prepare, resolve_uri
from .study_mirror import Parent

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, while the store does not answer or a run cannot be mirrored."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
FAULTS_OF_ONE_RUN = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
)
"""MLflow's errors that concern what was sent, not the store."""


@dataclass(frozen=True)
class Mirrored:
    """How far mirroring came: whether the store now holds everything, and a sentence that says so."""

    complete: bool
    message: str

    def __bool__(self) -> bool:
        return self.complete


class Mirror:
    """Passes over one study; what the store holds already is kept in memory between them.

    Raises:
        InputError: there is no such study.
    """

    def __init__(self, root: Path | str, study: str, tracking_uri: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.study = find(self.root, study)
        self.folder = study_path(self.root, study)
        self.uri = resolve_uri(self.root, tracking_uri)
        self.shown_uri = redact(self.uri)
        self._parent: Parent | None = None
        self._children: list[Child] = []
        self._stamp: tuple[int, ...] = ()
        self._ask_again = 0.0

    @property
    def lock_path(self) -> Path:
        """Held by the one process that mirrors this study to this store."""
        digest = sha256(self.shown_uri.encode()).hexdigest()[:8]
        return self.folder / f"tracker-{digest}.lock"

    def outcome(self, problems: list[str]) -> Mirrored:
        """What a pass that left these problems came to."""
        if not problems:
            return Mirrored(True, f"{self.study} is complete in {self.shown_uri}")
        shown = "; ".join(problems[:5])
        return Mirrored(False, f"{len(problems)} runs of {self.study} could not be sent to MLflow: {shown}")

    def mirror(self, mode: Mode) -> list[str]:
        """One pass.

        Returns:
            A line for each run that could not be mirrored. Empty: the store holds everything.

        Raises:
            TrackingError: the store does not answer.
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
        self._parent.mirror(mode, self._children)
        return [child.trouble for child in self._children if child.trouble]

    def _concerns_one_run(self, error: Exception) -> bool:
        """Whether an error is about one run's files or values, so that the others can go on."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code in FAULTS_OF_ONE_RUN
        if isinstance(error, OSError):
            return str(error.filename or "").startswith(f"{self.root / 'runs'}{os.sep}")
        return isinstance(error, ValueError | KeyError | TypeError)

    def _open(self) -> Parent:
        """Read the plan, find or make the experiment and the parent run, and find the children there are."""
        prepare(self.uri)
        plan, client = load(self.root, self.study), connect(self.uri)
        identity, own = root_identity(self.root), self.uri == default_uri(self.root)
        artifacts = (self.root / "mlartifacts" / quote(self.study, safe="")).as_uri()
        experiment, runs = open_experiment(
            client,
            self.study,
            identity,
            lambda run: own or run.data.tags.get("ablate.root") == identity,
            artifacts if self.uri.startswith(DATABASES) else None,
        )
        found: dict[tuple[str | None, ...], Record] = {}
        for run in runs:
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
        parent = Parent(plan, place, found.get((None, None, None)))
        self._children = [
            Child(place, parent.record.run_id, cell, seed, at.step_fraction)
            for at in plan.every_step_fraction()
            for cell, seed in at.runs
        ]
        for child in self._children:
            child.record = found.get(child.key)
        return parent


def _datasets(plan: Plan) -> list[DatasetInput]:
    """The corpus, as inputs of a run."""
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
