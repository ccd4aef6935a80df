from __future__ import annotations

import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.reports.sources.columns import ALL, curve_name, tidy


def runs(**changes) -> pd.DataFrame:
    """A row per run of two factors and two seeds, with a tracker's names."""
    rows = [
        {"Name": f"run{i}", "core": core, "bi": bi, "random_seed": seed, "test/PESQ": 2.0 + i / 10}
        for i, (core, bi, seed) in enumerate(
            (core, bi, seed) for core in ("lstm", "mamba") for bi in (0, 1) for seed in (1, 2)
        )
    ]
    return pd.DataFrame(rows).assign(**changes)


def tidied(frame: pd.DataFrame, factors=("core", "bi"), columns=None, baseline=None):
    return tidy(frame, factors, "pesq_wb", columns or {}, baseline)


def test_names_are_guessed_and_said():
    frame, notes = tidied(runs())
    assert list(frame["seed"]) == [1, 2] * 4
    assert set(frame["utterance"]) == {ALL}
    assert list(frame["cell"].unique()) == [
        "core=lstm,bi=0",
        "core=lstm,bi=1",
        "core=mamba,bi=0",
        "core=mamba,bi=1",
    ]
    assert frame["pesq_wb"].tolist() == runs()["test/PESQ"].tolist()
    told = " ".join(notes)
    assert "'random_seed' is used as seed" in told
    assert "'test/PESQ' is used as pesq_wb" in told
    assert "only the variation between runs" in told


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("valid_PESQ", "val/pesq_wb"),
        ("metrics.test/sisdr", "metrics.test/sisdr"),
        ("test/si-snr", "test/si_sdr"),
        ("PESQ_WB.dev", "val/pesq_wb"),
        ("val/pesq_wb", "val/pesq_wb"),
        ("val_test_pesq", "val_test_pesq"),
        ("train/loss", "train/loss"),
        ("pesq", "pesq"),
    ],
)
def test_curves_get_our_names(theirs, ours):
    assert curve_name(theirs) == ours


def test_a_given_name_comes_first():
    frame, notes = tidied(runs(PESQ2=3.0), columns={"pesq_wb": "PESQ2", "seed": "random_seed"})
    assert set(frame["pesq_wb"]) == {3.0}
    assert "taken as" not in " ".join(notes)


def test_a_tracker_prefix_of_a_factor_may_be_left_out():
    frame, _ = tidied(runs().rename(columns={"core": "params.core", "bi": "config.bi"}))
    assert set(frame["core"]) == {"lstm", "mamba"}
    assert set(frame["bi"]) == {"0", "1"}


def test_runs_that_a_tracker_calls_unfinished_are_left_out_and_said():
    frame, notes = tidied(runs(State=["finished"] * 7 + ["crashed"]))
    assert len(frame) == 7
    assert "not finished: 1 crashed" in " ".join(notes)


def test_diverged_runs_stay():
    frame = runs(status=["done"] * 7 + ["diverged"])
    frame.loc[7, "test/PESQ"] = None
    assert list(tidied(frame)[0]["status"]).count("diverged") == 1


def test_without_a_seed_each_row_is_a_training():
    frame, notes = tidied(runs().drop(columns="random_seed"))
    assert list(frame["seed"]) == [1, 2] * 4
    assert "each row counts as a separate run" in " ".join(notes)


def test_utterances_of_runs():
    both = pd.concat([runs(file=f"u{i}") for i in range(3)])
    frame, notes = tidied(both)
    assert set(frame["utterance"]) == {"u0", "u1", "u2"}
    assert "only the variation between runs" not in " ".join(notes)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (runs(random_seed=1), r"seed 1 has several rows \(2, 3\)"),
        (runs(core="lstm"), "factor 'core' has only 'lstm'"),
        (runs().drop(columns="core"), "no column 'core' for a factor"),
        (runs().drop(columns="test/PESQ"), "no column for pesq_wb"),
        (runs(**{"val/PESQ": 2.0}), r"could be 'pesq_wb'; name one with --column pesq_wb="),
        (runs(**{"test/PESQ": "n/a"}), "pesq_wb is not a number in row 2: 'n/a'"),
        (runs(random_seed="a"), "the seed in row 2 is not a whole number"),
        (runs(n_files=[824] * 4 + [820] * 4), r"different test files: n_files is 820 .* 824"),
        (runs(**{"test/PESQ": None}), "no row has a value"),
        (runs(file="u").drop(columns="random_seed"), "to recognise rows of one run"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_would_do(frame, message):
    with pytest.raises(InputError, match=message):
        tidied(frame)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"no column 'PESK' \(for pesq_wb\)"):
        tidied(runs(), columns={"pesq_wb": "PESK"})
