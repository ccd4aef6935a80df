"""Against restatements of the definition: centring by loops, the fits by dummies."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.ablations.design import Design
from ablate.ablations.inference.blocked import blocked
from ablate.ablations.inference.contrasts import build
from ablate.ablations.inference.engine import estimate
from ablate.reports import analyze

LEVELS = dict.fromkeys("abc", ("off", "on"))
CELLS = {"".join(at): dict(zip("abc", at, strict=True)) for at in product(("off", "on"), repeat=3)}
FOUND = build(Design.of(LEVELS), CELLS | {"ref": {}}, baseline="ref")
WEIGHTS = FOUND.matrix([*CELLS, "ref"])
KINDS = np.array([contrast.kind for contrast in FOUND.rows])
APART = [[cell] for cell in range(9)]


def draw(seed, seeds, utterances=7, shared=0.05):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(9, seeds, utterances)) * 0.05 + rng.normal(size=(9, seeds, 1)) * 0.03
    scores += rng.normal(size=(1, seeds, 1)) * shared + rng.normal(size=(9, 1, utterances)) * 0.05
    return scores + rng.normal(size=(1, seeds, utterances)) * 0.05 + rng.normal(size=(9, 1, 1)) * 0.1


def both(scores, groups=APART, present=None, weights=WEIGHTS):
    present = np.ones(scores.shape[:2], dtype=bool) if present is None else present
    headline = estimate(scores, weights, groups, present)
    return headline, blocked(headline, scores, weights, groups, present, range(8))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(1, 9))
def test_equal_seeds_are_centred_as_defined(seed, seeds, utterances):
    scores = draw(seed, seeds, utterances)
    grid, weights = scores[:8], WEIGHTS[:, :8]
    centred = grid - grid.mean(0)
    df = (seeds - 1) * 7 / 8
    headline, found = both(scores)
    for k, w in enumerate(weights):
        if WEIGHTS[k, 8]:
            assert not found.centred[k]
            assert (found.se[k], found.df[k]) == (headline.se[k], headline.df[k])
            continue
        assert found.centred[k]
        parts, residual = np.zeros(8), np.zeros(8)
        for c in range(8):
            level = centred[c].mean(-1)
            parts[c] = w[c] ** 2 * level.var(ddof=1) * 8 / 7 / seeds
            odd = centred[c] - centred[c].mean(0) - level[:, None] + level.mean()
            if utterances > 1:
                spread = (odd**2).sum() / ((seeds - 1) * (utterances - 1)) * 8 / 7
                residual[c] = w[c] ** 2 * spread / seeds / utterances
        across = np.tensordot(w, grid.mean(1), 1).var(ddof=1) / utterances if utterances > 1 else 0.0
        net = max(across - residual.sum(), 0.0)
        variance = parts.sum() + net
        below = (parts**2 / df).sum()
        if net > 0:
            below += (across**2 + (residual**2 / df).sum()) / (utterances - 1)
        assert found.se[k] ** 2 == pytest.approx(variance, rel=1e-9)
        assert found.df[k] == pytest.approx(min(max(variance**2 / below, 1), 7 * (seeds - 1)), rel=1e-9)


def dummies(present):
    cell, seed = np.nonzero(present)
    return cell, seed, np.eye(len(present))[cell], np.eye(present.shape[1])[seed]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(2, 5), min_size=8, max_size=8))
def test_unequal_seeds_are_those_of_the_additive_fit(seed, counts):
    counts = [*counts[:-1], 5]
    scores = draw(seed, 5, 1)
    present = np.arange(5) < np.array([*counts, 5])[:, None]
    headline, found = both(scores, present=present)
    runs = scores[..., 0]
    cell, seed_of, of_cell, of_seed = dummies(present[:8])
    y = runs[cell, seed_of]
    keep = of_seed.any(0)
    design = np.hstack([of_cell, of_seed[:, keep]])
    hat = design @ np.linalg.lstsq(design, np.eye(len(y)), rcond=None)[0]
    rest, left = y - hat @ y, 1 - np.diag(hat)
    trace = np.array([left[cell == c].sum() for c in range(8)])
    variance = np.array([(rest[cell == c] ** 2).sum() for c in range(8)]) / trace
    within = y - np.array([y[cell == c].mean() for c in range(8)])[cell]
    squares = (within**2).sum() - (rest**2).sum()
    own = [sum(1 - 1 / (cell == c).sum() - left[cell == c]) for c in range(8)]
    share = sum(
        ((of_seed[:, s] - np.array([of_seed[cell == c, s].mean() for c in range(8)])[cell]) ** 2).sum()
        for s in range(5)
    )
    of_seeds = max(squares - variance @ own, 0) / share
    for k in np.flatnonzero(found.centred):
        w, n = WEIGHTS[k, :8], present[:8].sum(1)
        parts = w**2 * variance / n
        lever = sum((sum(w[c] / n[c] for c in range(8) if present[c, s])) ** 2 for s in range(5))
        assert found.se[k] ** 2 == pytest.approx(parts.sum() + of_seeds * lever, rel=1e-7, abs=1e-15)
        below = (parts**2 / trace).sum() + (of_seeds * lever) ** 2 / 4
        assert found.df[k] == pytest.approx(
            min((parts.sum() + of_seeds * lever) ** 2 / below, trace.sum()), rel=1e-6
        )
        means = np.array([runs[c, present[c]].mean() for c in range(9)])
        assert headline.value[k] == pytest.approx(WEIGHTS[k] @ means)


def test_the_f_is_that_of_an_analysis_of_variance():
    """Of seed + a*b*c against the same with seed x factor."""
    scores = draw(3, 4)
    _, found = both(scores)
    y = scores[:8].mean(-1).ravel()
    cell, seed = np.eye(8).repeat(4, axis=0), np.tile(np.eye(4), (8, 1))

    def left(*parts):
        """Residual sum of squares, and its degrees of freedom."""
        design = np.hstack(parts)
        fitted, _, rank, _ = np.linalg.lstsq(design, y)
        return ((y - design @ fitted) ** 2).sum(), len(y) - rank

    for name in "abc":
        on = cell @ np.array([[at[name] == "on"] for at in CELLS.values()])
        (whole, df), (more, df_more) = left(cell, seed), left(cell, seed, seed * on)
        f = (whole - more) / (df - df_more) / (more / df_more)
        (k,) = [i for i, c in enumerate(FOUND.rows) if (c.kind, c.name) == ("main", name)]
        assert found.seed_f[k] == pytest.approx(f)
        assert found.seed_p[k] == pytest.approx(stats.f.sf(f, df - df_more, df_more))


def test_a_shared_effect_of_the_seed_drops_out():
    scores = draw(1, 3, shared=0.0)
    more = scores + np.array([0.5, -0.2, 0.9])[:, None]
    (_, plain), (headline, moved) = both(scores), both(more)
    assert moved.se == pytest.approx(plain.se) or not moved.centred.all()
    centred = moved.centred
    assert moved.se[centred] == pytest.approx(plain.se[centred])
    assert (headline.se[centred] > 2 * moved.se[centred]).all()


def test_cells_of_one_training_are_averaged_and_their_own_difference_is_not_centred():
    """The third factor acts at evaluation only: four trainings, each in two cells."""
    rng = np.random.default_rng(8)
    scores = draw(8, 4, 5)
    scores[1:8:2] = scores[0:8:2] + rng.normal(size=(4, 4, 5)) * 0.01 + 0.02
    groups = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    headline, found = both(scores, groups)
    at = {(c.kind, c.name): i for i, c in enumerate(FOUND.rows) if not c.at}
    assert not found.centred[at["main", "c"]]
    assert found.se[at["main", "c"]] == headline.se[at["main", "c"]]
    k = at["main", "a"]
    assert found.centred[k]
    halves = scores[:8].reshape(4, 2, 4, 5).mean(1)
    w = np.array([-0.5, -0.5, 0.5, 0.5])
    parts = 0.0
    centred = halves - halves.mean(0)
    for g in range(4):
        parts += w[g] ** 2 * centred[g].mean(-1).var(ddof=1) * 4 / 3 / 4
    across = np.tensordot(w, halves.mean(1), 1).var(ddof=1) / 5
    odd = centred - centred.mean(1, keepdims=True) - centred.mean(2, keepdims=True)
    odd += centred.mean((1, 2), keepdims=True)
    residual = (w**2 * (odd**2).sum((1, 2)) / (3 * 4) * 4 / 3 / 4 / 5).sum()
    assert found.se[k] ** 2 == pytest.approx(parts + max(across - residual, 0), rel=1e-9)


@pytest.mark.parametrize(("factors", "seeds"), [(("a",), 4), (("a", "b"), 2)], ids=["two cells", "two seeds"])
def test_below_four_trainings_or_three_seeds_it_is_the_headline(make, factors, seeds):
    frame = make(factors=factors, seeds=seeds)
    effects = analyze(frame, base=",".join(f"{f}=off" for f in factors), baseline="ref").effects
    pd.testing.assert_series_equal(effects["blocked_low"], effects["low"], check_names=False)
    assert effects["seed_f"].isna().all()


def test_groups_that_no_seed_connects_keep_the_headline():
    scores = draw(2, 6)
    present = np.zeros((9, 6), dtype=bool)
    present[:4, :3] = present[4:, 3:] = True
    headline, found = both(scores, present=present)
    assert not found.centred.any()
    assert found.se == pytest.approx(headline.se)


def test_a_baseline_that_is_a_cells_training_has_its_gap_centred(make):
    frame = make(seeds=4)
    frame["training"] = frame["cell"].replace("ref", "a+b") + "-" + frame["seed"].astype(str)
    on = frame[frame["cell"] == "a+b"].sort_values(["seed", "utterance"])["pesq_wb"].to_numpy()
    frame.loc[frame[frame["cell"] == "ref"].sort_values(["seed", "utterance"]).index, "pesq_wb"] = on
    ends = analyze(frame, base="a=off,b=off", baseline="ref").effects.set_index("kind")
    gap, rest = ends.loc["gap"], ends.loc["unexplained"]
    assert gap["blocked_low"] != gap["low"]
    assert (rest["blocked_low"], rest["blocked_high"]) == (0, 0)
    apart = frame.drop(columns="training").assign(pesq_wb=frame["pesq_wb"] + 1e-6 * (frame["cell"] == "ref"))
    gap = analyze(apart, base="a=off,b=off", baseline="ref").effects.set_index("kind").loc["gap"]
    assert gap["blocked_low"] == gap["low"]


def test_a_factor_that_acts_differently_at_each_seed_is_pointed_out(make):
    frame = make(seeds=4, noise=0.003)
    frame["pesq_wb"] += 0.1 * frame["seed"] * (frame["a"] == "on")
    found = analyze(frame, base="a=off,b=off", baseline="ref")
    mains = found.kind("main").set_index("name")
    assert mains.loc["a", "seed_p"] < 0.01 < mains.loc["b", "seed_p"]
    (note,) = [note for note in found.notes if "between seeds" in note]
    assert "a (F = " in note
    assert stats.f.sf(mains.loc["a", "seed_f"], 3, 6) == pytest.approx(mains.loc["a", "seed_p"])
