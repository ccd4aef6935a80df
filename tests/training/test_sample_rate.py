"""A network for another rate than 16 kHz gets speech of that rate; metrics are measured at 16 kHz."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from ablate.models.errors import InputError
from ablate.models.interface import Interface, declare
from ablate.training.data.augment import Augment
from ablate.training.data.corpus import Corpus, find_corpus
from ablate.training.enhance import enhance_file


class Counting(nn.Module):
    domain = "waveform"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.seen: list[int] = []

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        self.seen.append(wave.shape[-1])
        return self.gain * wave


def test_a_network_declares_its_rate() -> None:
    assert Interface.of(Counting()).sample_rate == 16_000
    assert Interface.of(declare(Counting(), sample_rate=48_000)).sample_rate == 48_000
    its = Counting()
    its.sample_rate = 44_100  # of an object it may mean anything, and did not count before
    assert Interface.of(its).sample_rate == 16_000
    with pytest.raises(InputError, match="sample_rate=16 is not possible"):
        declare(Counting(), sample_rate=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, names in (("train", ["a_1", "b_1", "c_1"]), ("test", ["d_1"])):
        for name in names:
            time = np.arange(48_000) / 48_000
            clean = 0.1 * np.sin(2 * np.pi * 20_000 * time) + 0.1 * rng.standard_normal(48_000) * (
                time % 0.3 > 0.1
            )
            for kind, audio in (("clean", clean), ("noisy", clean + 0.01 * rng.standard_normal(48_000))):
                (tmp_path / "wide" / split / kind).mkdir(parents=True, exist_ok=True)
                soundfile.write(tmp_path / "wide" / split / kind / f"{name}.wav", audio, 48_000, "FLOAT")
    return tmp_path / "wide"


def test_a_corpus_is_kept_at_the_rate_with_the_same_digest(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    usual, wide = (Corpus.open(folder, cache=cache, rate=rate) for rate in (16_000, 48_000))
    assert (usual.sample_rate, wide.sample_rate) == (16_000, 48_000)
    assert (usual.digest, usual.test_digest) == (wide.digest, wide.test_digest)
    audio, _ = soundfile.read(folder / "test" / "clean" / "d_1.wav", dtype="float32")
    np.testing.assert_array_equal(wide.test[0].clean, audio)
    assert wide.test[0].seconds == usual.test[0].seconds == 1.0
    assert not any("resampled" in note for note in wide.notes)
    assert find_corpus(str(folder), usual.digest, cache=cache, rate=48_000).train == wide.train


def test_digests_do_not_depend_on_what_resamples(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soxr

    here = Corpus.open(folder, cache=tmp_path / "here")
    resample = soxr.resample
    monkeypatch.setattr(soxr, "resample", lambda *a, **k: resample(*a, **k) * np.float32(1 + 1e-6))
    there = Corpus.open(folder, cache=tmp_path / "there")
    assert there.train[0].clean_sha256 != here.train[0].clean_sha256
    assert (there.digest, there.test_digest) == (here.digest, here.test_digest)


def test_a_digest_of_resampled_samples_is_still_known(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    corpus = Corpus.open(folder, cache=cache)
    former = {"digest": _former(corpus.train + corpus.validation), "test": _former(corpus.test)}
    assert corpus.digest != former["digest"]
    planned = corpus.as_planned(former["digest"], [former["test"]])
    assert (planned.digest, planned.test_digest) == (former["digest"], former["test"])
    assert (planned.train, planned.validation, planned.test) == (corpus.train, corpus.validation, corpus.test)
    assert find_corpus(str(folder), former["digest"], cache=cache).digest == former["digest"]
    index = next(cache.glob("corpora/*/index.json"))
    entries = json.loads(index.read_text())
    index.write_text(
        json.dumps([{k: v for k, v in e.items() if k not in ("signed", "cut")} for e in entries])
    )
    assert Corpus.open(folder, cache=cache).digest == corpus.digest, "a cache of version 0.1 is read again"


def _former(pairs: tuple) -> str:
    from hashlib import sha256

    rows = sorted(f"{pair.name} {pair.clean_sha256} {pair.noisy_sha256}\n" for pair in pairs)
    return sha256("".join(rows).encode()).hexdigest()


def test_files_are_enhanced_at_the_rate_of_the_network(folder: Path, tmp_path: Path) -> None:
    network = declare(Counting(), sample_rate=48_000)
    enhance_file(network, folder / "test" / "noisy" / "d_1.wav", tmp_path / "out.wav")
    audio, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (len(audio), rate, network.seen) == (48_000, 48_000, [48_000])
    np.testing.assert_allclose(
        audio, soundfile.read(folder / "test" / "noisy" / "d_1.wav", dtype="float32")[0]
    )


def test_rooms_last_as_long_at_any_rate() -> None:
    clean = np.zeros((1, 48_000), np.float32)
    clean[0, 0] = 1
    wet, _ = Augment(reverb=1.0, rate=48_000)(clean, clean, np.random.default_rng(0))
    assert np.abs(wet[0, : round(0.5 * 48_000)]).max() > 0
    assert np.abs(wet[0, round(0.6 * 48_000) + 1 :]).max() < 1e-12
