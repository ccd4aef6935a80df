import numpy as np
import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


def row(analysis, kind, name, at=""):
    table = analysis.effects
    found = table[(table["kind"] == kind) & (table["name"] == name) & (table["at"] == at)]
    assert len(found) == 1
    return found.iloc[0]


def test_order_of_rows_kinds_of_columns_and_ways_to_name_the_base_do_not_matter(make, tmp_path):
    frame = make()
    expected = analyze(frame, base=BASE, baseline="ref").effects
    shuffled = frame.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(analyze(shuffled, base=BASE, baseline="ref").effects, expected)
    for named in ({"base": {"a": "off", "b": "off"}}, {"factors": ["a", "b"]}):
        pd.testing.assert_frame_equal(analyze(frame, baseline="ref", **named).effects, expected)
    typed = frame.astype({"cell": "category", "a": "category", "b": "category", "utterance": "category"})
    pd.testing.assert_frame_equal(analyze(typed, base=BASE, baseline="ref").effects, expected)
    path = tmp_path / "scores.csv"
    frame.to_csv(path, index=False)
    pd.testing.assert_frame_equal(analyze(pd.read_csv(path), base=BASE, baseline="ref").effects, expected)
    empty = frame.fillna({"a": "", "b": ""})
    pd.testing.assert_frame_equal(analyze(empty, base=BASE, baseline="ref").effects, expected)


@pytest.mark.parametrize("word", ["-", "baseline", "None"])
def test_a_baseline_whose_levels_are_no_other_cells_stands_outside(make, word):
    frame = make()
    expected = analyze(frame, base=BASE, baseline="ref").effects
    marked = frame.fillna({"a": word, "b": word})
    pd.testing.assert_frame_equal(analyze(marked, base=BASE, baseline="ref").effects, expected)


def test_a_baseline_may_be_the_other_level_of_the_only_factor(make):
    frame = make(factors=("a",))
    found = analyze(frame[frame["cell"] != "ref"], base="a=off", baseline="a")
    assert row(found, "main", "a").estimate == row(found, "gap", "gap").estimate


@pytest.mark.parametrize("base", ["a=0,b=0", "a=0.0,b=0.0", "a=off,b=off", {"a": 0, "b": False}])
def test_levels_may_be_numbers(make, base):
    frame = make()
    expected = analyze(frame, base=BASE, baseline="ref").effects
    for name in ("a", "b"):
        frame[name] = frame[name].map({"off": 0, "on": 1})
    found = analyze(frame, base=base, baseline="ref").effects
    assert list(found["estimate"]) == list(expected["estimate"])


def test_cells_may_be_numbers(make):
    frame = make()
    expected = analyze(frame, base=BASE, baseline="ref").effects
    frame["cell"] = frame["cell"].factorize()[0]
    found = analyze(frame, base=BASE, baseline=frame["cell"].max()).effects
    pd.testing.assert_frame_equal(found, expected)


def test_an_empty_status_is_done(make):
    frame = make()
    expected = analyze(frame, base=BASE, baseline="ref").effects
    found = analyze(frame.assign(status=""), base=BASE, baseline="ref").effects
    pd.testing.assert_frame_equal(found, expected)


def test_a_base_with_other_levels_turns_the_sign(make):
    frame = make()
    forward = analyze(frame, base=BASE, baseline="ref")
    turned = analyze(frame, base="a=on,b=off", baseline="ref")
    assert row(turned, "main", "a").estimate == pytest.approx(-row(forward, "main", "a").estimate)
    assert turned.base_cell == "a"


def test_only_named_columns_are_factors(make):
    frame = make()
    frame["parameters"] = frame["cell"].map({c: i for i, c in enumerate(frame["cell"].unique())}) * 1000
    frame["started"] = np.arange(len(frame))
    frame["optimizer"] = np.where(frame["a"] == "on", "adam", "sgd")
    for named in ({"base": BASE}, {"factors": ["a", "b"]}, {"base": "a=off", "levels": {"b": ["off", "on"]}}):
        assert analyze(frame, baseline="ref", **named).factors == ("a", "b")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            lambda f: pd.concat([f, f.tail(1)]),
            {},
            "'ref', seed 3, utterance 'u11' has more than one row",
        ),
        (lambda f: f, {"baseline": "nobody"}, "no cell 'nobody'"),
        (lambda f: f, {"base": "a=off,z=off"}, "the scores lack z"),
        (lambda f: f, {"base": None}, "which columns are factors"),
        (lambda f: f, {"base": "a=off"}, "have the same levels"),
        (lambda f: f.assign(a=f["utterance"]), {}, "rows with different levels of 'a'"),
        (lambda f: f, {"base": "a=low,b=off"}, "a=low"),
        (lambda f: f, {"base": "nowhere"}, "is not of the form factor=level"),
        (lambda f: f.drop(columns="seed"), {}, "lack seed"),
        (lambda f: f.assign(status="broken"), {}, "'broken'"),
        (lambda f: f.assign(pesq_wb=np.nan), {}, "no run has a value"),
        (lambda f: f.assign(pesq_wb="high"), {}, "pesq_wb does not contain numbers"),
        (lambda f: f.iloc[:0], {}, "empty"),
        (lambda f: f.assign(utterance=f["utterance"] + f["cell"]), {}, "no utterance has pesq_wb in half"),
        (
            lambda f: f.replace({"a": {"off": "x", "on": "y"}}),
            {"base": None, "factors": ["a", "b"]},
            "which level of 'a' is off",
        ),
        (lambda f: f, {"claims": {"z": (0, 1)}}, "claim for 'z'"),
        (lambda f: f, {"claims": {"a": (1, 0)}}, "above high"),
        (lambda f: f, {"confidence": 95}, "not between 0 and 1"),
    ],
)
def test_wrong_input_is_refused_by_name(make, change, arguments, message):
    with pytest.raises(InputError, match=message):
        analyze(change(make()), **{"base": BASE, "baseline": "ref", **arguments})


def test_without_factors_there_is_the_gap_alone(make):
    frame = make()
    pair = frame[frame["cell"].isin(["a", "ref"])]
    found = analyze(pair, base="a=on,b=off", baseline="ref")
    assert found.effects["kind"].tolist() == ["gap"]
    expected = frame.groupby("cell")["pesq_wb"].mean()
    assert found.effects["estimate"][0] == pytest.approx(expected["ref"] - expected["a"])
    assert found.base_cell == "a"


@pytest.mark.parametrize("base", [BASE, f"{BASE},core=mamba"])
@pytest.mark.parametrize("at", [None, "off"])
def test_what_only_the_baseline_has_is_no_factor(make, base, at):
    plain = make(noise=0.001)
    frame = plain.assign(core=np.where(plain["cell"] == "ref", "lstm", "mamba"))
    frame.loc[frame["cell"] == "ref", ["a", "b"]] = at
    found = analyze(frame, base=base, baseline="ref")
    wanted = analyze(plain, base=BASE, baseline="ref")
    pd.testing.assert_frame_equal(found.effects, wanted.effects)
    if "core" in base:
        assert any("core is mamba in every cell but the baseline (lstm)" in note for note in found.notes)
