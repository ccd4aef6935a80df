"""A corpus of a few seconds that PESQ accepts, and runs of a few steps on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ablate.training.metrics import MetricPool

RATE = 16_000


def speech_like(seed: int, seconds: float) -> np.ndarray:
    """Harmonics of a gliding pitch in syllables with pauses between them, `(sample,)`."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = random.uniform(100, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase + random.uniform(0, 6)) / k for k in range(1, 16))
    syllables = np.clip(np.sin(2 * np.pi * random.uniform(1.5, 2.5) * time), 0, None) ** 0.5
    return 0.1 * voice * syllables


def write_corpus(root: Path) -> Path:
    """Six train files of three speakers and two test files, one train file shorter than a crop."""
    for split, names in (("train", ["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"]), ("test", ["d_1", "d_2"])):
        for number, name in enumerate(names):
            clean = speech_like(
                100 * (split == "test") + number, 0.6 if name == "a_2" else 1.4 + 0.1 * (number % 2)
            )
            noise = 0.03 * np.random.default_rng(number).standard_normal(len(clean))
            for kind, wave in (("clean", clean), ("noisy", clean + noise)):
                folder = root / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="PCM_16")
    return root


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_spec(tiny_corpus: Path, cache: Path) -> Callable[..., dict[str, Any]]:
    """`spec.json` of a tiny network for a few steps; `recipe` and `model` replace fields."""
    from ablate.models.config import ModelConfig
    from ablate.training.config import Recipe
    from ablate.training.data.corpus import Corpus

    corpus = Corpus.open(tiny_corpus, cache=cache)

    def make(
        recipe: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        network = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1}
        course = {
            "steps": 6,
            "batch_size": 2,
            "crop_seconds": 0.7,
            "validate_every": 2,
            "checkpoint_every": 2,
            "validation_utterances": 2,
        }
        return {
            "training_signature": "0" * 64,
            "model": ModelConfig(**{**network, **(model or {})}).model_dump(mode="json"),
            "recipe": Recipe(**{**course, **(recipe or {})}).model_dump(mode="json"),
            "seed": 1,
            "corpus": {"path": str(tiny_corpus), "digest": corpus.digest, "name": corpus.name},
            "start_from": None,
            "plugins": [],
            **fields,
        }

    return make


@dataclass(frozen=True)
class SpokenPair:
    """A pair that lives in memory, with what evaluation reads of one."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray
    speaker: str | None = None
    snr: float | None = None
    noise: str | None = None
    rate: int = RATE
    sample_rate: int = RATE

    @property
    def seconds(self) -> float:
        return len(self.clean) / RATE

    @property
    def clean_sha256(self) -> str:
        return sha256(self.clean.tobytes()).hexdigest()

    @property
    def noisy_sha256(self) -> str:
        return sha256(self.noisy.tobytes()).hexdigest()


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., SpokenPair]:
    """A pair in memory by name and seconds, voice in white noise of some `level`."""
    return _make_pair


def _make_pair(name: str, seconds: float, level: float = 0.02, **details) -> SpokenPair:
    random = np.random.default_rng(int(sha256(name.encode()).hexdigest()[:8], 16))
    time_axis = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(130 + 20 * np.sin(9 * time_axis)) / RATE
    voice = sum(np.sin(k * pitch) / k for k in range(1, 15))
    clean = 0.1 * voice * np.clip(np.sin(2 * np.pi * 2 * time_axis), 0, None) ** 2
    clean = (clean + 1e-3 * random.standard_normal(len(clean))).astype(np.float32)
    noisy = (clean + level * random.standard_normal(len(clean))).astype(np.float32)
    return SpokenPair(name, clean, noisy, **details)


@pytest.fixture(scope="session")
def pairs() -> list[SpokenPair]:
    return [
        _make_pair("a_1", 1.2, 0.05, speaker="a", snr=2.5, noise="cafe"),
        _make_pair("b_1", 0.9, 0.01, speaker="b", snr=12.5, noise="bus"),
        _make_pair("b_2", 1.2, 0.005, speaker="b", snr=17.5),
    ]


@pytest.fixture(scope="session")
def silent_reference() -> SpokenPair:
    """A pair whose clean recording cannot be a reference."""
    return SpokenPair("c_1", np.zeros(8_000, np.float32), _make_pair("c_1", 0.5).noisy)


@pytest.fixture(scope="session")
def pool() -> Iterator[MetricPool]:
    with MetricPool(1) as shared:
        yield shared
