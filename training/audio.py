"""Audio files: finding them, and reading their samples at one rate."""

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
"""Hz, of all built-in networks and all metrics; other rates are resampled with soxr."""


class Fault(NamedTuple):
    """A problem with a file: its kind, and a line that names the file."""

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
        kinds = Counter(fault.kind for fault in self.faults)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if kind)
        counts = f" ({counts})" if counts else ""
        lines = self.problems[:5]
        if most is not None:
            of_kinds = ([fault.line for fault in self.faults if fault.kind == kind] for kind in kinds)
            lines = [line for found in of_kinds for line in found[:most]]
        if rest := len(self.problems) - len(lines):
            lines.append(f"and {rest:,} more")
        super().__init__(f"{heading}{counts}:\n" + "".join(f"  {line}\n" for line in lines) + advice)

    def at_length(self, most: int) -> FilesError:
        """The same error with up to `most` lines for each kind of fault."""
        return FilesError(self.heading, self.faults, self.advice, most)


class FilePair(NamedTuple):
    """A clean file with its noisy or enhanced one.

    `speaker`, `noise` and `snr` (dB) come from a list, a pattern or a folder, or are None.
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
"""Suffixes of recordings that soundfile does not read."""


@cache
def suffixes() -> frozenset[str]:
    """Lower-case suffixes of readable audio, with their dot; without headerless files."""
    import soundfile

    formats = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    return frozenset(formats | {".aif", ".aifc", ".opus"})


def is_audio(path: Path) -> bool:
    """Whether a file name has an audio suffix and does not begin with a dot."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".")


def audio_files(folder: Path) -> dict[str, Path]:
    """The audio files in a folder and its subfolders, by name, sorted; includes broken links.

    The name is the file's without suffix; if files in different folders share it, it is preceded by the
    folders' names (`p226_001` for `p226/001.wav`).

    Raises:
        InputError: the folder is missing or has no audio.
        FilesError: two files differ only in their suffix.
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
    """Names of recordings in a folder and its subfolders that soundfile does not read, sorted."""
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
    """Write `(sample,)` in [-1, 1] with 16 bits, atomically."""
    import soundfile

    with atomic_write(path) as temporary:
        soundfile.write(temporary, np.asarray(audio), rate, subtype="PCM_16", format="WAV")


def below(folder: Path) -> Iterator[Path]:
    """All audio files in a folder and its subfolders, sorted."""
    yield from sorted(path for path in folder.rglob("*") if is_audio(path) and path.is_file())
