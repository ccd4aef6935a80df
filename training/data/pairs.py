"""Pairs of recordings in the cache, and their digests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from ablate.models.errors import InputError, plural

from ..audio import SAMPLE_RATE, FilePair
from .cache import CachedPair, Report, mapped, open_split
from .layouts import CorpusLayout, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(CachedPair):
    """A clean recording and its noisy version, both `(sample,)` float32 at one rate, read-only views.

    `speaker`, `noise` and `snr` (dB) are None if names, lists and logs do not give them. `clean_name` is the
    clean file's name if it differs. A pair is small to pickle.
    """

    folder: Path = field(repr=False)
    speaker: str | None = None
    snr: float | None = None
    noise: str | None = None
    sample_rate: int = SAMPLE_RATE
    clean_name: str = ""

    @property
    def clean(self) -> np.ndarray:
        return mapped(self.folder / "clean.f32")[self.start : self.start + self.samples]

    @property
    def noisy(self) -> np.ndarray:
        return mapped(self.folder / "noisy.f32")[self.start : self.start + self.samples]

    @property
    def cache(self) -> Path:
        """The root of the caches."""
        return self.folder.parents[1]

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@dataclass(frozen=True)
class Reader:
    """Reads splits with the same cache, rate and pairing; adds to `notes`."""

    cache: Path
    report: Report | None
    rate: int
    pairs: str | None
    notes: list[str]

    def __call__(self, layout: CorpusLayout, source: Source, split: str) -> tuple[Pair, ...]:
        paired, notes = layout.read(source)
        if not paired:
            raise InputError(f"{layout.root} has no pairs for {split}")
        self.notes.extend(note for note in notes if note not in self.notes)
        cached = open_split(paired, self.cache, self.report, rate=self.rate)
        log = read_logs(layout.root, split)
        speaker_of = speakers_of([pair.clean.stem for pair in paired])
        return tuple(
            Pair(
                **asdict(entry) | {"signed": _signed_with(pair, entry)},
                folder=cached.folder,
                speaker=pair.speaker or speaker_of.get(pair.clean.stem),
                noise=pair.noise or log.get(entry.name, (None, None))[0],
                snr=log.get(entry.name, (None, None))[1] if pair.snr is None else pair.snr,
                sample_rate=self.rate,
                clean_name="" if pair.clean.stem == pair.name else pair.clean.stem,
            )
            for pair, entry in zip(paired, cached.entries, strict=True)
        )

    def test(self, root: Path, layout: CorpusLayout | None = None) -> tuple[Pair, ...]:
        """The test split of a corpus, or the pairs of a folder of `clean` and `noisy`."""
        layout = CorpusLayout.of(root, self.pairs) if layout is None else layout
        source = layout.sources.get("test") or layout.loose
        if source is None:
            raise InputError(
                f"{root} has no test files; add test/clean and test/noisy (or clean_testset_wav and "
                f"noisy_testset_wav), or give a corpus that has them with --test-data. {layout.there()}"
            )
        return self(layout, source, "test")


def _signed_with(pair: FilePair, entry: CachedPair) -> str:
    """Identifies a pair by its sources, and by its speaker if a list, a pattern or a folder gives it: the
    validation split depends on it."""
    signed = entry.signed or f"{entry.clean_sha256} {entry.noisy_sha256}"
    return f"{signed} {pair.speaker}" if pair.speaker is not None else entry.signed


def spread(pairs: Sequence[Pair], count: int | None) -> tuple[Pair, ...]:
    """`count` of the pairs, evenly spaced in their order; all if there are no more."""
    if count is None or count >= len(pairs):
        return tuple(pairs)
    if count < 1:
        raise InputError(f"{count} utterances requested; use at least one")
    return tuple(pairs[int((index + 0.5) * len(pairs) / count)] for index in range(count))


def is_voicebank_test(pairs: Sequence[Pair]) -> bool:
    """Whether the names are those of VoiceBank+DEMAND's test split (speakers p232 and p257)."""
    return bool(pairs) and all(re.fullmatch(r"p(232|257)_\d{3}", pair.name) for pair in pairs)


def note_sources(pairs: Sequence[Pair], rate: int, notes: list[str]) -> None:
    rates = Counter(pair.rate for pair in pairs if pair.rate != rate)
    for source, count in sorted(rates.items()):
        notes.append(f"{count} pairs resampled from {source} Hz to {rate} Hz")
    if stereo := sum(pair.channels > 1 for pair in pairs):
        notes.append(f"{stereo} pairs with several channels averaged to one")
    if cut := [pair for pair in pairs if pair.cut]:
        longest = max(cut, key=lambda pair: pair.cut)
        notes.append(
            f"{plural(len(cut), 'pair')} of unequal length cut to the shorter file, by {longest.cut} samples "
            f"at most ({longest.name})"
        )


def digest_of(pairs: Sequence[Pair], validation: Sequence[Pair] = ()) -> str:
    """sha256 of the names and the sources of pairs, in hexadecimal; with those of the corpus' own validation
    split."""
    return _digest(pairs, validation, lambda pair: pair.signed or f"{pair.clean_sha256} {pair.noisy_sha256}")


def digests(pairs: Sequence[Pair], validation: Sequence[Pair] = ()) -> Iterator[str]:
    """`digest_of`, then the digest of the samples at 16 kHz that older plans have."""
    yield digest_of(pairs, validation)
    if not validation and pairs[0].sample_rate == SAMPLE_RATE:
        yield _digest(pairs, (), lambda pair: f"{pair.clean_sha256} {pair.noisy_sha256}")


def _digest(pairs: Sequence[Pair], validation: Sequence[Pair], sign: Callable[[Pair], str]) -> str:
    rows = [sorted(f"{pair.name} {sign(pair)}\n" for pair in split) for split in (pairs, validation)]
    middle = ["validation\n"] if validation else []
    return sha256("".join([*rows[0], *middle, *rows[1]]).encode()).hexdigest()


def speakers_of(names: list[str]) -> dict[str, str]:
    """Speaker by name: the text before the first `_`, if all names have one.

    One common word without a digit is not a speaker (`fileid_17`).
    """
    speakers = {name: name.partition("_")[0] for name in names if "_" in name[1:]}
    heads = set(speakers.values())
    if len(speakers) < len(set(names)) or (len(heads) == 1 and not any(c.isdigit() for c in min(heads))):
        return {}
    return speakers


def read_logs(root: Path, split: str) -> dict[str, tuple[str, float]]:
    """Noise and SNR (dB) by name, from lines `name noise snr` in `log_<split>set*.txt`."""
    rows: dict[str, tuple[str, float]] = {}
    for path in sorted([*root.glob(f"log_{split}set*.txt"), *root.glob(f"*/log_{split}set*.txt")]):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.fullmatch(r"\s*(\S+)\s+(\S+)\s+(-?\d+(?:\.\d+)?)(?:\s*dB)?\s*", line)
            if match:
                rows.setdefault(match[1], (match[2], float(match[3])))
    return rows
