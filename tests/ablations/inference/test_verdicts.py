import numpy as np
import pytest

from ablate.ablations.claims import Claim
from ablate.ablations.inference.verdicts import decide
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
        (0.0, 0.04, 0.03, (0.1, 0.2), ("contradicted", "negligible")),
        (0.05, 0.04, 0.03, (0.1, 0.2), ("contradicted",)),
        (0.5, 0.1, 0.08, (0.1, 0.2), ("contradicted",)),
        (0.15, 0.06, 0.05, (0.1, 0.2), ("supported",)),
        (0.15, 0.11, 0.09, (0.1, 0.2), ()),
        (0.01, 0.045, 0.039, (0.05, 0.1), ("negligible",)),
        (0.01, 0.045, 0.039, None, ("negligible",)),
        (0.2, 0.01, 0.01, None, ()),
    ],
)
def test_verdicts(estimate, half, equivalence, claim, expected):
    flags = decide(np.array(estimate), np.array(half), np.array(equivalence), claim, 0.05)
    words = ("contradicted", "negligible", "supported")
    assert tuple(word for word, flag in zip(words, flags, strict=True) if flag) == expected


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
    open_ones = found.kind("shapley").query("verdict == 'undecided'")
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
