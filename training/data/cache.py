"""The cache: paired files, checked, resampled once to one rate, and stored as flat float32 files.

`<cache>/corpora/<content key>/` holds a split: all its files in a row in `clean.f32` and `noisy.f32`, their
places in `index.json`. The key comes from the bytes of the source files (and from the rate, unless it is 16
kHz), so moved or copied corpora are not read again. Bytes are hashed again only if a path, size or time of a
source has changed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile

from ..audio import SAMPLE_RATE, Fault, FilePair, FilesError, read_mono, resample
from ..files import atomic_folder, locked
from ..rundir import file_digest, read_json, write_json, write_text

CACHE_VERSION = 1
MINIMUM_SECONDS = 0.25
SLACK_SECONDS = 0.05
"""Lengths may differ by this much, e.g. after an inverse transform that drops part of the last frame."""
SILENCE_PEAK = 1e-4
FULL_SCALE = 32_767 / 32_768
LOSSLESS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC")
"""First letters of sample formats that decode to the same samples everywhere."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[str, int, int], None]
"""Called with the task, the number of files done, and their total."""


@dataclass(frozen=True, slots=True)
class CachedPair:
    """One pair in the cache.

    `start` and `samples` place it in the flat files; `rate`, `channels` and `clipped` (samples at full scale
    in both files) describe the source. `cut` is how many samples longer one file was. `signed` identifies the
    sources whatever resamples them (`_signed`); empty: the digests of the samples do.
    """

    name: str
    start: int
    samples: int
    clean_sha256: str
    noisy_sha256: str
    rate: int
    channels: int
    clipped: int
    cut: int = 0
    signed: str = ""


@dataclass(frozen=True)
class CachedSplit:
    """A split in the cache: its folder and its entries, in the order of the pairs."""

    folder: Path
    entries: tuple[CachedPair, ...]


def open_split(
    pairs: Sequence[FilePair], cache: Path, report: Report | None = None, *, rate: int = SAMPLE_RATE
) -> CachedSplit:
    """Bring pairs of files, sorted by name, into the cache at a rate in Hz, unless they are there.

    Several processes may open the same files at once: one builds, the others wait.

    Raises:
        FilesError: lengths differ by more than 50 ms, or a file is missing, unreadable, silent, too short or
            not finite.
    """
    if faults := [fault for path in _paths(pairs) if (fault := _missing(path))]:
        raise FilesError(f"{len(faults):,} files of {len(pairs):,} pairs cannot be read", faults, MEND)
    root = cache.absolute() / "corpora"
    known = root / "known" / _quick_key(pairs, rate)
    key = known.read_text() if known.exists() else _content_key(pairs, rate, report)
    folder = root / key
    if (entries := _entries(folder)) is None:
        with locked(root / f"{key}.lock"):
            if (entries := _entries(folder)) is None:
                shutil.rmtree(folder, ignore_errors=True)
                entries = _build(pairs, folder, rate, report)
    if not known.exists():
        known.parent.mkdir(parents=True, exist_ok=True)
        write_text(known, key)
    return CachedSplit(folder, tuple(CachedPair(**entry) for entry in entries))


def _entries(folder: Path) -> list[dict[str, Any]] | None:
    """The index of a split; None if there is none, or if it does not identify its sources."""
    found = read_json(folder / "index.json")
    return found if found and "signed" in found[0] else None


def _paths(pairs: Sequence[FilePair]) -> Iterator[Path]:
    return (path for pair in pairs for path in (pair.clean, pair.other))


@lru_cache(maxsize=64)
def mapped(path: Path) -> np.memmap:
    """A flat file of the cache, `(sample,)` float32, read only."""
    return np.memmap(path, dtype=np.float32, mode="r")


MEND = "Fix or remove these files (both clean and noisy)."


def _missing(path: Path) -> Fault | None:
    """A problem with a file that shows before it is read as audio."""
    try:
        if path.stat().st_size > 1024:
            return None
        content = path.read_bytes()
    except OSError as error:
        if not path.is_symlink() or path.exists():
            return Fault("unreadable", f"{path} cannot be read ({error.strerror})")
        target = os.readlink(path)
        if ".git/annex" in target:
            return Fault("not fetched", f"{path} has no content yet; run git annex get or datalad get")
        return Fault("broken links", f"{path} is a link to {target}, which does not exist")
    if not content:
        return Fault("empty", f"{path} is empty; copy it again")
    if content.startswith(b"version https://git-lfs"):
        return Fault("not fetched", f"{path} has no content yet; run git lfs pull")
    return None


def _cut_off(path: Path) -> str:
    """A note on bytes missing from a WAV file, by its header."""
    with path.open("rb") as file:
        head = file.read(8)
    says = int.from_bytes(head[4:8], "little") + 8
    there = path.stat().st_size
    if head[:4] != b"RIFF" or says <= there or says >= 2**32 - 1:
        return ""
    return f"; {path} is truncated ({there:,} of {says:,} bytes); copy it again"


def _faults(path: Path, audio: np.ndarray, rate: int) -> Fault | None:
    if len(audio) < MINIMUM_SECONDS * rate:
        return Fault("too short", f"{path} lasts {len(audio) / rate:.3f} s; PESQ needs 0.25 s")
    if not np.isfinite(audio).all():
        wrong = int((~np.isfinite(audio)).sum())
        return Fault("not finite", f"{path} has {wrong} samples that are not finite")
    peak = float(np.abs(audio).max())
    if peak < SILENCE_PEAK:
        return Fault("silent", f"{path} is silent (peak {peak:.1e})")
    return None


def _signed(path: Path, audio: np.ndarray, rate: int) -> str:
    """Identifies a source on every processor: by its decoded samples and their rate; a lossy file, whose
    decoder may vary, by its bytes."""
    if not soundfile.info(path).subtype.startswith(LOSSLESS):
        return f"{file_digest(path)}!"
    digest = sha256(audio.tobytes()).hexdigest()
    return digest if rate == SAMPLE_RATE else f"{digest}@{rate}"


def _convert(pair: FilePair, rate: int) -> tuple[CachedPair, np.ndarray, np.ndarray] | list[Fault]:
    """Both files of a pair at one rate, or their faults. The writer sets `start`."""
    paths = pair.clean, pair.other
    problems, sources = [], []
    for path in paths:
        try:
            audio, source_rate, channels = read_mono(path)
        except (soundfile.LibsndfileError, OSError) as error:
            why = str(getattr(error, "error_string", error)).rstrip(".")
            problems.append(Fault("unreadable", f"{path} cannot be read ({why})"))
            continue
        if fault := _faults(path, audio, source_rate):
            problems.append(fault)
        sources.append((audio, source_rate, channels))
    if problems:
        return problems
    (clean, clean_rate, _), (noisy, noisy_rate, _) = sources
    seconds = [len(clean) / clean_rate, len(noisy) / noisy_rate]
    if abs(seconds[0] - seconds[1]) > SLACK_SECONDS:
        mend = f"; if they belong together, trim the longer one, e.g. sox IN OUT trim 0 {min(seconds):.3f}"
        cut = "".join(map(_cut_off, paths)) or mend
        lengths = f"{len(clean)} samples at {clean_rate} Hz, noisy {len(noisy)} at {noisy_rate} Hz"
        return [Fault("of unequal length", f"{pair.name}: lengths differ: clean has {lengths}{cut}")]
    clipped = sum(int((np.abs(audio) >= FULL_SCALE).sum()) for audio in (clean, noisy))
    each = [_signed(path, audio, its) for path, (audio, its, _) in zip(paths, sources, strict=True)]
    signed = " ".join(each) if any(text[-1] == "!" or "@" in text for text in each) else ""
    clean, noisy = resample(clean, clean_rate, rate), resample(noisy, noisy_rate, rate)
    samples = min(len(clean), len(noisy))
    cut_by = 0 if seconds[0] == seconds[1] else max(1, abs(len(clean) - len(noisy)))
    if cut_by and not signed:  # the digests below are of what is kept
        signed = " ".join(sha256(audio.tobytes()).hexdigest() for audio in (clean, noisy))
    clean, noisy = clean[:samples], noisy[:samples]
    entry = CachedPair(
        name=pair.name,
        start=0,
        samples=samples,
        clean_sha256=sha256(clean.tobytes()).hexdigest(),
        noisy_sha256=sha256(noisy.tobytes()).hexdigest(),
        rate=max(clean_rate, noisy_rate),
        channels=max(channels for _, _, channels in sources),
        clipped=clipped,
        cut=cut_by,
        signed=signed,
    )
    return entry, clean, noisy


def _build(pairs: Sequence[FilePair], folder: Path, rate: int, report: Report | None) -> list[dict[str, Any]]:
    """Write a split and return its index; the caller holds the lock."""
    entries: list[dict[str, Any]] = []
    problems: list[Fault] = []
    start = 0
    with atomic_folder(folder) as partial:
        paths = partial / "clean.f32", partial / "noisy.f32"
        with paths[0].open("wb") as clean_file, paths[1].open("wb") as noisy_file:
            for converted in in_threads(lambda pair: _convert(pair, rate), pairs, "reading", report):
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
            raise FilesError(f"{len(problems)} problems in {len(pairs)} pairs", problems, MEND)
        write_json(partial / "index.json", entries)
    return entries


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, report: Report | None
) -> Iterator[Result]:
    """Results in order; memory holds a limited number of items at once."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(items), 64):
            for index, result in enumerate(pool.map(function, items[first : first + 64]), first + 1):
                if report is not None:
                    report(what, index, len(items))
                yield result


def _quick_key(pairs: Sequence[FilePair], rate: int) -> str:
    rows: list[Any] = [CACHE_VERSION, *map(_stamp, _paths(pairs))]
    if others := [pair.name for pair in pairs if pair.name != pair.clean.stem]:
        rows.append(others)
    return sha256(json.dumps(rows if rate == SAMPLE_RATE else [rate, rows]).encode()).hexdigest()


def _stamp(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _content_key(pairs: Sequence[FilePair], rate: int, report: Report | None) -> str:
    rows = zip(pairs, in_threads(_file_digests, pairs, "hashing", report), strict=True)
    content: list[Any] = [CACHE_VERSION, *[(pair.name, *digests) for pair, digests in rows]]
    content += [] if rate == SAMPLE_RATE else [rate]
    return sha256(json.dumps(content).encode()).hexdigest()[:32]


def _file_digests(pair: FilePair) -> tuple[str, ...]:
    try:
        return tuple(map(file_digest, (pair.clean, pair.other)))
    except OSError as error:
        why = f"{error.filename} ({error.strerror})"
        raise FilesError("a file cannot be read", [why], "Check its permissions.") from error
