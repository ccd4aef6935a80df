"""One run of a cell: its signatures, and the content of its `spec.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ablate.models.config import Frozen
from ablate.training.config import Evaluation, digest
from ablate.training.train_command.config import TrainingCommand

from .grid import AnyCell, Config


class Data(Frozen):
    """A run's corpus: its location, and the digest of its content when the study was planned.

    Attributes:
        pairs: pattern or list file that pairs noisy and clean files, if the corpus does not define pairs.
    """

    path: str
    name: str
    digest: str
    test_path: str | None = None
    test_digest: str
    pairs: str | None = None


class RunSpec(Frozen):
    """One run: a cell and a seed on a corpus.

    Attributes:
        start_from: weights that the run starts from, `{"path", "digest"}`.
        plugins: path of a plug-in -> digest of its code (`models.plugins`), None if not recorded.
        train: the training command, if there is one; `config` is then a `CommandConfig`.
    """

    cell: str
    config: Config
    seed: int
    data: Data
    start_from: dict[str, str] | None = None
    plugins: dict[str, str | None] = Field(default_factory=dict)
    train: TrainingCommand | None = None

    @classmethod
    def of(cls, cell: AnyCell, seed: int, data: Data, **fields: Any) -> RunSpec:
        return cls(cell=cell.name, config=cell.config, seed=seed, data=data, **fields)

    @property
    def training_signature(self) -> str:
        """sha256 of all inputs of the trained weights: fields, plug-ins, seed, data, code version."""
        return self._signature(self.config.results_version)

    def results_version(self, training_signature: str) -> int | None:
        """The results version that gives this run the signature; None if the signature is another run's.

        If the version is older than `config.results_version`, this code would give other results.
        """
        versions = range(self.config.results_version, 0, -1)
        return next((v for v in versions if self._signature(v) == training_signature), None)

    def _signature(self, results_version: int) -> str:
        content: dict[str, Any] = {
            "results_version": results_version,
            "config": self.config.signed_fields(),
            "seed": self.seed,
            "corpus": self.data.digest,
            "start_from": self.start_from and self.start_from["digest"],
        }
        if self.train is not None:
            content |= {"train": self.train.signed_fields(), "test": self.data.test_digest}
        if code := [code for code in self.plugins.values() if code is not None]:
            content["plugins"] = sorted(code)
        return digest(content)

    @property
    def evaluation_signature(self) -> str:
        """sha256 of the training signature, the evaluation settings and the test data."""
        return self.evaluated_on(self.data.test_digest, self.training_signature)

    def evaluated_on(self, test_digest: str, training: str) -> str:
        """The evaluation signature of a training (`training`, its signature) on some test data."""
        content: dict[str, Any] = {
            "training": training,
            "evaluation": self.config.evaluation.signed_fields(),
            "test": test_digest,
        }
        if self.train is not None:
            content["scores"] = self.train.scores
        return digest(content)

    @property
    def evaluation(self) -> Evaluation:
        return self.config.evaluation

    def document(self) -> dict[str, Any]:
        """The content of `spec.json`."""
        return {
            "training_signature": self.training_signature,
            **({} if self.train is None else {"train": self.train.model_dump(mode="json")}),
            **self.config.document(),
            "seed": self.seed,
            "corpus": {"path": self.data.path, "digest": self.data.digest, "name": self.data.name}
            | ({"pairs": self.data.pairs} if self.data.pairs else {}),
            "start_from": self.start_from,
            "plugins": self.plugins,
        }


def run_path(root: Path, training_signature: str) -> Path:
    """`<root>/runs/<training signature>`."""
    return root / "runs" / training_signature
