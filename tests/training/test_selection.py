"""Validation goes on beside the training, and silence is never rewarded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ablate.training import selection as selection_module
from ablate.training.evaluate import enhance_utterances
from ablate.training.metrics import METRICS, MetricProcessError, score_with_errors
from ablate.training.selection import Selection

RATE = 16_000


class Scale(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return spectrogram * self.value


@pytest.fixture
def select(pool):
    def make(pairs, **changes) -> Selection:
        return Selection(pairs, pool, **{"device": torch.device("cpu"), "interval": 2, "steps": 5, **changes})

    return make


def test_due_at_every_interval_and_at_the_end(select, pairs):
    selection = select(pairs[:1])
    assert [step for step in range(6) if selection.is_due(step)] == [2, 4, 5]
    selection.start(nn.Identity(), 2, {})
    assert not selection.is_due(2)
    selection.finish()
    assert not selection.is_due(2)


def test_a_line_is_the_means_over_the_utterances(select, pairs):
    selection = select(pairs)
    selection.start(nn.Identity(), 2, {"train/loss": 0.5})
    line = selection.finish()
    enhanced = dict(enhance_utterances(nn.Identity(), [pair.noisy for pair in pairs]))
    scored = [score_with_errors(p.clean, enhanced[i], RATE).values for i, p in enumerate(pairs)]
    assert line["val/pesq_wb"] == np.mean([s["pesq_wb"] for s in scored])
    assert line["val/stoi"] == np.mean([s["stoi"] for s in scored])
    assert (line["step"], line["train/loss"], line["val/broken"]) == (2, 0.5, 0)
    assert selection.lines == [line]
    assert selection.finish() is None


def test_what_is_measured_and_kept_is_the_network_of_the_start(select, pairs):
    selection, model = select(pairs), Scale(1.0)
    selection.start(model, 2, {})
    with torch.no_grad():
        model.value.zero_()
    line = selection.finish()
    assert line["val/pesq_wb"] > 1.05
    assert selection.best["weights"]["value"] == 1.0
    assert (selection.best["step"], selection.best["val_pesq_wb"]) == (2, line["val/pesq_wb"])


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_silence_is_not_selected(select, pairs, value):
    """A silent output used to be left out of the mean, so that the mean of the rest was higher."""
    selection = select(pairs, interval=1)

    class SilentOnTheHardest(nn.Module):
        def forward(self, spectrogram):
            silent = torch.tensor([1.0, value]) if len(spectrogram) == 2 else torch.tensor([1.0])
            return spectrogram * silent[:, None, None]

    assert min(pairs, key=lambda p: score_with_errors(p.clean, p.noisy, RATE).values["pesq_wb"]) is pairs[0]
    hardest_last = [pairs[1], pairs[2], pairs[0]]
    selection.pairs = hardest_last
    selection.start(nn.Identity(), 1, {})
    honest = selection.finish()
    selection.start(SilentOnTheHardest(), 2, {})
    silent = selection.finish()
    assert silent["val/broken"] == 1
    assert silent["val/pesq_wb"] < honest["val/pesq_wb"]
    assert selection.best["step"] == 1
    others = [score_with_errors(p.clean, p.noisy, RATE).values["pesq_wb"] for p in pairs[1:]]
    assert silent["val/pesq_wb"] == pytest.approx((sum(others) + METRICS["pesq_wb"].floor) / 3, abs=0.01)


def test_an_utterance_without_a_reference_is_left_out_of_every_mean(select, pairs, silent_reference):
    with_it, without = select([*pairs, silent_reference]), select(pairs)
    for model in (nn.Identity(), Scale(0.0)):
        for selection in (with_it, without):
            selection.start(model, 2, {})
        one, other = with_it.finish(), without.finish()
        assert one["val/pesq_wb"] == other["val/pesq_wb"]
        assert one["val/broken"] == other["val/broken"]
    alone = select([silent_reference])
    alone.start(nn.Identity(), 2, {})
    assert alone.finish()["val/pesq_wb"] is None
    assert alone.best is None


def test_a_dead_metric_process_is_no_score(select, pairs, monkeypatch):
    from concurrent.futures import Future

    dead: Future = Future()
    dead.set_exception(MetricProcessError("3 processes died"))
    selection = select(pairs)
    monkeypatch.setattr(selection.pool, "submit", lambda *_, **__: dead)
    selection.start(nn.Identity(), 2, {})
    with pytest.raises(MetricProcessError):
        selection.finish()
    assert selection.lines == []


@pytest.mark.parametrize("measurable", [True, False])
def test_the_last_weights_are_kept_where_they_are_asked_for(select, pairs, monkeypatch, measurable):
    selection = select(pairs, choice="last")
    for step, level in ((2, 1.0), (4, 0.1)):
        selection.start(Scale(level), step, {})
        if step == 4 and not measurable:
            monkeypatch.setattr(
                selection_module, "mean_scores", lambda _: {"val/pesq_wb": None, "val/stoi": None}
            )
        selection.finish()
    assert selection.best["step"] == 4
    assert (selection.best["val_pesq_wb"] is not None) == measurable


def test_ties_go_to_the_earlier_one(select, pairs):
    selection = select(pairs[:1])
    for step in (2, 4):
        selection.start(nn.Identity(), step, {})
        selection.finish()
    assert selection.best["step"] == 2


def test_validations_under_way_go_through_a_checkpoint(select, pairs):
    selection, model = select(pairs), Scale(1.0)
    for step, value in ((2, 1.0), (4, 0.5)):
        model.value.data.fill_(value)
        selection.start(model, step, {"train/loss": value})
    state = selection.state()
    lines = [selection.finish(), selection.finish()]
    resumed, model = select(pairs), Scale(0.25)
    resumed.restore(state, model)
    assert model.value == 0.25
    assert not resumed.is_due(2)
    assert not resumed.is_due(4)
    assert [resumed.finish(), resumed.finish(), resumed.finish()] == [*lines, None]
    assert resumed.best["step"] == selection.best["step"]
    assert resumed.best["weights"] == selection.best["weights"]
