import numpy as np
import pytest

from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


def named(frame):
    return frame.assign(training=frame["cell"] + "-" + frame["seed"].astype(str))


def test_one_training_under_several_seeds_is_one_run_and_that_is_said(make):
    frame = named(make(seeds=4))
    again = (frame["cell"] == "b") & (frame["seed"] > 2)
    frame.loc[again, "training"] = "b-2"
    found = analyze(frame, base=BASE, baseline="ref")
    assert found.cells.set_index("cell").loc["b", "runs"] == 2
    (note,) = [note for note in found.notes if "one training" in note]
    assert note.startswith("b: seeds 2, 3, 4 are one training run (b-2) and count as one")
    means = frame[frame["cell"] == "b"].groupby("seed")["pesq_wb"].mean()
    by_hand = (means[1] + means[[2, 3, 4]].mean()) / 2
    assert found.cells.set_index("cell").loc["b", "mean"] == pytest.approx(by_hand)


def test_a_cell_of_one_training_has_no_interval(make):
    frame = named(make(seeds=3))
    frame.loc[frame["cell"] == "ref", "training"] = "ref-1"
    found = analyze(frame, base=BASE, baseline="ref")
    assert np.isnan(found.kind("gap")["se"].item())
    assert found.kind("main")["se"].notna().all()


def test_scores_that_were_copied_under_another_seed_count_once_where_the_training_says_so(make):
    frame = named(make(seeds=3))
    first = frame[(frame["cell"] == "a") & (frame["seed"] == 1)]
    frame.loc[(frame["cell"] == "a") & (frame["seed"] == 2), "pesq_wb"] = first["pesq_wb"].to_numpy()
    with pytest.raises(InputError, match=r"cell 'a': seeds 1 and 2 have the same scores.*Remove its rows"):
        analyze(frame, base=BASE, baseline="ref")
    frame.loc[(frame["cell"] == "a") & (frame["seed"] == 2), "training"] = "a-1"
    assert analyze(frame, base=BASE, baseline="ref").cells.set_index("cell").loc["a", "runs"] == 2


def test_a_null_effect_of_one_training_each_is_never_shown(make):
    """Three labels of one training: three times the same luck, which the interval took for precision."""
    rng = np.random.default_rng(0)
    frame = named(make(seeds=3, utterances=1))
    luck = {cell: 2.5 + rng.normal(0, 0.03) for cell in frame["cell"].unique()}
    frame["pesq_wb"] = frame["cell"].map(luck) + rng.normal(0, 0.001, len(frame))
    frame["training"] = frame["cell"]
    found = analyze(frame, base=BASE, baseline="ref")
    assert found.effects["low"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.assign(training=np.where(f["utterance"] == "u0", "x", f["training"])),
            r"has rows of trainings 'x' and 'base-1' \(row",
        ),
        (
            lambda f: f.assign(training=np.where(f["cell"].isin(["a", "b"]), "x", f["training"])).query(
                "not (cell == 'a' and seed == 1 or cell == 'a' and seed == 3 or cell == 'b' and seed > 1)"
            ),
            r"training 'x' is seed 1 in one cell and seed 2 in 'a' \(rows .*give a training one seed",
        ),
    ],
)
def test_names_that_contradict_the_seeds_are_refused_with_their_rows(make, change, message):
    with pytest.raises(InputError, match=message):
        analyze(change(named(make())), base=BASE, baseline="ref")
