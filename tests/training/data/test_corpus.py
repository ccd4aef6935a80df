"""Reading data folders: layouts, splits, digests, and what is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablate.models.errors import InputError
from ablate.training.data.corpus import Corpus, open_test, spread

RATE = 16_000


def tone(seed: int, seconds: float = 0.4, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return 0.2 * np.sin(2 * np.pi * rng.uniform(100, 400) * time) + 0.01 * rng.standard_normal(len(time))


def put(folder: Path, name: str, audio: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if subtype == "PCM_16":
        audio = np.round(audio * 32_767).astype(np.int16)
    soundfile.write(folder / name, audio, rate, subtype)


def fill(clean: Path, noisy: Path, names: list[str], suffix: str = ".wav", subtype: str = "PCM_16") -> None:
    for seed, name in enumerate(names):
        put(clean, name + suffix, tone(seed), subtype=subtype)
        put(noisy, name + suffix, tone(seed) + 0.5 * tone(seed + 500), subtype=subtype)


TRAIN = [f"p{speaker}_{index:03d}" for speaker in range(1, 7) for index in range(speaker)]
TEST = ["q1_001", "q1_002"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "speech"
    fill(root / "train" / "clean", root / "train" / "noisy", TRAIN)
    fill(root / "test" / "clean", root / "test" / "noisy", TEST)
    return root


@pytest.mark.numerics
def test_pairs_are_the_audio_of_the_files(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder, cache=tmp_path / "cache")
    assert sorted(pair.name for pair in (*corpus.train, *corpus.validation)) == sorted(TRAIN)
    assert [pair.name for pair in corpus.test] == TEST
    for pair in (*corpus.train, *corpus.validation):
        for kind in ("clean", "noisy"):
            audio, _ = soundfile.read(folder / "train" / kind / f"{pair.name}.wav", dtype="float32")
            np.testing.assert_array_equal(getattr(pair, kind), audio)
    assert corpus.train[0].clean.dtype == np.float32
    assert (corpus.kind, corpus.is_demo, corpus.path) == ("folder", False, str(folder))
    with pytest.raises(ValueError, match="read-only"):
        corpus.test[0].clean[0] = 1


@pytest.mark.numerics
def test_a_pair_is_small_to_pickle(folder: Path, tmp_path: Path) -> None:
    pair = Corpus.open(folder, cache=tmp_path / "cache").train[0]
    packed = pickle.dumps(pair)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).noisy, pair.noisy)


def test_validation_is_whole_speakers(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder, cache=tmp_path / "cache")
    held = {pair.speaker for pair in corpus.validation}
    assert held == set(corpus.validation_speakers)
    assert held.isdisjoint(pair.speaker for pair in corpus.train)
    assert len(corpus.validation) in (1, 2, 3)  # a tenth of 21 files


def test_validation_by_file_is_said(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train" / "clean", root / "train" / "noisy", [f"take{i}" for i in range(20)])
    fill(root / "test" / "clean", root / "test" / "noisy", ["take0", "fileid_7"])
    corpus = Corpus.open(root, cache=tmp_path / "cache")
    assert len(corpus.validation) == 2
    assert corpus.validation_speakers == ()
    assert corpus.notes == ["validation is split by file: file names do not contain the speaker"]
    assert corpus.train[0].speaker is None


def test_the_distributed_layout_with_its_logs(tmp_path: Path) -> None:
    root = tmp_path / "vb"
    for variant in ("28spk", "56spk"):
        folders = root / f"clean_trainset_{variant}_wav", root / f"noisy_trainset_{variant}_wav"
        fill(*folders, ["p226_1", "p227_1"])
    put(root / "clean_trainset_56spk_wav", "p300_1.wav", tone(1))
    fill(root / "clean_testset_wav", root / "noisy_testset_wav", ["p232_001", "p232_002"], ".flac")
    (root / "log_testset.txt").write_text("p232_001 bus 2.5\np232_002 cafe 17.5\n")
    (root / "logfiles").mkdir()
    (root / "logfiles" / "log_trainset_28spk.txt").write_text("p226_1 babble 0\nnot a line\n")
    corpus = Corpus.open(root, cache=tmp_path / "cache")
    assert [(pair.noise, pair.snr, pair.speaker) for pair in corpus.test] == [
        ("bus", 2.5, "p232"),
        ("cafe", 17.5, "p232"),
    ]
    assert {pair.name: pair.snr for pair in (*corpus.train, *corpus.validation)} == {
        "p226_1": 0.0,
        "p227_1": None,
    }
    assert any("trainset_28spk_wav is used" in note for note in corpus.notes)


def test_digests_are_of_the_contents(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = Corpus.open(folder, cache=cache)
    again = Corpus.open(shutil.copytree(folder, tmp_path / "moved"), cache=tmp_path / "other")
    other_format = tmp_path / "flac"
    for split, names in (("train", TRAIN), ("test", TEST)):
        fill(other_format / f"clean_{split}set_wav", other_format / f"noisy_{split}set_wav", names, ".flac")
    flac = Corpus.open(other_format, cache=cache)
    assert first.digest == again.digest == flac.digest
    assert first.test_digest == again.test_digest == flac.test_digest
    put(folder / "train" / "noisy", f"{TRAIN[0]}.wav", tone(99), subtype="PCM_16")
    changed = Corpus.open(folder, cache=cache)
    assert changed.digest != first.digest
    assert changed.test_digest == first.test_digest


def test_other_test_data_changes_the_test_digest_alone(folder: Path, tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    fill(other / "clean", other / "noisy", ["x9_1", "x9_2", "x9_3"])
    own = Corpus.open(folder, cache=cache)
    corpus = Corpus.open(folder, cache=cache, test_data=other)
    assert [pair.name for pair in corpus.test] == ["x9_1", "x9_2", "x9_3"]
    assert corpus.digest == own.digest
    assert corpus.test_digest != own.test_digest
    assert corpus.test_path == str(other)
    assert open_test(other, cache=cache) == corpus.test
    assert Corpus.open(folder, cache=cache, test_data=folder).test_digest == own.test_digest


def test_further_tests_stand_beside_the_first_under_names_of_their_own(folder: Path, tmp_path: Path) -> None:
    cache, places = tmp_path / "cache", [tmp_path / "one" / "far", tmp_path / "two" / "far"]
    for index, place in enumerate(places):
        fill(place / "clean", place / "noisy", [f"x9_{index}1", f"x9_{index}2"])
    own = Corpus.open(folder, cache=cache)
    corpus = Corpus.open(folder, cache=cache, further=places)
    assert (corpus.digest, corpus.test_digest) == (own.digest, own.test_digest)
    assert [test.name for test in corpus.extra_test_sets] == ["far", "two/far"]
    assert [pair.name for pair in corpus.extra_test_sets[1].pairs] == ["x9_11", "x9_12"]
    assert (
        corpus.extra_test_sets[0].digest == Corpus.open(folder, cache=cache, test_data=places[0]).test_digest
    )
    with pytest.raises(InputError, match=f"{places[0]} and far have the same files"):
        Corpus.open(folder, cache=cache, test_data=places[0], further=[places[0]])
    with pytest.raises(InputError, match="no data folder"):
        Corpus.open(folder, cache=cache, further=[tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no test files"):
        Corpus.open(folder, cache=cache, further=[tmp_path / "empty"])


@pytest.mark.numerics
def test_rates_channels_and_depths(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    time = np.arange(24_000) / 48_000
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    for kind in ("clean", "noisy"):
        put(root / "train" / kind, "a1_1.wav", np.stack([wave, 0 * wave], axis=1), 48_000, "PCM_24")
        put(root / "train" / kind, "a2_1.wav", wave[::6], 8_000, "PCM_16")
        put(root / "test" / kind, "b1_1.flac", wave[::3], RATE, "PCM_24")
    corpus = Corpus.open(root, cache=tmp_path / "cache")
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8_000) / RATE)
    pairs = {pair.name: pair for pair in (*corpus.train, *corpus.validation, *corpus.test)}
    assert {name: pair.samples for name, pair in pairs.items()} == dict.fromkeys(pairs, 8_000)
    middle = slice(800, -800)
    np.testing.assert_allclose(pairs["a1_1"].clean[middle], expected[middle] / 2, atol=2e-3)
    np.testing.assert_allclose(pairs["a2_1"].clean[middle], expected[middle], atol=5e-3)
    np.testing.assert_allclose(pairs["b1_1"].clean[middle], expected[middle], atol=1e-4)
    assert "1 pairs resampled from 48000 Hz to 16000 Hz" in corpus.notes
    assert "1 pairs with several channels averaged to one" in corpus.notes


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match="no data folder"):
        Corpus.open(tmp_path / "nowhere", cache=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no train files"):
        Corpus.open(tmp_path / "empty", cache=cache)
    shutil.rmtree(folder / "test")
    with pytest.raises(InputError, match="no test files"):
        Corpus.open(folder, cache=cache)
    shutil.rmtree(folder / "train" / "noisy")
    with pytest.raises(InputError, match=r"no folder .*noisy"):
        Corpus.open(folder, cache=cache)
    (folder / "train" / "noisy").mkdir()
    with pytest.raises(InputError, match=r"noisy holds no audio"):
        Corpus.open(folder, cache=cache)


def test_unequal_names(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "noisy" / "p3_001.wav").rename(folder / "train" / "noisy" / "other.wav")
    with pytest.raises(ValueError, match=r"(?s)other\.wav has no partner in .*clean.*p3_001\.wav has no"):
        Corpus.open(folder, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (tone(0)[:5599], "clean has 6400 samples at 16000 Hz, noisy 5599.*sox IN OUT trim 0 0.350"),
        (np.zeros(6400), r"p2_001\.wav is silent"),
        (np.full(6400, np.nan), r"p2_001\.wav has 6400 samples that are not finite"),
        (tone(0)[:3999], r"p2_001\.wav lasts 0\.250 s; PESQ needs 0\.25 s"),
        (tone(0)[:1], r"p2_001\.wav lasts 0\.000 s"),
        (tone(0)[:0], r"p2_001\.wav lasts 0\.000 s"),
        (None, r"p2_001\.wav cannot be read"),
    ],
)
def test_bad_files_are_named(folder: Path, tmp_path: Path, audio: np.ndarray | None, message: str) -> None:
    bad = folder / "train" / "noisy"
    if audio is None:
        (bad / "p2_001.wav").write_bytes(b"RIFF of nothing")
    else:
        put(bad, "p2_001.wav", audio)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            Corpus.open(folder, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.f32"))


def test_a_corpus_of_one_pair_cannot_be_split(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    for split in ("train", "test"):
        fill(root / split / "clean", root / split / "noisy", ["a1_1"])
    with pytest.raises(ValueError, match="1 train pair"):
        Corpus.open(root, cache=tmp_path / "cache")


def test_draws_are_spread(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder, cache=tmp_path / "cache")
    assert [pair.name for pair in spread(corpus.train, 3)] == [
        corpus.train[int(len(corpus.train) * share)].name for share in (1 / 6, 3 / 6, 5 / 6)
    ]
    assert spread(corpus.train, 1000) == corpus.train
    assert corpus.select_validation(None) == corpus.validation
    assert corpus.select_validation(1)[0] in corpus.validation
    with pytest.raises(ValueError, match="0 utterances"):
        spread(corpus.train, 0)


def test_a_seed_draws_the_validation_split_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open(folder, cache=tmp_path / "cache")
    splits = {seed: corpus.split_by(seed) for seed in range(1, 9)}
    held = {split.validation_speakers for split in splits.values()}
    assert len(held) > 2
    for seed, split in splits.items():
        assert split == corpus.split_by(seed)
        assert {pair.speaker for pair in split.validation} == set(split.validation_speakers)
        assert not {pair.speaker for pair in split.train} & set(split.validation_speakers)
        assert sorted(p.name for p in (*split.train, *split.validation)) == sorted(TRAIN)
        assert (split.digest, split.test) == (corpus.digest, corpus.test)
    again = corpus.split_by(1).split_by(2)
    assert again == splits[2], "a split does not depend on the one before"
