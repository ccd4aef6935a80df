"""A small version of benchmarks/interval_coverage.py; bounds allow two Monte-Carlo standard errors."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

REPETITIONS = 400
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("benchmark_coverage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(SCRIPT.parent))
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))
    del sys.modules[spec.name]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.slow
def test_intervals_hold_the_planted_effects(coverage, seeds):
    for index, scenario in enumerate(coverage.scenarios()):
        if scenario.seeds == seeds:
            for row in coverage.run(scenario, REPETITIONS, seed=100 + index):
                assert row.kept, row


HARD = ("two seeds", "seed effect as", "seed effect, 2 seeds", "10% of the scores", "decimals, seed SD 0.003")


@pytest.mark.parametrize("name", HARD)
def test_hard_cases_keep_their_bounds(coverage, name):
    found = [s for s in coverage.hard_scenarios() if s.name.startswith(name) or s.name.endswith(name)]
    for row in coverage.run(found[0], REPETITIONS, seed=7):
        assert row.kept, row


def test_centred_by_seed_is_narrower_and_holds_where_seeds_share_an_effect(coverage):
    scenario = next(s for s in coverage.hard_scenarios() if s.name.startswith("seed effect as"))
    main = next(row for row in coverage.run(scenario, REPETITIONS, seed=8) if row.quantity == "main")
    lowest, _, width = main.centred
    assert lowest >= 0.93 - main.slack(0.93)
    assert width < 0.9


def test_centred_by_seed_fails_where_a_factor_differs_between_seeds(coverage):
    scenario = next(s for s in coverage.hard_scenarios() if "4.8 times" in s.name)
    main = next(row for row in coverage.run(scenario, REPETITIONS, seed=9) if row.quantity == "main")
    assert main.centred[0] < main.low < 0.9


@pytest.mark.slow
def test_words_are_wrong_as_seldom_as_they_claim(coverage):
    assert all(row.kept for row in coverage.verdict_errors(REPETITIONS, seed=10))


def test_other_speakers_are_held_by_their_own_interval_alone(coverage):
    rows = [row for row in coverage.other_speakers(250, seed=11) if row.quantity == "main"]
    assert all(row.kept for row in rows)
    assert rows[0].centred[1] < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 4])
def test_following_what_narrows_most_keeps_the_coverage(coverage, index):
    """With the benchmark's own repetitions and seed: stopped at a width, the gap lies close to its bound."""
    rows, _ = coverage.race(list(coverage.races())[index], 4000, seed=4026)
    assert all(row.kept for row in rows), rows


@pytest.mark.slow
def test_following_what_narrows_most_saves_trainings(coverage):
    rules = list(coverage.races())
    for narrowest, everywhere in zip(rules[::2], rules[1::2], strict=True):
        saved, more = (coverage.race(rule, 100, seed=1)[1] for rule in (narrowest, everywhere))
        assert saved["hours"] < 0.7 * more["hours"]


def test_the_check_sees_an_interval_that_is_too_narrow(coverage):
    scenario = next(coverage.scenarios())
    rows = coverage.run(scenario, REPETITIONS, seed=1)
    assert all(row.kept for row in rows)
    assert not any(replace(row, low=0.9).kept for row in rows)
    assert not any(replace(row, high=1.0).kept for row in rows)


def test_shared_trainings_must_be_declared(coverage, monkeypatch):
    """Taken as separate trainings, an evaluation-only factor's interval would be far too wide."""
    scenario = next(s for s in coverage.scenarios() if s.evaluation_only and s.seeds == 5)
    monkeypatch.setattr(coverage, "groups_of", lambda _: [[cell] for cell in range(9)])
    main = next(row for row in coverage.run(scenario, REPETITIONS, seed=1) if row.quantity == "main")
    assert not main.kept
