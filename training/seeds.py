"""Random numbers of a training: one seed, separate streams. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ablate.models.errors import InputError

Stream = Literal["init", "order", "crops", "dropout", "discriminator", "validation", "augment"]

_KEYS = {stream: key for key, stream in enumerate(get_args(Stream))}


def sequence(seed: int, stream: Stream, *position: int) -> np.random.SeedSequence:
    """The seed sequence of a stream, or of a place in it (an epoch, a step): as `SeedSequence(seed).spawn`.

    Addressing a child by its key instead of spawning it needs no state, so a resumed training draws the same
    numbers.

    Raises:
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; use 0 or more")
    return np.random.SeedSequence(seed, spawn_key=(_KEYS[stream], *position))


def generator(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """A numpy generator at a place of a stream."""
    return np.random.default_rng(sequence(seed, stream, *position))


def torch_seed(seed: int, stream: Stream, *position: int) -> int:
    """A number below 2**63 for `torch.manual_seed`, of a place of a stream."""
    return int(sequence(seed, stream, *position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def set_global(seed: int, stream: Stream, *position: int) -> None:
    """Set Python's, NumPy's and torch's global generators to a place of a stream.

    Later draws, also of a plug-in's network, are then the same after a resume.
    """
    import random

    import torch

    number = torch_seed(seed, stream, *position)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # elsewhere torch.manual_seed formats a stack for each kind of device
        torch.cuda.manual_seed_all(number)
