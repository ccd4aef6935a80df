"""The 16 kHz cache: folders of paired files, checked and resampled once into flat float32 files.

A split is kept in `<cache>/corpora/<content key>/`: `clean.f32` and `noisy.f32` hold all its files one
after the other, `index.json` says where each begins. The key is made of the bytes of the source files, so
a corpus that was moved or copied is not read again; the bytes are hashed only when a path, size or time
of the source has changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from ..audio import SAMPLE_RATE, FilePair, FilesError, pair_files, read_mono, resample
from ..files import locked, replacing_folder
from ..rundir import read_json, write_json, write_text

CACHE_VERSION = 1
MINIMUM_SAMPLES = SAMPLE_RATE // 4
SILENCE_PEAK = 1e-4
FULL_SCALE = 32_767 / 32_768

Result = TypeVar("Result")
Report = Callable[[str, int, int], None]
"""Called with what is being done, how many files are done, and of how many."""


@dataclass(frozen=True, slots=True)
class CachedPair:
    """One pair of the cache.

    `start` and `samples` place it in the flat files, at 16 kHz; `rate`, `channels` and `clipped`
    (samples at full scale, both files together) are those of the source.
    """

    name: str
    start: int
    samples: int
    clean_sha256: str
    noisy_sha256: str
    rate: int
    channels: int
    clipped: int


@dataclass(frozen=True)
class CachedSplit:
    """A split in the cache: its folder and its entries, sorted by name."""

    folder: Path
    entries: tuple[CachedPair, ...]


def open_split(clean: Path, noisy: Path, cache: Path, report: Report | None = None) -> CachedSplit:
    """The paired files of two folders, from the cache or brought into it.

    Safe when several processes open the same folders at once: one builds, the others wait.

    Raises:
        FileNotFoundError: a folder is missing or holds no audio.
        FilesError: names or lengths are unequal, or a file is unreadable, silent, too short or not finite.
    """
    pairs = pair_files(clean, noisy)
    root = cache.absolute() / "corpora"
    known = root / "known" / _quick_key(pairs)
    key = known.read_text() if known.exists() else _content_key(pairs, report)
    folder = root / key
    if not (folder / "index.json").exists():
        with locked(root / f"{key}.lock"):
            if not (folder / "index.json").exists():
                _build(pairs, folder, report)
    if not known.exists():
        known.parent.mkdir(parents=True, exist_ok=True)
        write_text(known, key)
    return CachedSplit(folder, tuple(CachedPair(**entry) for entry in read_json(folder / "index.json")))


@lru_cache(maxsize=64)
def mapped(path: Path) -> np.memmap:
    """A flat file of the cache, `(sample,)` float32, read only."""
    return np.memmap(path, dtype=np.float32, mode="r")


def _faults(path: Path, audio: np.ndarray, rate: int) -> str | None:
    if len(audio) * SAMPLE_RATE < MINIMUM_SAMPLES * rate:
        return f"{path} lasts {len(audio) / rate:.3f} s; PESQ needs 0.25 s"
    if not np.isfinite(audio).all():
        return f"{path} has {int((~np.isfinite(audio)).sum())} samples that are not finite"
    peak = float(np.abs(audio).max())
    if peak < SILENCE_PEAK:
        return f"{path} is silent (peak {peak:.1e})"
    return None


def _convert(pair: FilePair) -> tuple[CachedPair, np.ndarray, np.ndarray] | list[str]:
    """Both files of a pair at 16 kHz, or what is wrong with them. `start` is set by the writer."""
    name, *paths = pair
    problems, sources = [], []
    for path in paths:
        try:
            audio, rate, channels = read_mono(path)
        except (soundfile.LibsndfileError, OSError) as error:
            problems.append(f"{path} cannot be read ({getattr(error, 'error_string', error)})")
            continue
        if fault := _faults(path, audio, rate):
            problems.append(fault)
        sources.append((audio, rate, channels))
    if problems:
        return problems
    (clean, clean_rate, clean_channels), (noisy, noisy_rate, noisy_channels) = sources
    if len(clean) * noisy_rate != len(noisy) * clean_rate:
        lengths = f"{len(clean)} samples at {clean_rate} Hz, noisy {len(noisy)} at {noisy_rate} Hz"
        return [f"{name}: lengths differ: clean has {lengths}"]
    clipped = sum(int((np.abs(audio) >= FULL_SCALE).sum()) for audio in (clean, noisy))
    clean, noisy = resample(clean, clean_rate), resample(noisy, noisy_rate)
    samples = min(len(clean), len(noisy))
    clean, noisy = clean[:samples], noisy[:samples]
    entry = CachedPair(
        name=name,
        start=0,
        samples=samples,
        clean_sha256=sha256(clean.tobytes()).hexdigest(),
        noisy_sha256=sha256(noisy.tobytes()).hexdigest(),
        rate=max(clean_rate, noisy_rate),
        channels=max(clean_channels, noisy_channels),
        clipped=clipped,
    )
    return entry, clean, noisy


def _build(pairs: list[FilePair], folder: Path, report: Report | None) -> None:
    """Write a split; called with the lock held."""
    entries: list[dict] = []
    problems: list[str] = []
    start = 0
    with replacing_folder(folder) as partial:
        with (
            (partial / "clean.f32").open("wb") as clean_file,
            (partial / "noisy.f32").open("wb") as noisy_file,
        ):
            for converted in _in_threads(_convert, pairs, "reading", report):
                if isinstance(converted, list):
                    problems += converted
                    continue
                entry, clean, noisy = converted
                clean.tofile(clean_file)
                noisy.tofile(noisy_file)
                entries.append({**asdict(entry), "start": start})
                start += entry.samples
            for handle in (clean_file, noisy_file):
                handle.flush()
                os.fsync(handle.fileno())
        if problems:
            raise FilesError(
                f"{len(problems)} faults in {len(pairs)} pairs",
                problems,
                "Mend or remove these files (clean and noisy alike).",
            )
        write_json(partial / "index.json", entries)


def _in_threads(
    function: Callable[[FilePair], Result], items: list[FilePair], what: str, report: Report | None
) -> Iterator[Result]:
    """Results in order; a bounded number of items is in memory at once."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(items), 64):
            for index, result in enumerate(pool.map(function, items[first : first + 64]), first + 1):
                if report is not None:
                    report(what, index, len(items))
                yield result


def _quick_key(pairs: list[FilePair]) -> str:
    rows = [CACHE_VERSION, *[_stamp(path) for _, *paths in pairs for path in paths]]
    return sha256(json.dumps(rows).encode()).hexdigest()


def _stamp(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _content_key(pairs: list[FilePair], report: Report | None) -> str:
    rows = zip(pairs, _in_threads(_file_digests, pairs, "hashing", report), strict=True)
    content = [CACHE_VERSION, *[(pair[0], *digests) for pair, digests in rows]]
    return sha256(json.dumps(content).encode()).hexdigest()[:32]


def _file_digests(pair: FilePair) -> tuple[str, ...]:
    digests = []
    for path in pair[1:]:
        try:
            with path.open("rb") as handle:
                digests.append(file_digest(handle, "sha256").hexdigest())
        except OSError as error:
            raise FilesError(
                "a file cannot be read", [f"{path} ({error.strerror})"], "Check its rights."
            ) from error
    return tuple(digests)
