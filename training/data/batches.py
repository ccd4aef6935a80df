"""The crops that make up the batch of each step. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import seeds

Waves = npt.NDArray[np.float32]


class DataError(ValueError):
    """Recordings that cannot be trained on."""


class Recordings(Protocol):
    """Clean and noisy, each `(sample,)`, under one name."""

    @property
    def name(self) -> str: ...
    @property
    def clean(self) -> Any: ...
    @property
    def noisy(self) -> Any: ...


class Batches:
    """The batches of a training by step: a function of only the seed, the corpus and the crop.

    Each epoch orders the files by one permutation; a batch may reach into the next epoch. Only the current
    epoch's draw is stored, so a training can resume at any step.

    Args:
        pairs: of the training split, with `clean` and `noisy` of equal length.
        crop: samples of an item.
        augment: changes a batch, given clean and noisy waves and a source of random numbers.

    Raises:
        DataError: there are no files to train on.
        ValueError: the crop is empty.
    """

    def __init__(
        self,
        pairs: Sequence[Recordings],
        *,
        batch_size: int,
        crop: int,
        seed: int,
        augment: Callable[[Waves, Waves, np.random.Generator], tuple[Waves, Waves]] | None = None,
    ) -> None:
        if not len(pairs):
            raise DataError("the training split has no files")
        if crop < 1:
            raise ValueError(f"a crop of {crop} samples is too short; use at least one")
        self.pairs = pairs
        self.batch_size = batch_size
        self.crop = crop
        self.seed = seed
        self.augment = augment
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._places: npt.NDArray[np.float64] = np.empty(0)

    def items(self, step: int) -> list[tuple[int, float]]:
        """The batch of a step (from 0): index of the pair, and position of the crop in [0, 1)."""
        found = []
        for item in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, position = divmod(item, len(self.pairs))
            if epoch != self._epoch:
                count = len(self.pairs)
                self._order = seeds.generator(self.seed, "order", epoch).permutation(count)
                self._places = seeds.generator(self.seed, "crops", epoch).random(count)
                self._epoch = epoch
            found.append((int(self._order[position]), float(self._places[position])))
        return found

    def batch(self, step: int) -> tuple[Waves, Waves]:
        """Clean and noisy waves of a step, each `(batch, sample)`; DataError as `check_lengths`."""
        crops = [cut(self.pairs[index], place, self.crop) for index, place in self.items(step)]
        clean, noisy = (np.stack(waves) for waves in zip(*crops, strict=True))
        if self.augment is None:
            return clean, noisy
        return self.augment(clean, noisy, seeds.generator(self.seed, "augment", step))


def cut(pair: Recordings, place: float, crop: int) -> tuple[Waves, Waves]:
    """A crop of both recordings of a pair, each `(sample,)`; a shorter file is tiled.

    `place` in [0, 1) chooses among all possible starts. Raises as `check_lengths`.
    """
    check_lengths(pair)
    clean, noisy = pair.clean, pair.noisy
    length = len(clean)
    if length < crop:
        return np.resize(clean, crop).astype(np.float32), np.resize(noisy, crop).astype(np.float32)
    start = first_sample(length, place, crop)
    span = slice(start, start + crop)
    return np.array(clean[span], np.float32), np.array(noisy[span], np.float32)


def first_sample(length: int, place: float, crop: int) -> int:
    """Where a crop begins in a file of `length` samples; 0 if the file is shorter."""
    return int(place * (length - crop + 1)) if length >= crop else 0


def check_lengths(pair: Recordings) -> None:
    """Raise DataError if the recordings of a pair differ in length or are empty."""
    length = len(pair.clean)
    if length != len(pair.noisy) or not length:
        raise DataError(f"{pair.name}: {length} clean samples, {len(pair.noisy)} noisy ones")
