"""Pairs of audio files to measure: matched by name, read at one rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablate.models.errors import InputError

from ..audio import SAMPLE_RATE, FilePair, read_mono, resample
from ..data.cache import SLACK_SECONDS
from ..data.pairing import Paired, pair_folders


def pair_paths(clean: Path, enhanced: Path, pattern: str | None = None) -> Paired:
    """Two files, or the files of two folders in pairs (`pair_folders`).

    Raises:
        InputError: a path does not exist, a folder has no audio, one path is a file and the other a folder,
            or files do not pair (the message lists them).
    """
    for path in (clean, enhanced):
        if not path.exists():
            raise InputError(f"{path} does not exist")
    if clean.is_file() and enhanced.is_file():
        return Paired([FilePair(enhanced.stem, clean, enhanced)], [])
    if clean.is_file() or enhanced.is_file():
        raise InputError(f"{clean} and {enhanced} are a file and a folder; give two files or two folders")
    return pair_folders(clean, enhanced, pattern)


def read_pair(pair: FilePair) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Both files at 16 kHz, channels averaged, (sample,) of equal length, and notes on them.

    Raises:
        InputError: a file cannot be read, or lengths differ by more than 50 ms.
    """
    import soundfile

    notes = []
    signals = []
    for path in (pair.clean, pair.other):
        try:
            audio, rate, channels = read_mono(path, "float64")
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} cannot be read: {error.error_string}") from None
        if channels > 1:
            notes.append(f"{path} has {channels} channels, averaged to one")
        if rate < SAMPLE_RATE:
            notes.append(f"{path} is at {rate} Hz: its upper band is empty, so scores are not comparable")
        signals.append(resample(audio, rate))
    lengths = [len(signal) for signal in signals]
    check_lengths(pair, [length / SAMPLE_RATE for length in lengths])
    if lengths[0] != lengths[1]:
        notes.append(f"{pair.name}: {lengths[0]} and {lengths[1]} samples, cut to the shorter")
    clean, enhanced = (signal[: min(lengths)] for signal in signals)
    return clean, enhanced, notes


def check_lengths(pair: FilePair, seconds: Sequence[float]) -> None:
    """Raise InputError if the clean and the enhanced file differ by more than 50 ms."""
    if abs(seconds[0] - seconds[1]) > SLACK_SECONDS:
        told = " and ".join(f"{each:.3f} s" for each in seconds)
        raise InputError(
            f"{pair.name}: lengths differ, {pair.clean} and {pair.other} have {told}: cut the longer one, if "
            "they belong together"
        )
