import numpy as np
import pytest

from ablate.ablations.inference import guardrails
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


@pytest.fixture
def frame(make):
    """PESQ gains by `a` what CBAK loses; STOI does not move."""
    frame = make(seeds=4, noise=0.01)
    rng = np.random.default_rng(0)
    runs = frame.groupby(["cell", "seed"]).ngroup().to_numpy()
    frame["cbak"] = 2.5 - 0.2 * (frame["a"] == "on") + rng.normal(0, 0.02, runs.max() + 1)[runs]
    frame["cbak"] += rng.normal(0, 0.01, len(frame))
    frame["stoi"] = 0.9 + rng.normal(0, 0.01, runs.max() + 1)[runs] + rng.normal(0, 0.01, len(frame))
    return frame


def test_a_gain_that_costs_a_guard_is_said_in_words(frame):
    found = analyze(frame, base=BASE, baseline="ref", guardrails=["cbak", "stoi"])
    table = found.guardrails.set_index(["metric", "name"])
    assert table.loc[("cbak", "a"), "change"] == "worse"
    assert table.loc[("stoi", "a"), "change"] == ""
    assert table.loc[("cbak", "a"), "estimate"] == pytest.approx(-0.2, abs=0.03)
    (said,) = [note for note in found.notes if note.startswith("a: ")]
    assert said.startswith("a: PESQ-WB up (+0.2")
    assert "CBAK down (-0." in said
    assert "STOI" not in said


def test_a_guard_is_the_analysis_of_its_metric_and_changes_nothing_else(frame):
    found = analyze(frame, base=BASE, baseline="ref", guardrails=["cbak"])
    alone = analyze(frame, base=BASE, baseline="ref", metric="cbak")
    for name, kind in (("gap", "gap"), ("a", "shapley"), ("b", "shapley")):
        mine = found.guardrails.set_index("name").loc[name]
        theirs = alone.kind(kind).set_index("name").loc[name]
        assert mine["kind"] == kind
        for column in ("estimate", "se", "df", "low", "high", "p"):
            assert mine[column] == pytest.approx(theirs[column])
    without = analyze(frame, base=BASE, baseline="ref")
    assert without.guardrails.empty
    assert found.effects.equals(without.effects)
    with pytest.raises(InputError, match="lack covl"):
        analyze(frame, base=BASE, baseline="ref", guardrails=["covl"])


def test_a_move_is_small_by_the_margin_that_was_given(frame):
    said = [
        next(note for note in found.notes if note.startswith("a: "))
        for found in (
            analyze(frame, base=BASE, baseline="ref", guardrails=["cbak"], margin=margin)
            for margin in (None, 0.5)
        )
    ]
    assert "less than its margin" not in said[0]
    assert "PESQ-WB up (+0.2" in said[1]
    assert "less than its margin), CBAK" in said[1]


def test_a_guard_is_another_metric_and_named_once(frame):
    for guardrails_ in (["pesq_wb"], ["cbak", "cbak"]):
        with pytest.raises(InputError, match=f"guardrail metric '{guardrails_[-1]}' is given twice"):
            analyze(frame, base=BASE, baseline="ref", guardrails=guardrails_)


def test_a_level_with_a_main_effect_alone_is_guarded_too(make_levels):
    effects = {"low": (0.0, 0.0), "mid": (0.3, -0.3), "high": (0.0, 0.0)}
    means = {level: {"pesq_wb": 2.5 + gain, "cbak": 2.5 + cost} for level, (gain, cost) in effects.items()}
    scores = make_levels(means, seeds=4, seed=2)
    found = analyze(scores, base="a=low", guardrails=["cbak"], levels={"a": list(effects)})
    assert list(found.kind("shapley")["name"]) == ["a=high"]
    assert set(found.guardrails["name"]) == {"a=high", "a=mid"}
    assert any(note.startswith("a=mid: PESQ-WB up (+0.3") for note in found.notes)


def test_better_is_the_metrics_direction():
    low, high = np.array([0.1, -0.3, -0.1]), np.array([0.2, -0.2, 0.1])
    assert guardrails.changes(1, low, high) == ["better", "worse", ""]
    assert guardrails.changes(-1, low, high) == ["worse", "better", ""]
