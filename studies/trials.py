"""Records a study in Optuna, a trial per cell x seed, for `optuna-dashboard` and Optuna's own API.

The driver decides what runs; Optuna only keeps the record. A finished trial is never reused: a retry is a new
trial that names the old one. A cell x seed has one COMPLETE trial, and one more for each
`ablate retry --cell`; the latest counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablate.models.errors import InputError
from ablate.training.files import append_lines, set_aside
from ablate.training.metrics.registry import find_metric

from .database import Database
from .identity import root_identity
from .plan import Plan, run_label
from .redaction import brief, keep_secret, redact, scrub
from .train_command import value_name

STORAGE_VARIABLE = "ABLATE_STORAGE"
POINTS = 200
"""Maximum number of intermediate values of a curve in Optuna; `metrics.jsonl` has all."""
Key = tuple[str, int]
logger = logging.getLogger(__name__)


class Journal(BaseJournalBackend):
    """A journal for Optuna in the format of its `JournalFileBackend`, which appends lines atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = JournalFileSymlinkLock(str(path))
        self._read = 0
        self._offset = 0
        path.touch()
        held = path.with_name(f"{path.name}.lock")
        if (
            held.is_symlink() and not held.exists()
        ):  # left in a root that was moved: Optuna would wait for ever
            held.unlink(missing_ok=True)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        if log_number_from < self._read:
            self._read = self._offset = 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read, self._offset = self._read + 1, self._offset + len(line)
                if self._read > log_number_from:
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lock.acquire()
        try:
            append_lines(self._path, logs)
        finally:
            self._lock.release()


def open_journal(path: Path) -> BaseStorage:
    """The storage in a journal. An unreadable journal is moved away, and its trials are recorded again from
    the run directories."""
    try:
        return JournalStorage(Journal(path))
    except OSError:
        raise
    except Exception as error:
        kept = set_aside(path)
        logger.warning(
            "%s cannot be read (%s); it is kept as %s, and the trials are rebuilt from the runs",
            *(path, brief(error), kept.name),
        )
        return JournalStorage(Journal(path))


def open_storage(folder: Path, url: str | None = None) -> BaseStorage:
    """The storage of a study: a journal in its folder, or a shared database.

    Raises:
        InputError: the URL is of SQLite, which can give one trial to two processes; the URL's password is on
            the command line; or the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return open_journal(folder / "journal.log")
    if url.startswith("sqlite"):
        raise InputError(
            "SQLite cannot be used as a queue, because it can give one trial to two processes; leave "
            "--storage out to use the file journal, or give postgresql://..."
        )
    keep_secret(url, "--storage", STORAGE_VARIABLE)
    try:
        return Database(url)
    except Exception as error:
        raise InputError(f"{redact(url)} does not answer: {scrub(brief(error), url)}") from None


def study_key(plan: Plan, root: Path, url: str | None = None) -> str:
    """Name of a study in Optuna: its own, plus the root's identity in a database that roots may share."""
    return plan.name if url is None else f"{plan.name}@{root_identity(root)}"


@dataclass
class Trial:
    """The latest Optuna trial of a cell x seed."""

    key: Key
    trial_id: int
    number: int
    state: TrialState
    attributes: dict[str, Any]

    @property
    def label(self) -> str:
        """Cell and seed, and the step fraction if it is not 1."""
        return run_label(*self.key, self.attributes.get("length", 1.0))


class TrialBook:
    """The trials of one Optuna study, by cell and seed.

    Args:
        name: name of the Optuna study, which is created if needed.
        check: called before every write; raises if another driver has taken over the study.
        value: name of the trials' values. Default: they are the selected validation PESQ.
        higher_is_better: whether a higher value is better.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        check: Callable[[], None] = lambda: None,
        *,
        value: str | None = None,
        higher_is_better: bool = True,
    ) -> None:
        check()
        self._check = check
        self._storage = storage
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if higher_is_better else "minimize",
            load_if_exists=True,
        )
        if value is not None:
            with catch_warnings():
                simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names([value])
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self.trials: dict[Key, Trial] = {}
        for trial in storage.get_all_trials(self._study_id, deepcopy=False):
            if "cell" in trial.user_attrs:
                self._remember(
                    trial, storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
                )

    def _remember(self, trial: FrozenTrial, trial_id: int) -> Trial:
        key = (trial.user_attrs["cell"], trial.user_attrs["seed"])
        known = self.trials.get(key)
        if known is None or known.state != TrialState.COMPLETE or "retry_of" in trial.user_attrs:
            self.trials[key] = Trial(key, trial_id, trial.number, trial.state, dict(trial.user_attrs))
        return self.trials[key]

    def add(
        self,
        key: Key,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        attributes: dict[str, Any],
    ) -> Trial:
        """Add a waiting trial of a cell x seed."""
        self._check()
        trial = create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions=distributions,
            user_attrs={"cell": key[0], "seed": key[1], **attributes},
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        trial.number = self._storage.get_trial_number_from_id(trial_id)
        return self._remember(trial, trial_id)

    def start(self, trial: Trial) -> None:
        """Set a waiting trial to RUNNING."""
        if trial.state == TrialState.WAITING:
            self._check()
            self._storage.set_trial_state_values(trial.trial_id, TrialState.RUNNING)
            trial.state = TrialState.RUNNING

    def complete(self, trial: Trial, value: float, curve: dict[int, float], name: str | None = None) -> None:
        """Close a trial with the selected validation PESQ (or the value `name`), and its curve over steps."""
        if trial.state == TrialState.COMPLETE:
            return
        self._check()
        self.start(trial)
        for step, pesq in thinned(curve).items():
            self._storage.set_trial_intermediate_value(trial.trial_id, step, pesq)
        if name is not None:
            self._storage.set_trial_user_attr(trial.trial_id, "value", name)
        self._storage.set_trial_state_values(trial.trial_id, TrialState.COMPLETE, [value])
        trial.state = TrialState.COMPLETE

    def fail(self, trial: Trial, cause: str) -> None:
        """Close a trial as failed, with its cause."""
        if trial.state.is_finished():
            return
        self._check()
        self.start(trial)
        self._storage.set_trial_user_attr(trial.trial_id, "cause", cause)
        self._storage.set_trial_state_values(trial.trial_id, TrialState.FAIL)
        trial.state = TrialState.FAIL

    def retry(self, trial: Trial) -> Trial:
        """A new waiting trial that names the finished one as `retry_of`."""
        old = self._storage.get_trial(trial.trial_id)
        kept = {k: v for k, v in old.user_attrs.items() if k not in ("cell", "seed", "cause")}
        return self.add(trial.key, old.params, old.distributions, kept | {"retry_of": trial.number})


def thinned(curve: dict[int, float]) -> dict[int, float]:
    """At most `POINTS` evenly spaced values of a curve, including the first and last."""
    steps = sorted(curve)
    if len(steps) > POINTS:
        steps = [steps[round(i * (len(steps) - 1) / (POINTS - 1))] for i in range(POINTS)]
    return {step: curve[step] for step in steps}


def plan_book(
    storage: BaseStorage, plan: Plan, check: Callable[[], None] = lambda: None, key: str | None = None
) -> TrialBook:
    """The study's own trials, one for each cell x seed.

    If a trial is missing or of another training than the plan's, a waiting trial is added.

    Args:
        key: name of the study in Optuna. Default: the plan's name. Other step budgets use
            `<key>/at/<fraction>`.
    """
    name, fraction = key or plan.name, plan.step_fraction
    metric = plan.endpoint.metric
    tells_none = not plan.program.has_curve
    book = TrialBook(
        storage,
        name if fraction == 1.0 else f"{name}/at/{fraction:g}",
        check,
        value=value_name(metric) if tells_none else None,
        higher_is_better=not tells_none or find_metric(metric).higher_is_better,
    )
    seeds = IntDistribution(0, 2**31 - 1)
    levels = {factor.name: CategoricalDistribution(list(factor.levels)) for factor in plan.factors}
    for cell, seed in plan.runs:
        former = book.trials.get((cell.name, seed))
        signature = cell.signatures[seed]
        if former is None or former.attributes.get("training_signature", signature) != signature:
            if former is not None:
                book.fail(former, "superseded")
            book.add(
                (cell.name, seed),
                {"seed": seed, **cell.levels},
                {"seed": seeds, **(levels if cell.levels else {})},
                {
                    "training_signature": signature,
                    "evaluation_signature": cell.evaluations[seed],
                    **({} if fraction == 1.0 else {"length": fraction}),
                    **({} if former is None else {"retry_of": former.number}),
                },
            )
    return book
