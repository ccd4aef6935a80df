"""What a study's folder says: its plan and the cells x seeds in it."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.training.rundir import RunDir

from ..identity import root_identity
from ..plan import find, run_label, study_path
from ..plan.model import steps_at


def existing_study(root: Path, name: str) -> Path:
    """The folder of a study that has a plan.

    Raises:
        InputError: there is no such study.
    """
    return study_path(root, find(root, name))


@dataclass(frozen=True)
class PlannedRun:
    """A cell x seed of the plan: one child run."""

    cell: dict[str, Any]
    seed: int
    evaluation: str
    run: RunDir
    step_fraction: float = 1.0
    further: tuple[str, ...] = ()

    @property
    def evaluations(self) -> tuple[str, ...]:
        """On every test set, the first one first."""
        return (self.evaluation, *self.further)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cell["name"], str(self.seed), self.run.signature

    @property
    def label(self) -> str:
        return run_label(self.cell["name"], self.seed, self.step_fraction)

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever there is news of the run."""
        run = self.run
        files = [run.path / name for name in ("state.json", "metrics.jsonl", "summary.json")]
        tests = [f(each) for each in self.evaluations for f in (run.scores_path, run.evaluation_path)]
        return tuple(v for path in (*files, *tests) for v in stamp(path))


class Study:
    """A study on disk; `refresh` reads its plan again when it has changed."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.folder = existing_study(root, name)
        self.plan: dict[str, Any] = {}
        self.slots: list[PlannedRun] = []
        self._stamp: tuple[int, ...] = ()

    def refresh(self) -> None:
        path = self.folder / "plan.json"
        if (found := stamp(path)) != self._stamp:
            self.plan = json.loads(path.read_text())
            self._stamp = found
            self.slots = list(self._read_slots())

    def _read_slots(self) -> Iterator[PlannedRun]:
        for whole in self.plan["cells"]:
            for fraction, found in {"1": whole, **whole.get("at_lengths", {})}.items():
                cell = whole if found is whole else _shortened(whole, float(fraction))
                for seed, signature in found["signatures"].items():
                    evaluation = found.get("evaluations", {}).get(seed, "")
                    run = RunDir(self.root / "runs" / signature)
                    further = tuple(found.get("further", {}).get(seed, ()))
                    yield PlannedRun(cell, int(seed), evaluation, run, float(fraction), further)

    @property
    def references(self) -> Path:
        """Where the clean and noisy clips of the study's test set are."""
        corpus = self.plan["corpus"]
        return RunDir(self.root / "runs" / "any").references(corpus.get("test_digest") or corpus["digest"])

    def tags(self) -> dict[str, str]:
        """Tags of every run of the study."""
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "ablate",
            "mlflow.source.type": "LOCAL",
            "ablate.study": self.name,
            "ablate.root": root_identity(self.root),
            "ablate.data_digest": self.plan["corpus"]["digest"],
        }
        train = self.plan.get("train")
        if commit := train["commit"] if train else self.plan.get("git_commit"):
            tags["mlflow.source.git.commit"] = commit
        return tags

    def datasets(self) -> list[Any]:
        """The corpus, as inputs of a run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        corpus = self.plan["corpus"]
        source = json.dumps({"uri": str(corpus["path"])})
        found = []
        for context, digest in (("training", corpus["digest"]), ("test", corpus.get("test_digest"))):
            if digest:
                profile = json.dumps({"kind": corpus.get("kind"), "sha256": digest})
                name = corpus["name"] if context == "training" else f"{corpus['name']} (test)"
                dataset = Dataset(name[:500], digest[:36], "local", source, profile=profile)
                found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        return found


def _shortened(cell: dict[str, Any], fraction: float) -> dict[str, Any]:
    """A cell of the plan as it is trained at another length."""
    recipe = cell["config"]["recipe"]
    recipe = recipe | {"steps": steps_at(recipe["steps"], fraction)}
    return cell | {"config": cell["config"] | {"recipe": recipe}}


def stamp(path: Path) -> tuple[int, ...]:
    """Time of change and size of a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size
