"""The demo corpus: the same on every run, and what it promises."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ablate.training.data.corpus import Corpus
from ablate.training.data.demo import TEST_SNRS, TRAIN_SNRS, make_demo
from ablate.training.data.demo.noises import TEST_NOISES, TRAIN_NOISES, in_a_room
from ablate.training.data.demo.text import TEST, TRAIN
from ablate.training.data.demo.voices import Utterance, speak
from ablate.training.data.levels import active_power, snr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo(cache: Path) -> Corpus:
    return Corpus.open("demo", cache=cache)


def test_it_is_a_corpus_that_says_what_it_is(demo: Corpus) -> None:
    assert (demo.name, demo.path, demo.kind, demo.is_demo) == ("demo", "demo", "demo", True)
    assert (len(demo.train), len(demo.validation), len(demo.test)) == (132, 12, 16)
    assert len(demo.validation_speakers) == 2
    assert demo.notes == []
    assert all(1.5 <= pair.seconds <= 3 for pair in (*demo.train, *demo.validation, *demo.test))


def test_test_speakers_noises_and_sentences_are_new(demo: Corpus) -> None:
    seen = (*demo.train, *demo.validation)
    for what in ("speaker", "noise", "clean_sha256", "noisy_sha256"):
        assert {getattr(pair, what) for pair in seen}.isdisjoint(getattr(pair, what) for pair in demo.test)
    assert set(TRAIN["en"]).isdisjoint(TEST)


def test_every_noise_meets_every_snr_equally_often(demo: Corpus) -> None:
    trained = Counter((pair.noise, pair.snr) for pair in (*demo.train, *demo.validation))
    assert trained == {(noise, level): 6 for noise in TRAIN_NOISES for level in TRAIN_SNRS}
    assert Counter((pair.noise, pair.snr) for pair in demo.test) == {
        (noise, level): 1 for noise in TEST_NOISES for level in TEST_SNRS
    }


def test_levels_are_as_logged_and_nothing_clips(demo: Corpus) -> None:
    for pair in (*demo.train, *demo.validation, *demo.test):
        assert snr(pair.clean, pair.noisy) == pytest.approx(pair.snr, abs=0.05)
        assert np.abs(pair.noisy).max() < 0.99
        assert -32 < 10 * np.log10(active_power(pair.clean)) < -25.9


def test_the_noisy_score_is_that_of_a_task(demo: Corpus) -> None:
    from pesq import pesq

    scores = [pesq(16_000, pair.clean, pair.noisy, "wb") for pair in demo.test]
    assert 1.5 < np.mean(scores) < 2.5
    assert np.mean([pair.snr for pair in demo.test]) == 10


def test_it_is_made_once_and_can_be_put_anywhere(demo: Corpus, cache: Path, tmp_path: Path) -> None:
    made = make_demo(cache)
    before = (made / "demo.json").stat().st_mtime_ns
    assert make_demo(cache) == made
    assert (made / "demo.json").stat().st_mtime_ns == before
    opened = Corpus.open(made, cache=cache)
    assert opened.is_demo
    assert opened.digest == demo.digest
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="is not empty"):
        make_demo(cache, tmp_path)


@pytest.mark.numerics
def test_speech_is_the_same_in_another_process() -> None:
    batch = [Utterance("The old ferry crosses.", voice) for voice in ("en-us+f2", "de+m3", "en-us+f2")]
    first, second = speak(batch), speak(batch)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0.5 < len(first[0]) / 16_000 < 3
    with pytest.raises(RuntimeError, match="no voice xx-nowhere"):
        speak([Utterance("Hello.", "xx-nowhere")])


@pytest.mark.slow
def test_another_process_makes_the_same_corpus(demo: Corpus, tmp_path: Path) -> None:
    code = (
        "import sys; from ablate.training.data.corpus import Corpus; "
        "corpus = Corpus.open('demo', cache=sys.argv[1]); print(corpus.digest, corpus.test_digest)"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == [demo.digest, demo.test_digest]


@pytest.mark.numerics
@pytest.mark.parametrize("kind", [*TRAIN_NOISES, *TEST_NOISES])
def test_noises_fill_what_is_asked(kind: str) -> None:
    voices = [np.random.default_rng(i).standard_normal(9_000) for i in range(4)]
    noise = {**TRAIN_NOISES, **TEST_NOISES}[kind]
    made = [in_a_room(rng, noise(rng, 17_001, voices)) for rng in map(np.random.default_rng, (1, 1, 2))]
    assert made[0].shape == (17_001,)
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    quarters = np.array_split(made[0] ** 2, 4)
    assert min(quarter.mean() for quarter in quarters) > 0.02 * np.mean(made[0] ** 2) > 0
