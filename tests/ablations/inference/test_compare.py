import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.ablations.inference.compare import Spread, compare, pooled_spread
from ablate.models.errors import InputError

SCORES = st.lists(st.integers(250, 350).map(lambda value: value / 100), min_size=3, max_size=6)


def borrowed(low, high):
    return Spread(low, high, None, "elsewhere")


@settings(deadline=None, max_examples=60)
@given(SCORES, SCORES)
def test_with_their_own_spread_it_is_the_t_test(ours, theirs):
    spread = pooled_spread([ours, theirs], "these")
    if spread.low < 1e-9:
        return
    found = compare(ours, theirs, spread)
    p = stats.ttest_ind(ours, theirs).pvalue
    assert spread.df == len(ours) + len(theirs) - 2
    assert found.verdict == ("differs" if p < 0.05 else "within luck")


def test_with_too_few_degrees_of_freedom_luck_cannot_be_told():
    spread = pooled_spread([[3.07, 3.09], [3.10]], "these")
    assert spread.df == 1
    assert compare([3.07, 3.09], [3.10], spread).verdict == "cannot be told"
    assert compare([3.071, 3.072], [3.5], pooled_spread([[3.071, 3.072]], "these")).verdict == "differs"


def test_a_borrowed_spread_is_answered_at_both_ends():
    found = compare([3.07], [3.10], borrowed(0.005, 0.02))
    assert found.verdict == "cannot be told"
    low, high = found.critical[0.005], found.critical[0.02]
    assert (low, high) == (pytest.approx(1.96 * 0.005 * 2**0.5, 1e-3), pytest.approx(4 * low))
    assert low < 0.03 < high
    assert compare([3.0], [3.10], borrowed(0.005, 0.02)).verdict == "differs"


def test_it_says_how_many_runs_would_tell():
    found = compare([3.07], [3.10], borrowed(0.02, 0.02))
    mine, both = found.runs[0.02]
    assert mine is None, "one of theirs alone varies by more"
    assert both == int(np.ceil(2 * (1.96 * 0.02 / 0.03) ** 2))
    mine, _ = compare([3.06], [3.10], borrowed(0.02, 0.02)).runs[0.02]
    assert 1.96 * 0.02 * (1 + 1 / mine) ** 0.5 < 0.04 <= 1.96 * 0.02 * (1 + 1 / (mine - 1)) ** 0.5


def test_the_best_of_several_is_that_of_draws():
    above, p = compare([3.07], [3.10], borrowed(0.02, 0.02), best_of=5).best_of[0.02]
    rng = np.random.default_rng(0)
    best = rng.normal(0, 0.02, (200_000, 5)).max(1)
    assert above == pytest.approx(best.mean(), abs=3e-4)
    below = (rng.normal(0, 0.02, 200_000) - best <= -0.03).mean()
    assert p == pytest.approx(2 * min(below, 1 - below), abs=0.01)


@pytest.mark.parametrize(
    ("ours", "theirs", "spread", "more", "message"),
    [
        ([], [3.1], (0.01, 0.02), {}, "scores of ours are"),
        ([3.0], [float("nan")], (0.01, 0.02), {}, "scores of theirs are"),
        ([3.0], [3.1], (0.02, 0.01), {}, "0 or more"),
        ([3.0], [3.1, 3.2], (0.01, 0.02), {"best_of": 3}, "--best-of 3"),
        ([3.0], [3.1], (0.01, 0.02), {"best_of": 1}, "--best-of 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, spread, more, message):
    with pytest.raises(InputError, match=message):
        compare(ours, theirs, borrowed(*spread), **more)
