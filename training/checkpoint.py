"""Checkpoints: written as a whole or not at all, read only when undamaged, and never executing code."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ablate.models.config import ModelConfig

FORMAT = "ablate checkpoint"
VERSION = 1

LATEST = "latest.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"


class CheckpointError(ValueError):
    """A file that is no whole checkpoint."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a checkpoint as a whole: written beside it, synced, renamed.

    Args:
        path: of the checkpoint.
        content: nested dictionaries, lists, numbers, text and tensors.

    Raises:
        OSError: the disk is full, or not writable; the file that stood there is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as temporary:
        try:
            with temporary.open("wb") as handle:
                torch.save({"format": FORMAT, "version": VERSION, **content}, handle)
                handle.flush()
                os.fsync(handle.fileno())
        except RuntimeError as error:
            # torch reports a short write as an error of its own, with or without the system's reason.
            raise OSError(f"could not write {path}: {error}; is the disk full?") from error
        temporary.replace(path)
    _sync_folder(path.parent)


def write_latest(folder: Path, content: dict[str, Any]) -> None:
    """Write `latest.pt` and keep the one it replaces as `previous.pt`.

    Raises:
        OSError: as `write`; both files are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / "incoming.pt"
    write(incoming, content)
    if (folder / LATEST).exists():
        (folder / LATEST).replace(folder / PREVIOUS)
    incoming.replace(folder / LATEST)
    _sync_folder(folder)


def read(path: Path, kind: Literal["training", "weights"] | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, checking every byte of it. Nothing in the file is executed.

    Args:
        path: of the checkpoint.
        kind: what it must be: all of a training's state, or a network alone.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is truncated, damaged, foreign, or of another version.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is truncated, or no checkpoint: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} is no checkpoint that can be read safely: {error}") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise CheckpointError(f"{path} is of version {content.get('version')}; this code reads {VERSION}")
        if kind and content["kind"] != kind:
            raise CheckpointError(f"{path} holds {content['kind']}, not {kind}")
        return content
    if kind != "training" and isinstance(content, dict) and {"model", "weights"} <= set(content):
        return content
    raise CheckpointError(
        f"{path} was not written by this program; `ablate import-checkpoint` reads the public code's files"
    )


def read_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The state a training goes on from: `latest.pt`, or `previous.pt` where that cannot be read.

    Returns:
        The content, None where no file is readable; and what was wrong with the files passed over.
    """
    problems: list[str] = []
    for name in (LATEST, PREVIOUS):
        try:
            return read(folder / name, "training"), problems
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def load_model(path: Path | str) -> nn.Module:
    """The network of a checkpoint of any kind, or of `ablate import-checkpoint`, ready to enhance.

    Returns:
        A network `(batch, 257, frame)` complex -> same, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or foreign, or its weights are not those of its network.
    """
    from ablate.models import build_model

    path = Path(path)
    content = read(path)
    model = build_model(ModelConfig.model_validate(content["model"]))
    load_weights(model, content["weights"], path)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: Path | str) -> None:
    """Put weights into a network.

    Raises:
        CheckpointError: names or shapes differ; `source` is named.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {source} do not fit the network: {error}") from error


def random_states() -> dict[str, Any]:
    """The states of python's, numpy's and torch's global random numbers, in plain types."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo `random_states`; the states of GPUs only where there are as many as there were."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if len(states.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
