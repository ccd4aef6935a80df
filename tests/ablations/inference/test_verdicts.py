import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.ablations.claims import Claim
from ablate.ablations.inference.verdicts import decide, judge
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


def row(analysis, kind, name, at=""):
    table = analysis.effects
    found = table[(table["kind"] == kind) & (table["name"] == name) & (table["at"] == at)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize(
    ("estimate", "half", "equivalence", "claim", "expected"),
    [
        (0.0, 0.04, 0.03, (0.1, 0.2), "contradicted, negligible"),
        (0.05, 0.04, 0.03, (0.1, 0.2), "undecided, smaller than claimed"),
        (0.5, 0.1, 0.08, (0.1, 0.2), "contradicted"),
        (0.15, 0.06, 0.05, (0.1, 0.2), "supported"),
        (0.15, 0.11, 0.09, (0.1, 0.2), "undecided"),
        (0.01, 0.045, 0.039, (0.05, 0.1), "negligible"),
        (0.08, 0.01, 0.008, (0.1, 0.1), "supported, smaller than claimed by less than the margin"),
        (0.12, 0.01, 0.008, (0.1, 0.1), "supported, larger than claimed by less than the margin"),
        (0.16, 0.02, 0.015, (0.1, 0.1), "undecided, larger than claimed"),
        (0.03, 0.01, 0.008, (0.06, 0.06), "negligible, smaller than claimed by less than the margin"),
        (0.03, 0.01, 0.008, (0.0, 0.04), "supported, negligible"),
        (-0.08, 0.01, 0.008, (-0.1, -0.1), "supported, smaller than claimed by less than the margin"),
        (-0.13, 0.01, 0.008, (-0.1, -0.1), "supported, larger than claimed by less than the margin"),
        (0.08, 0.02, 0.01, (-0.04, 0.04), "undecided, above the claim"),
        (-0.08, 0.02, 0.01, (-0.04, 0.04), "undecided, below the claim"),
    ],
)
def test_verdicts(estimate, half, equivalence, claim, expected):
    said = judge(Claim(low=claim[0], high=claim[1]), *map(np.array, (estimate, half, equivalence)), 0.05)
    assert said == expected


HUNDREDTHS = st.integers(-40, 40).map(lambda value: value / 100)


@given(
    HUNDREDTHS, st.integers(1, 30), st.integers(1, 100), HUNDREDTHS, st.integers(0, 20), st.integers(1, 10)
)
def test_the_words_are_those_of_sets_on_a_line(estimate, half, share, low, width, margin):
    """The definitions, restated point by point on a fine grid of the line."""
    half, high, margin = (half + 0.5) / 100, low + width / 100, margin / 100
    line = np.arange(-1500, 1501) / 1000
    tight = half * share / 100

    def inside(bottom, top):
        return (line >= bottom - 1e-9) & (line <= top + 1e-9)

    interval, narrow = inside(estimate - half, estimate + half), (estimate - tight, estimate + tight)
    claimed, wide = inside(low, high), inside(low - margin, high + margin)
    negligible = -margin < narrow[0] and narrow[1] < margin
    claims_nothing = not (claimed & ~inside(-margin, margin)).any()
    found = decide(*map(np.array, (estimate, half, tight)), (low, high), margin)
    assert found.contradicted == (not (interval & wide).any())
    assert found.within == (not (interval & ~wide).any())
    assert found.negligible == negligible
    assert found.supported == (bool(found.within) and (not negligible or claims_nothing))
    assert found.beside == (not (interval & claimed).any() and not found.contradicted)
    assert not (found.contradicted and found.supported)


def test_a_precise_study_within_the_margin_of_a_point_does_not_contradict_it(make):
    found = analyze(make(seeds=10, noise=0.002), base=BASE, baseline="ref", claims={"a": (0.28, 0.28)})
    verdict = row(found, "shapley", "a").verdict
    assert verdict == "supported, smaller than claimed by less than the margin"


def test_claims_are_judged_on_the_shapley_value(make):
    frame = make(seeds=5, noise=0.005)
    claims = {"a": (0.2, 0.3, "the report"), "b": (0.2, 0.3)}
    found = analyze(frame, base=BASE, baseline="ref", claims=claims)
    assert row(found, "shapley", "a").verdict == "supported"
    assert row(found, "shapley", "a").claim_source == "the report"
    assert row(found, "shapley", "b").verdict == "contradicted"
    assert row(found, "main", "a").verdict == ""
    assert list(found.credit["kind"].unique()) == ["shapley"]


def test_undecided_says_how_many_seeds_it_takes(make):
    frame = make(seeds=3, noise=0.12)
    claims = {"a": (0.2, 0.3), "b": (0.05, 0.15)}
    found = analyze(frame, base=BASE, baseline="ref", claims=claims)
    open_ones = found.kind("shapley").query("verdict.str.startswith('undecided')")
    assert len(open_ones)
    assert (open_ones["seeds_needed"].isna() | (open_ones["seeds_needed"] > 3)).all()
    assert found.kind("shapley")["seeds_needed"].notna().any()


def test_registered_claims_are_the_default_for_pesq(make):
    frame = make().rename(columns={"a": "bidirectional", "b": "mine"})
    found = analyze(frame, base="bidirectional=off,mine=off", baseline="ref")
    assert (found.claims["bidirectional"].low, found.claims["bidirectional"].high) == (0.2, 0.3)
    assert set(found.claims) == {"bidirectional"}
    assert row(found, "shapley", "mine").verdict in ("no claim", "negligible")
    assert not analyze(frame, base="bidirectional=off,mine=off", baseline="ref", claims={}).claims


def test_claims_of_a_factor_with_three_levels_name_the_level(make):
    frame = make()
    frame["core"] = frame["a"] + frame["b"].where(frame["a"] == "on", "")
    frame = frame[frame["cell"].isin(["base", "a", "a+b", "ref"])].drop(columns=["a", "b"])
    with pytest.raises(InputError, match="core=onoff"):
        analyze(frame, base="core=off", baseline="ref", claims={"core": (0, 1)})
    found = analyze(frame, base="core=off", baseline="ref", claims={"core=onon": (0.3, 0.4)})
    assert row(found, "shapley", "core=onon").claim_low == 0.3
    assert np.isnan(row(found, "main", "core=onon").claim_low)


def test_a_claim_for_a_middle_level_is_judged_on_its_main_effect(make):
    frame = make()
    frame["core"] = frame["a"] + frame["b"].where(frame["a"] == "on", "")
    frame = frame[frame["cell"].isin(["base", "a", "a+b", "ref"])].drop(columns=["a", "b"])
    found = analyze(frame, base="core=off", baseline="ref", claims={"core=onoff": (1.3, 1.4)})
    assert row(found, "main", "core=onoff").verdict == "contradicted"
    assert row(found, "main", "core=onon").verdict == ""
    assert row(found, "shapley", "core=onon").verdict == "no claim"


def test_a_claim_is_judged_on_its_metric_alone(make):
    frame = make(seeds=5, noise=0.005).rename(columns={"a": "bidirectional"})
    frame["stoi"] = frame["pesq_wb"] / 5
    base = "bidirectional=off,b=off"
    found = analyze(frame, base=base, baseline="ref", metric="stoi")
    assert found.margin is None
    assert not found.claims
    assert set(found.kind("shapley")["verdict"]) == {"no margin"}
    assert not found.effects["verdict"].str.contains("negligible").any()
    assert any("No verdicts" in note for note in found.notes)
    given = {"bidirectional": Claim(low=0.2, high=0.3), "b": Claim(low=0, high=0.1, metric="stoi")}
    found = analyze(frame, base=base, baseline="ref", metric="stoi", margin=0.01, claims=given)
    assert set(found.claims) == {"b"}
    assert row(found, "shapley", "b").verdict == "supported"
    assert analyze(frame, base=base, baseline="ref", claims=given).claims.keys() == {"bidirectional"}


def test_a_claim_may_name_the_level_of_two(make):
    found = analyze(make(), base=BASE, baseline="ref", claims={"a=on": (0.2, 0.3)})
    assert row(found, "shapley", "a").claim_low == 0.2


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_effect_is_negligible_if_the_narrower_interval_lies_within_the_margin(make, confidence):
    """Two one-sided tests at (1 - confidence) / 2 each use the interval at 2 x confidence - 1."""
    told = set()
    for margin in (0.02, 0.3, 0.32, 0.34, 0.36, 0.5):
        effects = analyze(make(), base=BASE, margin=margin, confidence=confidence, claims={}).effects
        half = stats.t.ppf(confidence, effects["df"]) * effects["se"]
        within = effects["estimate"].abs() + half < margin
        judged = effects["kind"].isin(["main", "shapley"])
        assert (effects["verdict"].str.contains("negligible") == within)[judged].all()
        told |= set(within[judged])
    assert told == {True, False}
