"""Random numbers of a training: one seed, separate streams. Imports without torch."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ablate.models.errors import InputError

Stream = Literal["init", "order", "crops", "dropout", "discriminator", "validation", "augment"]

_KEYS: dict[Stream, int] = {
    "init": 0,
    "order": 1,
    "crops": 2,
    "dropout": 3,
    "discriminator": 4,
    "validation": 5,
    "augment": 6,
}


def sequence(seed: int, stream: Stream, *position: int) -> np.random.SeedSequence:
    """The seed sequence of a stream, or of a place in it: what `SeedSequence(seed).spawn` would give.

    Addressing a child by its key instead of spawning it needs no state, so that a training resumed at
    any step draws what it would have drawn.

    Args:
        seed: of the training.
        stream: what the numbers are for.
        position: of the place in the stream, e.g. an epoch or a step.

    Raises:
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; use 0 or more")
    return np.random.SeedSequence(seed, spawn_key=(_KEYS[stream], *position))


def generator(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """A numpy generator at a place of a stream; arguments as `sequence`."""
    return np.random.default_rng(sequence(seed, stream, *position))


def torch_seed(seed: int, stream: Stream, *position: int) -> int:
    """A number below 2**63 for `torch.manual_seed`; arguments as `sequence`."""
    return int(sequence(seed, stream, *position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def set_global(seed: int, stream: Stream, *position: int) -> None:
    """Set Python's, NumPy's and torch's global generators to a place of a stream; arguments as `sequence`.

    What draws from them afterwards, a plug-in's network included, draws the same after a resume.
    """
    import random

    import torch

    number = torch_seed(seed, stream, *position)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # elsewhere torch.manual_seed formats a stack for each kind of device
        torch.cuda.manual_seed_all(number)
