"""One training of a cell: what identifies it, and what a run directory's `spec.json` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablate.models.config import Frozen
from ablate.training.config import RESULTS_VERSION, Evaluation, RunConfig, digest

from .grid import Cell


class Data(Frozen):
    """A corpus as a run needs to know it: where it is and what it held when the study was planned."""

    path: str
    name: str
    digest: str
    test_path: str | None = None
    test_digest: str


class RunSpec(Frozen):
    """One cell x seed x corpus.

    Attributes:
        start_from: weights the training starts from, `{"path", "digest"}`, or none.
    """

    cell: str
    config: RunConfig
    seed: int
    data: Data
    start_from: dict[str, str] | None = None
    plugins: tuple[str, ...] = ()

    @classmethod
    def of(cls, cell: Cell, seed: int, data: Data, **fields: Any) -> RunSpec:
        return cls(cell=cell.name, config=cell.config, seed=seed, data=data, **fields)

    @property
    def training_signature(self) -> str:
        """sha256 of all that decides the trained weights: fields, seed, data, code version."""
        return digest(
            {
                "results_version": RESULTS_VERSION,
                "config": self.config.result_fields(),
                "seed": self.seed,
                "corpus": self.data.digest,
                "start_from": self.start_from and self.start_from["digest"],
            }
        )

    @property
    def evaluation_signature(self) -> str:
        """sha256 of the training, what is done at test time, and the test data."""
        return digest(
            {
                "training": self.training_signature,
                "evaluation": self.config.evaluation.model_dump(mode="json"),
                "test": self.data.test_digest,
            }
        )

    @property
    def evaluation(self) -> Evaluation:
        return self.config.evaluation

    def document(self) -> dict[str, Any]:
        """The content of `spec.json`."""
        return {
            "training_signature": self.training_signature,
            "model": self.config.model.model_dump(mode="json"),
            "recipe": self.config.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "corpus": {"path": self.data.path, "digest": self.data.digest, "name": self.data.name},
            "start_from": self.start_from,
            "plugins": list(self.plugins),
        }


def run_path(root: Path, training_signature: str) -> Path:
    """Where a training lives: `<root>/runs/<training signature>`."""
    return root / "runs" / training_signature
