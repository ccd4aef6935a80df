"""Audio files: which there are, and their samples at one rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate.models.errors import InputError, listed

from .files import atomic_write

SAMPLE_RATE = 16_000
"""Hz. All networks and all measures work at this rate; other rates are resampled with soxr."""


class Fault(NamedTuple):
    """Something wrong with a file: the kind of fault, and a line that names the file."""

    kind: str
    line: str


class FilesError(InputError):
    """Files that cannot be used together; `problems` has a line for each fault."""

    def __init__(
        self, heading: str, problems: Sequence[str | Fault], advice: str, most: int | None = None
    ) -> None:
        self.heading, self.advice = heading, advice
        self.faults = [fault if isinstance(fault, Fault) else Fault("", fault) for fault in problems]
        self.problems = [fault.line for fault in self.faults]
        kinds = Counter(fault.kind for fault in self.faults if fault.kind)
        counts = f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})" if kinds else ""
        if most is None:
            shown, rest = self.problems[:5], len(self.problems) - 5
        else:
            shown = [
                line
                for kind in dict.fromkeys(fault.kind for fault in self.faults)
                for line in [fault.line for fault in self.faults if fault.kind == kind][:most]
            ]
            rest = len(self.problems) - len(shown)
        lines = [*shown, *([f"and {rest:,} more"] if rest > 0 else [])]
        super().__init__(f"{heading}{counts}:\n" + "".join(f"  {line}\n" for line in lines) + advice)

    def at_length(self, most: int) -> FilesError:
        """The same error with so many lines of each kind of fault."""
        return FilesError(self.heading, self.faults, self.advice, most)


class FilePair(NamedTuple):
    """A clean file and the noisy or enhanced one that belongs to it.

    `speaker`, `noise` and `snr` (dB) are what a list, a pattern or a folder says of them, or None.
    """

    name: str
    clean: Path
    other: Path
    speaker: str | None = None
    noise: str | None = None
    snr: float | None = None


UNREAD = frozenset(
    (
        *(".sph", ".wv1", ".wv2", ".wv", ".shn", ".ape", ".tta", ".ra"),
        *(".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm", ".mka"),
    )
)
"""Endings of recordings that soundfile does not read."""


@cache
def suffixes() -> frozenset[str]:
    """Endings of what can be read as audio, in small letters with their dot; headerless files are not."""
    import soundfile

    formats = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    return frozenset(formats | {".aif", ".aifc", ".opus"})


def is_audio(path: Path) -> bool:
    """Whether a file's name ends as that of an audio file, and does not begin with a dot."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".")


def audio_files(folder: Path) -> dict[str, Path]:
    """The audio files in a folder and in the folders below it, by name, sorted; broken links are among them.

    The name is that of the file without suffix; if two files in different folders share it, the names of the
    folders stand before it (`p226_001` for `p226/001.wav`).

    Raises:
        InputError: the folder is missing or holds no audio.
        FilesError: two files differ in their suffix alone.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if is_audio(path) and not path.is_dir())
    if not paths:
        others = unread(folder)
        told = f"; convert its files ({listed(others, 3)}) to .wav or .flac" if others else ""
        raise InputError(f"{folder} holds no audio file, such as .wav or .flac{told}")
    deep = len({path.stem for path in paths}) < len(paths)
    found: dict[str, Path] = {}
    twice = []
    for path in paths:
        within = path.relative_to(folder).with_suffix("")
        name = "_".join(within.parts) if deep else path.stem
        if name in found:
            twice.append(f"{found[name].relative_to(folder)} and {path.relative_to(folder)}")
        found[name] = path
    if twice:
        raise FilesError(f"{folder} has two files with the same name", twice, "Keep one of each.")
    return dict(sorted(found.items()))


def unread(folder: Path) -> list[str]:
    """Names of recordings in a folder and below it whose format soundfile does not read, sorted."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in UNREAD)


def read_mono(path: Path, dtype: str = "float32") -> tuple[NDArray[Any], int, int]:
    """`(samples, sample rate, channels)` of a file; channels are averaged.

    Raises:
        soundfile.LibsndfileError: the file cannot be read.
    """
    import soundfile

    audio, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    return audio.mean(axis=1, dtype=audio.dtype), rate, audio.shape[1]


def resample(audio: NDArray[Any], rate: int, to: int = SAMPLE_RATE) -> NDArray[Any]:
    """`(sample,)` at `rate` Hz -> `(sample,)` at `to` Hz, in the same type."""
    if rate == to:
        return audio
    import soxr

    return soxr.resample(audio, rate, to, quality="HQ")


def write_wav(path: Path, audio: NDArray[Any], rate: int = SAMPLE_RATE) -> None:
    """Write `(sample,)` in [-1, 1] with 16 bits, as a whole or not at all."""
    import soundfile

    with atomic_write(path) as temporary:
        soundfile.write(temporary, np.asarray(audio), rate, subtype="PCM_16", format="WAV")


def below(folder: Path) -> Iterator[Path]:
    """All audio files in a folder and the folders in it, sorted."""
    yield from sorted(path for path in folder.rglob("*") if is_audio(path) and path.is_file())
