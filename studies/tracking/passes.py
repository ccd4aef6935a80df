"""Passes over one study: what the store lacks of its runs is sent."""

from __future__ import annotations

import getpass
import json
import math
import os
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ablate.training.files import LockHeldError, locked
from ablate.training.rundir import read_json

from ..identity import root_identity
from ..plan import Plan, find, load, study_path
from ..redaction import brief, redact, scrub
from .run_mirror import Child, Mode, Place, PlannedRun, stamp
from .store import (
    Record,
    TrackingError,
    all_runs,
    connect,
    default_uri,
    is_database,
    open_experiment,
    prepare,
    resolve_uri,
)
from .study_mirror import Parent

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, while the store does not answer or a run cannot be mirrored."""
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
        self._stamp: tuple[int, ...] = ()
        self._slots: list[PlannedRun] = []
        self._forget()

    def _forget(self) -> None:
        """Trust nothing that is remembered of the store: the next pass asks it."""
        self._place: Place | None = None
        self._found: dict[tuple[str, str, str], Record] = {}
        self._children: dict[tuple[str, str, str], Child] = {}
        self._ask_again = math.inf

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
            self._forget()
            if isinstance(error, TrackingError):
                raise
            raise TrackingError(scrub(brief(error), self.uri)) from None

    def _pass(self, mode: Mode) -> list[str]:
        if (found := stamp(self.folder / "plan.json")) != self._stamp:
            self._plan = load(self.root, self.study)
            self._slots, self._stamp = PlannedRun.of(self._plan, self.root), found
        troubled = any(child.trouble for child in self._children.values())
        if troubled and (mode != "live" or time.monotonic() > self._ask_again):
            self._forget()
        if self._place is None:
            self._place, self._parent = self._open()
        children = [self._child(slot, self._place) for slot in self._slots]
        for child in children:
            if child.trouble:
                continue
            try:
                child.mirror(mode)
            except Exception as error:
                if not self._concerns_one_run(error):
                    raise
                child.trouble = f"{child.slot.label}: {scrub(brief(error), self.uri)}"
                self._ask_again = time.monotonic() + LONGEST_PAUSE
        self._parent.mirror(self._plan, mode, children)
        return [child.trouble for child in children if child.trouble]

    def _concerns_one_run(self, error: Exception) -> bool:
        """Whether an error is about one run's files or values, so that the others can go on."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code in FAULTS_OF_ONE_RUN
        if isinstance(error, OSError):
            return str(error.filename or "").startswith(f"{self.root / 'runs'}{os.sep}")
        return isinstance(error, ValueError | KeyError | TypeError)

    def _child(self, slot: PlannedRun, place: Place) -> Child:
        child = self._children.get(slot.key)
        if child is None:
            child = self._children[slot.key] = Child(slot, place, self._found.get(slot.key))
        child.slot = slot
        return child

    def _open(self) -> tuple[Place, Parent]:
        """Find or make the experiment and the parent run, and list the children there are."""
        prepare(self.uri)
        client, identity = connect(self.uri), root_identity(self.root)
        artifacts = None
        if is_database(self.uri):
            artifacts = (self.root / "mlartifacts" / quote(self.study, safe="")).as_uri()
        experiment = open_experiment(client, self.study, identity, self._ours, artifacts)
        parent: Record | None = None
        for run in self._ours(all_runs(client, experiment)):
            tags = run.data.tags
            if "ablate.root" not in tags:
                client.set_tag(run.info.run_id, "ablate.root", identity)
            if tags.get("ablate.kind") == "study":
                parent = parent or Record(client, run)
            elif tags.get("ablate.kind") == "run":
                key = tags["ablate.cell"], tags["ablate.seed"], tags["ablate.signature"]
                if key in self._found:
                    client.delete_run(run.info.run_id)
                else:
                    self._found[key] = Record(client, run)
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "ablate",
            "mlflow.source.type": "LOCAL",
            "ablate.study": self.study,
            "ablate.root": identity,
            "ablate.data_digest": self._plan.corpus.digest,
            "ablate.test_digest": self._plan.corpus.test_digest,
        }
        train = self._plan.train
        if commit := train.commit if train else self._plan.git_commit:
            tags["mlflow.source.git.commit"] = commit
        place = Place(self.root, self.study, client, self.shown_uri, experiment, tags, _datasets(self._plan))
        opened = Parent(self._plan, place, parent)
        return replace(place, parent=opened.record.run_id), opened

    def _ours(self, runs: list[Run]) -> list[Run]:
        """Those of some runs that this root made; runs of other roots are never touched.

        A run without a tag, as earlier versions made it, is ours if a run directory of this root names it.
        """
        if self.uri == default_uri(self.root):
            return runs
        known = [read_json(slot.run.path / "mlflow.json") or {} for slot in self._slots]
        labels = [entry.get(self.shown_uri, {}).get(self.study, {}) for entry in known]
        named = {told["run_id"] for entry in labels for told in entry.values()}
        parents = {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id in named}
        identity = root_identity(self.root)
        return [
            run
            for run in runs
            if run.data.tags.get("ablate.root") == identity
            or ("ablate.root" not in run.data.tags and run.info.run_id in named | parents)
        ]


def _datasets(plan: Plan) -> list[DatasetInput]:
    """The corpus, as inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    corpus = plan.corpus
    source = json.dumps({"uri": corpus.path})
    found: list[DatasetInput] = []
    for context, digest, part in (
        ("training", corpus.digest, ""),
        ("test", corpus.test_digest, " (test)"),
    ):
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
