"""Audio files: which there are, which belong together by name, and their samples at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate.models.errors import InputError

from .files import replacing

SAMPLE_RATE = 16_000
"""Hz. All networks and all measures work at this rate; other rates are resampled with soxr."""


class FilesError(InputError):
    """Files that cannot be used together; `problems` has a line for each fault."""

    def __init__(self, heading: str, problems: list[str], advice: str) -> None:
        self.problems = problems
        shown = problems[:5] + ([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])
        super().__init__(f"{heading}:\n" + "".join(f"  {line}\n" for line in shown) + advice)


class FilePair(NamedTuple):
    """A clean file and the noisy or enhanced one of the same name (without suffix)."""

    name: str
    clean: Path
    other: Path


def suffixes() -> frozenset[str]:
    """Endings of what can be read as audio, in small letters with their dot; headerless files are not."""
    import soundfile

    return frozenset(f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW") | {
        ".aif",
        ".aifc",
        ".opus",
    }


def is_audio(path: Path) -> bool:
    """Whether a file's name ends as that of an audio file, and does not begin with a dot."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".")


def audio_files(folder: Path) -> dict[str, Path]:
    """The audio files of a folder by name without suffix, sorted.

    Raises:
        InputError: the folder is missing or holds no audio.
        FilesError: two files differ in their suffix alone.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(filter(is_audio, folder.iterdir())):
        if path.stem in found:
            twice.append(f"{found[path.stem].name} and {path.name}")
        found[path.stem] = path
    if twice:
        raise FilesError(f"{folder} has two files of one name", twice, "Keep one of each.")
    if not found:
        raise InputError(f"{folder} holds no audio file, such as .wav or .flac")
    return dict(sorted(found.items()))


def pair_files(clean: Path, other: Path) -> list[FilePair]:
    """The files of two folders paired by name, sorted by it; suffixes may differ.

    Raises:
        InputError: a folder is missing or holds no audio.
        FilesError: a name is in one folder alone.
    """
    left, right = audio_files(clean), audio_files(other)
    problems = [f"{left[name].name} has no partner in {other}" for name in left.keys() - right.keys()]
    problems += [f"{right[name].name} has no partner in {clean}" for name in right.keys() - left.keys()]
    if problems:
        raise FilesError(
            f"{len(left)} files in {clean} and {len(right)} in {other} do not pair by name",
            sorted(problems),
            "Files need equal names, suffixes aside; add or remove the files above.",
        )
    return [FilePair(name, left[name], right[name]) for name in left]


def read_mono(path: Path, dtype: str = "float32") -> tuple[NDArray[Any], int, int]:
    """`(samples, sample rate, channels)` of a file; channels are averaged.

    Raises:
        soundfile.LibsndfileError: the file cannot be read.
    """
    import soundfile

    audio, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    return audio.mean(axis=1, dtype=audio.dtype), rate, audio.shape[1]


def resample(audio: NDArray[Any], rate: int) -> NDArray[Any]:
    """`(sample,)` at `rate` Hz -> `(sample,)` at 16 kHz, in the same type."""
    if rate == SAMPLE_RATE:
        return audio
    import soxr

    return soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")


def write_wav(path: Path, audio: NDArray[Any]) -> None:
    """Write `(sample,)` in [-1, 1] at 16 kHz with 16 bits, as a whole or not at all."""
    import soundfile

    with replacing(path) as temporary:
        soundfile.write(temporary, np.asarray(audio), SAMPLE_RATE, subtype="PCM_16", format="WAV")


def below(folder: Path) -> Iterator[Path]:
    """All audio files in a folder and the folders in it, sorted."""
    yield from sorted(path for path in folder.rglob("*") if is_audio(path) and path.is_file())
