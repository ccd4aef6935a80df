"""Checkpoints: written whole or not at all, read only if undamaged, and without executing code."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ablate.models.config import ModelConfig
from ablate.models.errors import InputError

from .files import atomic_write

FORMAT = "ablate checkpoint"
VERSION = 1

LATEST = "latest.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"

logger = logging.getLogger(__name__)


class CheckpointError(InputError):
    """The file is not a complete checkpoint."""


class ForeignCheckpointError(CheckpointError):
    """A complete checkpoint of another format version or another run: it must not be replaced."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a checkpoint of nested dictionaries, lists, numbers, text and tensors atomically.

    Raises:
        OSError: the disk is full or not writable; the old file is untouched.
    """
    with atomic_write(path) as temporary:
        try:
            with temporary.open("wb") as handle:
                torch.save({"format": FORMAT, "version": VERSION, **content}, handle)
        except RuntimeError as error:
            # torch reports a short write as an error of its own, with or without the system's reason.
            raise OSError(f"could not write {path}: {error}; is the disk full?") from error
    _sync_folder(path.parent)


def write_latest(folder: Path, content: dict[str, Any]) -> None:
    """Write `latest.pt` and keep the replaced one as `previous.pt`; raises as `write`, with both files
    untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / "incoming.pt"
    write(incoming, content)
    if (folder / LATEST).exists():
        (folder / LATEST).replace(folder / PREVIOUS)
    incoming.replace(folder / LATEST)
    _sync_folder(folder)


def read(path: Path, kind: Literal["training", "weights"] | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and verify its checksums. Executes nothing in the file.

    `kind` is the required content: the whole state of a training, or only the weights.

    Raises:
        InputError: there is none.
        ForeignCheckpointError: it has another format version.
        CheckpointError: the file is truncated, damaged, or not written by ablate.
    """
    if not path.exists():
        raise InputError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is truncated or is not a checkpoint: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read safely as a checkpoint: {error}") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise ForeignCheckpointError(
                f"{path} has format version {content.get('version')}, but this version of ablate reads "
                f"{VERSION}; use the version that wrote it, or train again: ablate retry --cell CELL"
            )
        if kind and content["kind"] != kind:
            raise CheckpointError(f"{path} holds {content['kind']}, not {kind}")
        return content
    if kind != "training" and isinstance(content, dict) and {"model", "weights"} <= set(content):
        return content
    raise CheckpointError(
        f"{path} was not written by ablate; convert files of the public code by `ablate import-checkpoint`"
    )


def read_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The state to resume from: `latest.pt`, or `previous.pt` if that cannot be read.

    Returns:
        The content, None if no file is readable; and the problems of skipped files.

    Raises:
        ForeignCheckpointError: a complete file has another version and must not be overwritten.
        OSError: a file exists but could not be read, and no other one is complete.
    """
    problems: list[str] = []
    unreadable: OSError | None = None
    for path in (folder / LATEST, folder / PREVIOUS):
        try:
            if path.exists():
                return read(path, "training"), problems
        except ForeignCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error}")
            unreadable = error
    if unreadable is not None:
        raise unreadable
    return None, problems


@dataclass
class Checkpoints:
    """The checkpoints of one run; `model` is its configuration as JSON."""

    folder: Path
    signature: str
    model: dict[str, Any]
    spec: dict[str, Any]
    _best_step: int | None = None

    def latest(self) -> dict[str, Any] | None:
        """The state to resume from; None to start from scratch.

        Raises:
            ForeignCheckpointError: the file is of another version or another run.
        """
        content, problems = read_latest(self.folder)
        for problem in problems:
            logger.warning("%s; using the previous checkpoint", problem)
        if content is not None and content["signature"] != self.signature:
            raise ForeignCheckpointError(
                f"the checkpoint in {self.folder} belongs to run {content['signature'][:12]}, not of "
                f"{self.signature[:12]}; move it elsewhere to train here"
            )
        return content

    def selected(self) -> dict[str, torch.Tensor]:
        """The selected weights of a finished training.

        Raises:
            CheckpointError: no complete file has them; the run is not retrained for that.
        """
        try:
            content, problems = self.latest(), list[str]()
        except OSError as error:
            content, problems = None, [str(error)]
        if content is not None:
            return (content["best"] or content)["weights"]
        try:
            best = read(self.folder / BEST, "weights")
            if best["signature"] == self.signature:
                return best["weights"]
        except (InputError, OSError) as error:
            problems.append(str(error))
        raise CheckpointError(
            f"the weights of this finished run cannot be read ({'; '.join(problems)}); restore them, or "
            "train the cell again: ablate retry --cell CELL"
        )

    def save(self, state: dict[str, Any]) -> None:
        """Write everything needed to resume here, and the selected weights if they changed.

        `state` joins those of trainer, selection and progress; its `best` has the selected weights, if any.
        """
        header = {"kind": "training", "signature": self.signature, "model": self.model, "config": self.spec}
        write_latest(self.folder, {**header, **state})
        self.save_best(state["best"])

    def save_best(self, best: Mapping[str, Any] | None) -> None:
        """Write the selected weights, if any, unless they were written last."""
        if best and best["step"] != self._best_step:
            self._write_weights(BEST, best["weights"], best["step"], best["val_pesq_wb"])
            self._best_step = best["step"]

    def keep(self, weights: dict[str, torch.Tensor], step: int) -> None:
        """Write weights that are never replaced."""
        self._write_weights(f"step-{step:06d}.pt", weights, step, None)

    def drop_previous(self) -> None:
        """Remove the second-latest checkpoint after the training."""
        (self.folder / PREVIOUS).unlink(missing_ok=True)

    def _write_weights(
        self, name: str, weights: dict[str, torch.Tensor], step: int, val_pesq_wb: float | None
    ) -> None:
        header = {"kind": "weights", "signature": self.signature, "model": self.model}
        write(self.folder / name, {**header, "weights": weights, "step": step, "val_pesq_wb": val_pesq_wb})


def load_model(path: Path | str) -> nn.Module:
    """The network of any kind of checkpoint, also of `ablate import-checkpoint`, ready to enhance.

    Returns:
        A network with an `Interface`, on the CPU, in eval mode.

    Raises:
        InputError: there is no such file.
        CheckpointError: the file is damaged or foreign, or its weights do not fit its network.
    """
    from ablate.models import build_model

    path = Path(path)
    content = read(path)
    model = build_model(ModelConfig.model_validate(content["model"]))
    load_weights(model, content["weights"], path)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load weights into a network.

    Raises:
        CheckpointError: names or shapes differ; the message names `source`.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {source} do not fit the network: {error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
