"""Studies with a training command: plans, keeps and shows its code, and checks its runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from ablate.models import plugins
from ablate.models.errors import InputError, listed
from ablate.training.environment import git_commit
from ablate.training.rundir import EvaluationState, RunDir, file_digest
from ablate.training.train_command import argv, code
from ablate.training.train_command.config import TrainingCommand

COPIES = "code"
"""Folder of a root with copies of the runs' code, by digest."""


def planned(train: TrainingCommand, study_file: str | None, root: Path) -> TrainingCommand:
    """A training command with the current digest of its code and commit of its folder.

    Raises:
        InputError: its folder, code or program is missing.
    """
    folder = Path(train.folder)
    digest = code.digest_of(_files(train, study_file, root))
    program = argv.split(train.command)[0]
    there = (folder / program).is_file() if "/" in program else shutil.which(program) is not None
    if not there:
        where = f"in {folder}" if "/" in program else "on PATH"
        raise InputError(f"train.command: program {program!r} not found {where}: {train.command}")
    if train.network is not None:
        plugins.trust_class(folder / train.network.rpartition(":")[0])
    return train.model_copy(update={"digest": digest, "commit": git_commit(folder)})


def _files(train: TrainingCommand, study_file: str | None, root: Path) -> dict[str, Path]:
    apart = [root, *([Path(study_file)] if study_file else [])]
    files = code.find_code(Path(train.folder), train.patterns, apart)
    if train.config is not None and train.config not in files:
        raise InputError(f"train.config {train.config!r} is not code of {train.folder}; add it to code")
    return files


def keep_code(train: TrainingCommand, study_file: str | None, root: Path) -> None:
    """Copy the code of a planned training command to the root, from where its runs use it."""
    code.keep(_files(train, study_file, root), train.digest, root / COPIES)


def changed_files(old: TrainingCommand, new: TrainingCommand, root: Path) -> list[str]:
    """The files in which the kept code of a training command differs from the current code."""
    before = {name: file_digest(path) for name, path in code.kept_files(root / COPIES / old.digest).items()}
    after = {name: file_digest(path) for name, path in _files(new, None, root).items()}
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    marks = {name: " (new)" if name not in before else "" if name in after else " (gone)" for name in changed}
    return [name + marks[name] for name in sorted(changed)] if before else []


def shown(train: TrainingCommand, root: Path) -> list[str]:
    """The commands that a study will run, one per line."""
    linked, empty = code.arrange(train, root, ())
    return [
        "training command: "
        + "; then ".join(train.commands)
        + (f"   (resume: {train.resume})" if train.resume else ""),
        f"  in a copy of {train.folder}" + (f" at commit {train.commit}" if train.commit else ""),
        f"  code digest {train.digest}",
        f"  linked into every run: {listed(linked) or 'nothing'}",
        f"  empty folders of each run's own: {listed(empty) or 'none'}",
    ]


SAME = "same-for-every-seed"
"""Failure cause of a run with the same scores as another seed; the analysis leaves it out."""
FORGETS = "the training forgets its seed: no other run is started"
SAME_FAULT = "two runs ended with the same output error; no further runs are started"


class CommandRuns:
    """What a driver remembers about the runs of a training command.

    Attributes:
        stop: why not to start further runs: they would most likely fail in the same way.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}
        self._faults: set[str] = set()
        self.stop: str | None = None

    def twin(self, keys: Iterable[tuple[str, int]], scores: Path) -> str | None:
        """A message if another seed of a cell has the same scores to the last digit; else None."""
        digest = digest_of_scores(scores)
        for cell, seed in keys:
            if (known := self._seen.setdefault((cell, digest), seed)) != seed:
                self.stop = FORGETS
                return f"{SAME}: its scores are those of {cell} seed {known} to the last digit"
        return None

    def take_fault(self, run: RunDir, unscorable: EvaluationState | None) -> None:
        """Record outputs that cannot be scored; the same fault in a second run sets `stop`."""
        if unscorable is not None and unscorable.cause == "output":
            fault = (unscorable.message or "").replace(str(run.path.resolve()), "")
            self.stop = SAME_FAULT if fault in self._faults else self.stop
            self._faults.add(fault)


def digest_of_scores(path: Path) -> str:
    """A digest of the values in a table of scores, to the last digit."""
    import pandas as pd

    rows = pd.util.hash_pandas_object(pd.read_parquet(path), index=False)
    return sha256(rows.to_numpy().tobytes()).hexdigest()


def value_name(metric: str) -> str:
    """Name of the value of a trial in Optuna, if the command does not report validation PESQ."""
    return f"test mean {metric}"


def test_mean(path: Path, metric: str) -> float | None:
    """The mean of a metric over a test set; None if there are no scores."""
    import pandas as pd

    mean = pd.read_parquet(path, columns=[metric])[metric].mean()
    return None if pd.isna(mean) else float(mean)
