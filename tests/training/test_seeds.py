import numpy as np
import pytest

from ablate.training import seeds


def test_streams_are_those_of_spawn():
    children = np.random.SeedSequence(7).spawn(4)
    for child, stream in zip(children, ("init", "order", "crops", "dropout"), strict=True):
        assert (seeds.sequence(7, stream).generate_state(4) == child.generate_state(4)).all()


def test_every_stream_seed_and_place_draws_its_own_numbers():
    places = [
        (seed, stream, *position)
        for seed in (0, 1)
        for stream in ("init", "order", "crops", "dropout", "discriminator", "validation")
        for position in ((), (0,), (1,), (0, 1))
    ]
    drawn = {seeds.generator(*place).integers(2**62) for place in places}
    assert len(drawn) == len(places)


def test_torch_seed_fits_and_repeats():
    values = [seeds.torch_seed(3, "dropout", step) for step in range(50)]
    assert values == [seeds.torch_seed(3, "dropout", step) for step in range(50)]
    assert len(set(values)) == 50
    assert all(0 <= value < 2**63 for value in values)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="-1"):
        seeds.sequence(-1, "init")
