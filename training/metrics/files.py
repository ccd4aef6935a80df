"""Pairs of audio files to measure: matched by name, read at one rate."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from .scores import SAMPLE_RATE, resample

SLACK_SECONDS = 0.05
"""Lengths may differ by this much, as after an inverse transform that drops the last part of a frame."""
_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".opus"}


class FilePair(NamedTuple):
    """A clean file and the enhanced one of the same name (without suffix)."""

    name: str
    clean: Path
    enhanced: Path


def pair_paths(clean: Path, enhanced: Path) -> list[FilePair]:
    """Two files, or the files of two folders paired by name; the suffixes may differ.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no audio.
        ValueError: a file is given with a folder, or names are unequal (they are listed).
    """
    for path in (clean, enhanced):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    if clean.is_file() and enhanced.is_file():
        return [FilePair(enhanced.stem, clean, enhanced)]
    if clean.is_file() or enhanced.is_file():
        raise ValueError(f"{clean} and {enhanced}: give two files or two folders")
    left, right = _files(clean), _files(enhanced)
    alone = [f"only in {clean}: {left[name].name}" for name in sorted(left.keys() - right.keys())]
    alone += [f"only in {enhanced}: {right[name].name}" for name in sorted(right.keys() - left.keys())]
    if alone:
        shown = alone[:10] + [f"and {len(alone) - 10} more"] * (len(alone) > 10)
        lines = "\n".join(f"  {line}" for line in shown)
        raise ValueError(
            f"{len(left)} clean and {len(right)} enhanced files do not pair by name:\n{lines}\n"
            "Files need equal names (suffixes aside)."
        )
    return [FilePair(name, left[name], right[name]) for name in left]


def read_pair(pair: FilePair) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Both files at 16 kHz, channels averaged, (sample,) of equal length, and what is to be known of them.

    Raises:
        ValueError: a file cannot be read, or lengths differ by more than 50 ms.
    """
    notes = []
    signals = []
    for path in (pair.clean, pair.enhanced):
        try:
            audio, rate = soundfile.read(path, dtype="float64", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} cannot be read: {error.error_string}") from None
        if audio.shape[1] > 1:
            notes.append(f"{path} has {audio.shape[1]} channels, averaged to one")
        if rate < SAMPLE_RATE:
            notes.append(
                f"{path} is at {rate} Hz: its upper band is empty, its scores do not compare with others"
            )
        signals.append(resample(audio.mean(axis=1), rate))
    lengths = [len(signal) for signal in signals]
    if max(lengths) - min(lengths) > SLACK_SECONDS * SAMPLE_RATE:
        seconds = " and ".join(f"{length / SAMPLE_RATE:.3f} s" for length in lengths)
        raise ValueError(f"{pair.name}: lengths differ, clean and enhanced have {seconds}")
    if lengths[0] != lengths[1]:
        notes.append(f"{pair.name}: {lengths[0]} and {lengths[1]} samples, cut to the shorter")
    clean, enhanced = (signal[: min(lengths)] for signal in signals)
    return clean, enhanced, notes


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES):
        if path.stem in found:
            raise ValueError(f"{folder} has {found[path.stem].name} and {path.name}; keep one of them")
        found[path.stem] = path
    if not found:
        raise FileNotFoundError(f"{folder} holds no audio file")
    return found
