"""What the check of a data folder finds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablate.training.data import check as data_check
from ablate.training.data.check import check, leaks, noisy_pesq, noisy_score_finding
from ablate.training.data.corpus import Corpus
from ablate.training.data.levels import snr
from ablate.training.metrics import MetricPool

RATE = 16_000


def speech(seed: int, seconds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = rng.uniform(100, 200)
    voice = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))
    return 0.1 * voice * np.clip(np.sin(2 * np.pi * 2 * time + seed), 0, None)


def write(root: Path, split: str, names: list[str], seed: int, noise: float = 0.02) -> None:
    for index, name in enumerate(names):
        clean = speech(seed + index)
        noisy = clean + noise * np.random.default_rng(seed + index).standard_normal(len(clean))
        for kind, audio in (("clean", clean), ("noisy", noisy)):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            soundfile.write(root / split / kind / f"{name}.wav", audio, RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "speech"
    write(root, "train", [f"a{s}_{i}" for s in range(4) for i in range(3)], 0)
    write(root, "test", ["b1_0", "b1_1", "b2_0"], 100)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.numerics
def test_a_sound_corpus(folder: Path, cache: Path) -> None:
    corpus = Corpus.open(folder, cache=cache)
    found = json.loads(json.dumps(check(corpus, processes=1)))
    test = found["splits"]["test"]
    assert (test["files"], test["sample_rates"], test["channels"]) == (3, {"16000": 3}, {"1": 3})
    assert test["speakers"] == {"b1": 2, "b2": 1}
    assert test["hours"] == pytest.approx(3 / 3600, abs=1e-4)
    assert sum(test["snr_histogram"].values()) == 3
    assert test["snr_mean"] == pytest.approx(np.mean([snr(p.clean, p.noisy) for p in corpus.test]), abs=0.01)
    assert sum(found["splits"][split]["files"] for split in ("train", "validation")) == 12
    assert 1 < found["noisy_pesq_wb"] < 4.6
    assert found["noisy_pesq_sampled"] == 3
    assert found["warnings"] == []


def test_snr_of_a_known_mixture() -> None:
    clean = np.sin(np.arange(16_000) * 0.1)
    noise = np.sin(np.arange(16_000) * 0.7) / 10
    assert snr(clean, clean + noise) == pytest.approx(20, abs=0.05)
    paused = np.concatenate([clean, np.zeros(16_000)])
    assert snr(paused, paused + np.tile(noise, 2)) == pytest.approx(20, abs=0.1)
    assert snr(clean, clean) == float("inf")


def test_clipping_and_missing_noise_are_warned_of(folder: Path, cache: Path) -> None:
    loud, _ = soundfile.read(folder / "train" / "noisy" / "a0_0.wav")
    soundfile.write(folder / "train" / "noisy" / "a0_0.wav", np.clip(20 * loud, -1, 1), RATE)
    shutil.copy(folder / "train" / "clean" / "a0_1.wav", folder / "train" / "noisy" / "a0_1.wav")
    warnings = check(Corpus.open(folder, cache=cache), processes=1)["warnings"]
    assert warnings == [
        "1 pairs have samples at full scale: a0_0",
        "1 pairs have no noise: a0_1",
    ]


def test_leaks_are_found_by_content_and_by_speaker(folder: Path, cache: Path) -> None:
    assert leaks(Corpus.open(folder, cache=cache)) == []
    for kind in ("clean", "noisy"):
        shutil.copy(folder / "train" / kind / "a2_1.wav", folder / "test" / kind / "b1_1.wav")
    write(folder, "test", ["a3_9"], 900)
    found = leaks(Corpus.open(folder, cache=cache))
    assert [(leak.what, leak.test, leak.train) for leak in found] == [
        ("clean audio", "b1_1", "a2_1"),
        ("noisy audio", "b1_1", "a2_1"),
        ("speaker", "a3", "3 files"),
    ]


def test_leaks_into_a_further_test_corpus_are_found(folder: Path, cache: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    for kind in ("clean", "noisy"):
        (far / kind).mkdir(parents=True)
        shutil.copy(folder / "train" / kind / "a2_1.wav", far / kind / "c7_1.wav")
    assert [(leak.what, leak.test) for leak in leaks(Corpus.open(folder, cache=cache, further=[far]))] == [
        ("clean audio", "c7_1"),
        ("noisy audio", "c7_1"),
    ]


def test_scores_are_remembered_by_content(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(folder, cache=cache)
    first = noisy_pesq(corpus.test, processes=1)
    monkeypatch.setattr(MetricPool, "submit", lambda *_, **__: pytest.fail("scored again"))
    assert noisy_pesq(corpus.test) == first
    assert noisy_pesq([]) == []


def test_the_score_of_another_corpus_is_not_doubted(folder: Path, cache: Path) -> None:
    assert noisy_score_finding(Corpus.open(folder, cache=cache)) is None


def test_a_part_of_voicebank_is_doubted(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "vb"
    write(root, "train", ["p226_001", "p227_001"], 0)
    write(root, "test", ["p232_001", "p257_001"], 10)
    finding = noisy_score_finding(Corpus.open(root, cache=cache))
    assert finding is not None
    assert "2 instead of 824" in finding


@pytest.mark.parametrize(("score", "doubted"), [(1.97, False), (1.985, False), (2.04, True), (1.9, True)])
def test_voicebank_is_known_by_its_names_and_held_to_its_score(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, score: float, doubted: bool
) -> None:
    corpus = Corpus.open(folder, cache=cache)
    names = [f"p232_{i:03d}" for i in range(1, 401)] + [f"p257_{i:03d}" for i in range(1, 425)]
    test = tuple(replace(corpus.test[0], name=name) for name in names)
    monkeypatch.setattr(data_check, "noisy_pesq", lambda pairs, **_: [score] * len(pairs))
    finding = noisy_score_finding(replace(corpus, test=test))
    assert (finding is not None) == doubted
    if finding:
        assert f"{score:.3f} over 824 files" in finding
        assert "1.97" in finding


@pytest.mark.slow
def test_recordings_on_which_pesq_crashes_are_named_before_training(folder: Path, cache: Path) -> None:
    sound = speech(7, 0.25) * np.hanning(RATE // 4)
    call = np.tile(np.concatenate([sound, np.zeros(RATE // 4)]), 62)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(call))
    for kind, audio in (("clean", call), ("noisy", call + noise)):
        soundfile.write(folder / "test" / kind / "b3_calls.wav", audio, RATE)
    found = check(Corpus.open(folder, cache=cache), processes=1)
    assert (
        "PESQ could not score: b3_calls: PESQ crashes on files with more than 55 utterances; split the file"
        in found["warnings"]
    )
    assert found["noisy_pesq_sampled"] == 3
