from __future__ import annotations

import pytest

from ablate.training import pipeline
from ablate.training.contract import Assignment
from ablate.training.progress import Progress
from ablate.training.rundir import RunDir


@pytest.fixture
def held_out(make_spec, cache, tmp_path):
    """`held_out(seed, split)` gives the names that a run validates on and trains on."""

    def call(seed, split):
        run = RunDir(tmp_path / f"{seed}-{split}")
        run.write_spec(make_spec({"split": split, "validation_utterances": None}, seed=seed))
        given = Assignment(run, run.state, Progress(run), lambda: False, 0, cache, 1, 0, "cpu")
        with pipeline.opened(given) as training:
            return tuple(
                tuple(pair.name for pair in pairs) for pairs in (training.validation, training.corpus.train)
            )

    return call


def test_the_seed_draws_what_is_held_out_where_it_is_asked_to(held_out):
    assert held_out(1, "fixed") == held_out(2, "fixed")
    drawn = {held_out(seed, "seed") for seed in range(1, 7)}
    assert len(drawn) > 1
    for validation, train in drawn:
        assert not set(validation) & set(train)
