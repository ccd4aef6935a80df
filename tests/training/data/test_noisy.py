"""The noisy recordings are scored once, and never by a process that died."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.training.data.noisy import noisy_scores
from ablate.training.metrics import MetricPool, MetricProcessError


def test_noisy_scores_are_measured_once_per_content(pairs, make_pair, pool, tmp_path):
    first = noisy_scores(pairs, pool, cache=tmp_path)
    broken_pool = MetricPool(0)
    broken_pool.close()
    pd.testing.assert_frame_equal(noisy_scores(pairs, broken_pool, cache=tmp_path), first)
    with pytest.raises(RuntimeError, match="closed"):
        noisy_scores([pairs[0], make_pair("b_1", 0.9, 0.3)], broken_pool, cache=tmp_path)


def test_another_version_of_a_measure_measures_again(pairs, pool, tmp_path, monkeypatch):
    noisy_scores(pairs[:1], pool, cache=tmp_path)
    closed = MetricPool(0)
    closed.close()
    monkeypatch.setattr("ablate.training.metrics.passport.with_version", lambda name: f"{name} 99")
    with pytest.raises(RuntimeError, match="closed"):
        noisy_scores(pairs[:1], closed, cache=tmp_path)
    noisy_scores(pairs[:1], pool, cache=tmp_path)
    assert len(list((tmp_path / "noisy-scores").glob("*.parquet"))) == 2


def _ask_for_noisy_scores(pairs: list, cache: Path, log: Path) -> None:
    class Counting(MetricPool):
        def submit(self, *arguments, **options):
            with log.open("a") as handle:
                handle.write("x")
            return super().submit(*arguments, **options)

    with Counting(0) as pool:
        noisy_scores(pairs, pool, cache=cache)


def test_of_processes_that_ask_at_once_one_measures(make_pair, tmp_path):
    pairs = [make_pair("x", 0.8), make_pair("y", 0.8)]
    context = multiprocessing.get_context("fork")
    askers = [
        context.Process(target=_ask_for_noisy_scores, args=(pairs, tmp_path, tmp_path / "log"))
        for _ in range(3)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
        assert asker.exitcode == 0
    assert (tmp_path / "log").read_text() == "xx"


def test_a_pair_without_a_reference_is_missing(pairs, silent_reference, pool, tmp_path):
    scores = noisy_scores([pairs[0], silent_reference], pool, cache=tmp_path)
    assert np.isfinite(scores["pesq_wb"]).tolist() == [True, False]


def test_what_a_dead_process_leaves_is_not_remembered(pairs, pool, tmp_path, monkeypatch):
    dead: Future = Future()
    dead.set_exception(MetricProcessError("3 processes died"))
    with monkeypatch.context() as patch:
        patch.setattr(pool, "submit", lambda *_, **__: dead)
        with pytest.raises(MetricProcessError):
            noisy_scores(pairs, pool, cache=tmp_path)
    assert noisy_scores(pairs, pool, cache=tmp_path)["pesq_wb"].notna().all()
