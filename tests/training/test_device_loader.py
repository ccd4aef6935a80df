"""Batches are the same whichever way they come to the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from ablate.training.data.batches import Batches, DataError
from ablate.training.device_loader import Feed, fits


class Pair(NamedTuple):
    name: str
    clean: np.ndarray
    noisy: np.ndarray


def batches(*lengths: int, **changes) -> Batches:
    random = np.random.default_rng(0)
    pairs = [Pair(f"u{n}", *random.standard_normal((2, n)).astype(np.float32)) for n in lengths]
    return Batches(pairs, **{"batch_size": 3, "crop": 40, "seed": 1, **changes})


def test_crops_gathered_on_the_device_are_those_that_are_copied(device):
    made = batches(40, 41, 100, 7, 39)
    gathered, copied = (Feed(made, torch.device(device), resident=way) for way in (True, False))
    for step in range(8):
        for one, other, wave in zip(gathered.batch(step), copied.batch(step), made.batch(step), strict=True):
            assert one.device.type == device
            assert torch.equal(one, other)
            assert np.array_equal(one.cpu().numpy(), wave)


def test_a_corpus_lies_where_there_is_room(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 0))
    gpu, made = torch.device("cuda"), batches(100, 200)
    free = 10 * 300 * 8
    assert fits(made, gpu)
    assert not fits(made, torch.device("cpu"))
    assert not fits(batches(100, 200, augment=lambda *waves: waves), gpu)
    free -= 1
    assert not fits(made, gpu)


def test_recordings_of_unequal_length_are_refused():
    made = batches(50)
    made.pairs = [Pair("u", np.zeros(50, np.float32), np.zeros(49, np.float32))]
    with pytest.raises(DataError, match="u: 50 clean samples, 49 noisy ones"):
        Feed(made, torch.device("cpu"), resident=True)
