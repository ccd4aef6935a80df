"""The demo corpus: synthetic speech in synthetic noise, made once, the same everywhere.

It is for trying out the tool. Numbers measured on it say nothing about real speech.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import soundfile

from ...audio import SAMPLE_RATE
from ...files import atomic_folder, locked
from ..levels import active_power
from .noises import TEST_NOISES, TRAIN_NOISES, Noise, in_a_room
from .text import TEST, TRAIN
from .voices import Utterance, engine, speak

DEMO = "demo"
"""The demo corpus' name in place of a folder."""
DEMO_MARK = "demo.json"
"""The file that marks a folder as the demo corpus."""
DEMO_VERSION = 1
TRAIN_SNRS = (0.0, 5.0, 10.0, 15.0)
TEST_SNRS = (2.5, 7.5, 12.5, 17.5)
PER_SPEAKER = 6
LEVEL = -26.0
"""Level of the active speech, dB of full scale."""
PEAK = 0.98

TRAIN_VOICES: tuple[tuple[str, int, int], ...] = (
    ("en-us+f1", 168, 48),
    ("en-us+m1", 172, 45),
    ("en+f2", 175, 55),
    ("en+m2", 165, 50),
    ("en-us+f3", 160, 45),
    ("en-us+m3", 178, 55),
    ("en+f5", 170, 40),
    ("en+Alex", 168, 42),
    ("en-gb-scotland+Annie", 165, 45),
    ("en-gb-scotland+m7", 170, 60),
    ("en-us+shelby", 165, 50),
    ("en-us+Mike", 170, 55),
    ("de+f4", 170, 45),
    ("de+rob", 175, 50),
    ("de+aunty", 175, 52),
    ("fr+linda", 170, 42),
    ("fr+boris", 170, 52),
    ("fr+f3", 165, 60),
    ("es+Michael", 170, 55),
    ("es+f2", 172, 40),
    ("es+m4", 180, 58),
    ("it+Alicia", 185, 40),
    ("it+pablo", 172, 45),
    ("it+victor", 172, 56),
)
TEST_VOICES: tuple[tuple[str, int, int], ...] = (("en-us+belinda", 170, 48), ("en+m5", 170, 48))
"""eSpeak voice, words a minute and pitch of each speaker."""


@dataclass(frozen=True)
class _Item:
    name: str
    utterance: Utterance
    noise: str
    snr: float


def make_demo(cache: Path, folder: Path | None = None) -> Path:
    """The folder of the demo corpus, made if missing (a few seconds).

    Args:
        folder: where to put the corpus instead of the cache; empty, or with the demo corpus.

    Raises:
        FileExistsError: `folder` has other files.
        RuntimeError: the speech engine failed.
    """
    if folder is None:
        folder = cache.absolute() / "demo" / sha256(f"{DEMO_VERSION} {engine()}".encode()).hexdigest()[:12]
    if (folder / DEMO_MARK).exists():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder for the demo corpus")
    folder = folder.absolute()
    locks = cache.absolute() / "demo"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(locks / f"{sha256(str(folder).encode()).hexdigest()[:12]}.lock"):
        if not (folder / DEMO_MARK).exists():
            with atomic_folder(folder) as partial:
                _write(partial)
    return folder


def _plan() -> tuple[list[_Item], list[_Item]]:
    """The utterances of train and test; every noise occurs equally often at every SNR."""
    train, test = [], []
    said: dict[str, int] = {}
    kinds = list(TRAIN_NOISES)
    for speaker, (voice, rate, pitch) in enumerate(TRAIN_VOICES):
        language = voice[:2]
        for index in range(PER_SPEAKER):
            text = TRAIN[language][said.get(language, 0) % len(TRAIN[language])]
            said[language] = said.get(language, 0) + 1
            snr = TRAIN_SNRS[(speaker + index) % 4]
            name = f"s{speaker + 1:02d}_{index + 1:03d}"
            train.append(_Item(name, Utterance(text, voice, rate, pitch), kinds[index], snr))
    kinds = list(TEST_NOISES)
    for speaker, (voice, rate, pitch) in enumerate(TEST_VOICES):
        for index in range(8):
            text = TEST[speaker * 8 + index]
            snr = TEST_SNRS[(index + 2 * (index // 4) + speaker) % 4]
            name = f"t{speaker + 1:02d}_{index + 1:03d}"
            test.append(_Item(name, Utterance(text, voice, rate, pitch), kinds[index % 4], snr))
    return train, test


def _write(folder: Path) -> None:
    train, test = _plan()
    speech = [_level(_trim(audio)) for audio in speak([item.utterance for item in (*train, *test)])]
    voices = speech[: len(train) : PER_SPEAKER]
    for split, items, audios, noises in (
        ("train", train, speech[: len(train)], TRAIN_NOISES),
        ("test", test, speech[len(train) :], TEST_NOISES),
    ):
        folders = {kind: folder / f"{kind}_{split}set_wav" for kind in ("clean", "noisy")}
        for path in folders.values():
            path.mkdir(parents=True)
        for item, audio in zip(items, audios, strict=True):
            clean, noisy = _mix(item, audio, noises[item.noise], voices)
            soundfile.write(folders["clean"] / f"{item.name}.flac", clean, SAMPLE_RATE, "PCM_16")
            soundfile.write(folders["noisy"] / f"{item.name}.flac", noisy, SAMPLE_RATE, "PCM_16")
        lines = "".join(f"{item.name} {item.noise} {item.snr:g}\n" for item in items)
        (folder / f"log_{split}set.txt").write_text(lines)
    mark = {"demo": DEMO_VERSION, "speech": engine(), "note": "synthetic; for trying the harness only"}
    (folder / DEMO_MARK).write_text(json.dumps(mark, indent=1) + "\n")


def _mix(
    item: _Item, speech: np.ndarray, noise: Noise, voices: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Clean and noisy, scaled down together if the sum would clip."""
    rng = np.random.default_rng(np.frombuffer(sha256(item.name.encode()).digest(), np.uint32))
    sound = in_a_room(rng, noise(rng, len(speech), voices))
    wanted = active_power(speech) / 10 ** (item.snr / 10)
    noisy = speech + sound * np.sqrt(wanted / np.mean(sound**2))
    scale = min(1.0, PEAK / np.abs(noisy).max(), PEAK / np.abs(speech).max())
    return speech * scale, noisy * scale


def _trim(audio: np.ndarray) -> np.ndarray:
    """Remove the silence at both ends except for a tenth of a second."""
    loud = np.flatnonzero(np.abs(audio) > 0.02 * np.abs(audio).max())
    margin = SAMPLE_RATE // 10
    return audio[max(0, loud[0] - margin) : loud[-1] + margin].astype(np.float64)


def _level(audio: np.ndarray) -> np.ndarray:
    return audio * np.sqrt(10 ** (LEVEL / 10) / active_power(audio))
