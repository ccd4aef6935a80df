from dataclasses import dataclass

import numpy as np
import pytest

from ablate.training.data.batches import Batches, DataError, cut


@dataclass
class Pair:
    name: str
    clean: np.ndarray
    noisy: np.ndarray


def ramp(name: str, length: int, offset: int = 0) -> Pair:
    clean = offset + np.arange(length, dtype=np.float32)
    return Pair(name, clean, clean + 0.5)


PAIRS = [ramp(f"f{i}", 300 + 10 * i, 1000 * i) for i in range(7)]


def make(**changes):
    return Batches(PAIRS, **{"batch_size": 3, "crop": 100, "seed": 1, **changes})


def test_an_epoch_is_a_permutation():
    items = [index for step in range(7) for index, _ in make().items(step)]
    epochs = [items[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_same_seed_same_batches_at_any_step_in_any_order():
    whole = [make().batch(step) for step in range(10)]
    resumed = make()
    for step in (9, 2, 5, 0):
        for wave, other in zip(whole[step], resumed.batch(step), strict=True):
            assert (wave == other).all()


def test_other_seed_other_batches():
    assert any((make().batch(s)[0] != make(seed=2).batch(s)[0]).any() for s in range(2))


def test_order_and_places_do_not_depend_on_crop_and_batch_size():
    by_three = [item for step in range(4) for item in make().items(step)]
    by_two = [item for step in range(6) for item in make(batch_size=2, crop=50).items(step)]
    assert by_three == by_two


def test_crops_are_aligned_and_reach_both_ends():
    pair = ramp("f", 110)
    starts = set()
    for place in np.linspace(0, 0.999, 60):
        clean, noisy = cut(pair, float(place), 100)
        assert clean.dtype == noisy.dtype == np.float32
        assert (noisy - clean == 0.5).all()
        assert (np.diff(clean) == 1).all()
        starts.add(int(clean[0]))
    assert starts == set(range(11))


def test_short_files_are_tiled():
    clean, noisy = cut(ramp("f", 40), 0.7, 100)
    assert clean.tolist() == [*range(40), *range(40), *range(20)]
    assert (noisy - clean == 0.5).all()


def test_batch_shape():
    assert [wave.shape for wave in make(crop=305).batch(0)] == [(3, 305)] * 2


def test_bad_data_are_named():
    with pytest.raises(DataError, match="x: 10 clean samples, 11 noisy"):
        cut(Pair("x", np.zeros(10), np.zeros(11)), 0.0, 5)
    with pytest.raises(DataError, match="no files"):
        Batches([], batch_size=1, crop=1, seed=1)
