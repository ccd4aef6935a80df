"""The batches of a training on its device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data.batches import Batches, check_lengths, first_sample
from .transfer import to_device

RESIDENT_SHARE = 0.1
"""Share of a GPU's free memory that a resident corpus may take."""


class Feed:
    """Batches by step, as tensors on a device: the same with or without a resident corpus.

    If `resident`, the corpus is on the device and crops are gathered there; otherwise each batch is copied.

    Raises:
        DataError: the two recordings of a pair for the device differ in length, or are empty.
    """

    def __init__(self, batches: Batches, device: torch.device, *, resident: bool | None = None) -> None:
        self.batches = batches
        self.device = device
        self._corpus: Tensor | None = None
        if fits(batches, device) if resident is None else resident:
            self._load()

    def _load(self) -> None:
        pairs = self.batches.pairs
        lengths = np.array([len(pair.clean) for pair in pairs])
        self._spans = list(zip((np.cumsum(lengths) - lengths).tolist(), lengths.tolist(), strict=True))
        corpus = torch.empty(2, int(lengths.sum()), device=self.device)
        for pair, (start, length) in zip(pairs, self._spans, strict=True):
            check_lengths(pair)
            for row, wave in zip(corpus, (pair.clean, pair.noisy), strict=True):
                row[start : start + length] = torch.from_numpy(np.array(wave, np.float32))
        self._corpus = corpus
        self._crop = torch.arange(self.batches.crop, device=self.device)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Clean and noisy waves of a step, each `(batch, sample)` at 16 kHz."""
        if self._corpus is None:
            clean, noisy = (to_device(torch.from_numpy(x), self.device) for x in self.batches.batch(step))
            return clean, noisy
        rows = []
        for index, place in self.batches.items(step):
            start, length = self._spans[index]
            rows.append((start, first_sample(length, place, self.batches.crop), length))
        starts, firsts, lengths = to_device(torch.tensor(rows), self.device).T[..., None]
        clean, noisy = self._corpus[:, starts + (firsts + self._crop) % lengths]
        return clean, noisy


def fits(batches: Batches, device: torch.device) -> bool:
    """Whether to keep a corpus on a device: on a GPU with room, if the clips are not augmented."""
    if device.type != "cuda" or batches.augment is not None:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(8 * len(pair.clean) for pair in batches.pairs) <= RESIDENT_SHARE * free
