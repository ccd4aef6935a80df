from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from ablate.reports.cli import app
from ablate.training.audio import FilePair
from ablate.training.metrics import MetricPool, conventions, score
from ablate.training.metrics.conventions import CONVENTIONS, explain

RATE = 48_000


def voice() -> np.ndarray:
    time = np.arange(2 * RATE) / RATE
    phase = np.cumsum(120 * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / RATE
    tone = sum(np.cos(2 * np.pi * k * phase + k * k) / k for k in range(1, 30))
    tone = tone * (np.sin(2 * np.pi * 1.5 * time + 1) > -0.2) * np.sin(2 * np.pi * 4 * time) ** 2
    return 0.5 * tone / np.abs(tone).max()


@pytest.fixture
def pair(tmp_path) -> FilePair:
    clean = voice()
    noise = np.random.default_rng(0).standard_normal(len(clean))
    for name, wave in (("clean", clean), ("noisy", 4 * (clean + 0.004 * noise))):
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE, subtype="FLOAT")
    return FilePair("a", tmp_path / "clean.wav", tmp_path / "noisy.wav")


def test_the_windowed_sinc_is_its_formula():
    """Each sample is a sum over the samples near it in time, as the documentation of torchaudio writes it."""
    wave = np.random.default_rng(0).standard_normal(441)
    found = conventions._hann_sinc(wave, 44_100)
    cutoff = 0.99 * 16_000
    wanted = np.zeros(160)
    for n in range(160):
        distance = (n / 16_000 - np.arange(441) / 44_100) * cutoff
        window = np.where(np.abs(distance) < 6, np.cos(np.pi * distance / 12) ** 2, 0)
        wanted[n] = (wave * np.sinc(distance) * window).sum() * cutoff / 44_100
    assert found == pytest.approx(wanted, abs=1e-12)


def test_how_files_are_resampled_concerns_those_of_other_rates():
    at = {rate: {one.habit for one in CONVENTIONS if one.when(rate)} for rate in (16_000, 44_100, RATE)}
    assert at[RATE] == {one.habit for one in CONVENTIONS}
    assert len(at[44_100] - at[16_000]) == 5
    assert all(habit.startswith("resampled by ") for habit in at[44_100] - at[16_000])
    assert at[RATE] - at[44_100] == {
        "every n-th sample, without a filter",
        "the rate is not read: samples taken for 16 kHz",
    }


@pytest.mark.slow
def test_each_convention_is_measured_and_the_planted_ones_show(pair):
    rows = {(row.habit, row.metric): row for row in explain([pair], MetricPool(0))}
    assert len(rows) == len(CONVENTIONS)
    assert all(row.files == 1 for row in rows.values())
    shown = {habit: row.difference for (habit, _), row in rows.items()}
    assert shown["P.862.2 with Corrigendum 2 (pesqc2, newer standard code)"] > 0.1
    assert abs(shown["enhanced clipped to [-1, 1]"]) > 0.05  # the file goes to about 2
    assert abs(shown["resampled by soxr VHQ"]) < 0.05
    assert shown["mean over seconds, not files"] == pytest.approx(0, abs=1e-12)
    rounded = rows["narrow band, MOS-LQO of P.862.1", "pesq_nb"]
    clean, noisy = (soundfile.read(path)[0] for path in (pair.clean, pair.other))
    assert rounded.value == pytest.approx(score(clean, noisy, RATE)["pesq_nb"], abs=1e-9)


def test_seconds_weigh_files():
    convention = next(one for one in CONVENTIONS if one.by_seconds)
    row = conventions._mean(convention, [(1.0, 2.0, 2.0), (3.0, 4.0, 4.0)])
    assert (row.ours, row.value, row.files) == (3.0, 3.5, 2)


def test_the_raw_score_is_the_inverse_of_the_mapping():
    for raw in (1.0, 2.5, 4.0):
        mapped = 0.999 + 4 / (1 + np.exp(-1.4945 * raw + 4.6607))
        assert conventions._raw(mapped) == pytest.approx(raw)


@pytest.mark.slow
def test_the_command_prints_them(pair, capsys):
    app(["score", str(pair.clean), str(pair.other), "--explain", "--format", "json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert {"habit", "metric", "ours", "value", "files", "difference"} == set(found[0])
