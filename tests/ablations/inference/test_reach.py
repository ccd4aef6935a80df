import numpy as np
import pytest

from ablate.reports import analyze

BASE = "a=off,b=off"


def copied(frame, *pairs):
    """A table in which the scores of the second cell of each pair are those of the first."""
    for off, on in pairs:
        source = frame[frame["cell"] == off].sort_values(["seed", "utterance"])["pesq_wb"].to_numpy()
        frame.loc[frame[frame["cell"] == on].sort_values(["seed", "utterance"]).index, "pesq_wb"] = source
    return frame


def verdict(found, name, kind="shapley"):
    return found.kind(kind).set_index("name").loc[name, "verdict"]


def test_a_factor_that_changes_no_score_has_no_verdict(make):
    found = analyze(
        copied(make(), ("base", "a"), ("b", "a+b")), base=BASE, baseline="ref", claims={"a": (0.2, 0.3)}
    )
    assert set(found.unreached) == {"a"}
    assert verdict(found, "a") == "reaches nothing here"
    assert not found.effects.query("name == 'a' and kind != 'shapley'")["verdict"].any()
    assert np.isnan(found.kind("shapley").set_index("name").loc["a", "seeds_needed"])
    assert "the scores of a are equal to those of base and 1 more pair of cells" in found.void["a"]
    assert verdict(found, "b") == "no claim"


def test_one_equal_pair_is_legitimate(make):
    found = analyze(copied(make(), ("base", "a")), base=BASE, baseline="ref")
    assert not found.unreached


def test_one_different_seed_is_enough(make):
    frame = copied(make(), ("base", "a"), ("b", "a+b"))
    frame.loc[(frame["cell"] == "a") & (frame["seed"] == 3) & (frame["utterance"] == "u4"), "pesq_wb"] += (
        1e-12
    )
    assert not analyze(frame, base=BASE, baseline="ref").unreached


def test_shared_trainings_do_not_count(make):
    frame = copied(make(), ("base", "a"), ("b", "a+b"))
    name = frame["cell"].replace({"a": "base", "a+b": "b"})
    shared = frame.assign(training=name + "-" + frame["seed"].astype(str))
    assert not analyze(shared, base=BASE, baseline="ref").unreached


def test_scores_at_the_floor_do_not_count(make):
    frame = make()
    frame.loc[frame["a"].notna(), "pesq_wb"] = 1.0
    assert not analyze(frame, base=BASE, baseline="ref").unreached


@pytest.mark.parametrize("utterances", [1, 12])
def test_in_rounded_or_run_level_tables_it_is_a_note(make, utterances):
    frame = copied(make(utterances=utterances), ("base", "a"), ("b", "a+b"))
    if utterances > 1:
        frame["pesq_wb"] = frame["pesq_wb"].round(2)
    found = analyze(frame, base=BASE, baseline="ref")
    assert not found.void
    assert verdict(found, "a") != "reaches nothing here"
    assert any("a small difference may be hidden" in note for note in found.notes)


def test_of_several_levels_the_one_that_reaches_nothing_is_named(make_levels):
    frame = make_levels({level: {"pesq_wb": 2.5} for level in ("low", "mid", "high")}, seeds=3, seed=0)
    found = analyze(copied(frame, ("low", "mid")), base="a=low", levels={"a": ["low", "mid", "high"]})
    assert set(found.unreached) == {"a=mid"}
    assert verdict(found, "a=mid", "main") == "reaches nothing here"
