"""A data folder read: pairs at 16 kHz, splits, digests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

from ablate.models.errors import InputError

from ..audio import SAMPLE_RATE, FilesError
from ..rundir import read_json, write_json
from .cache import Report, mapped, open_split
from .demo import DEMO, DEMO_MARK, make_demo
from .names import read_logs, speakers_of
from .split import split_validation

Found = TypeVar("Found")

TEST_COUNT = 824
"""Test pairs of VoiceBank+DEMAND."""
TRAIN_COUNTS = (11_572, 23_075)
"""Train pairs of VoiceBank+DEMAND with 28 and with 56 speakers."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A clean recording and the same with noise, both `(sample,)` float32 at 16 kHz, read-only views.

    `speaker`, `noise` and `snr` (dB) are None where names and logs do not tell. `rate`, `channels` and
    `clipped` (samples at full scale) are those of the source files. A pair is small to pickle.
    """

    name: str
    speaker: str | None
    snr: float | None
    noise: str | None
    samples: int
    clean_sha256: str
    noisy_sha256: str
    rate: int
    channels: int
    clipped: int
    folder: Path = field(repr=False)
    start: int = field(repr=False)

    @property
    def clean(self) -> np.ndarray:
        return mapped(self.folder / "clean.f32")[self.start : self.start + self.samples]

    @property
    def noisy(self) -> np.ndarray:
        return mapped(self.folder / "noisy.f32")[self.start : self.start + self.samples]

    @property
    def cache(self) -> Path:
        """The folder of caches that the pair is kept in."""
        return self.folder.parents[1]

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True)
class FurtherTest:
    """The test split of another corpus, scored beside the first."""

    name: str
    path: str
    digest: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Corpus:
    """Pairs to train on, to select on and to test on.

    `digest` is the sha256 of names and 16 kHz contents of train and validation, `test_digest` that of the
    test split; neither depends on the file format. `path` is "demo" or the absolute path.
    """

    name: str
    path: str
    kind: str
    is_demo: bool
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    digest: str
    test_digest: str
    validation_speakers: tuple[str, ...]
    notes: list[str]
    test_path: str | None = None
    test_is_demo: bool = False
    further_tests: tuple[FurtherTest, ...] = ()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        cache: str | Path,
        test_data: str | Path | None = None,
        further: Sequence[str | Path] = (),
        report: Report | None = None,
    ) -> Corpus:
        """Read a corpus, through the 16 kHz cache.

        Args:
            path: a folder with `{train,test}/{clean,noisy}` or with `{clean,noisy}_trainset*_wav` and
                `{clean,noisy}_testset_wav`; or "demo", the demo corpus, which is made when first used.
            cache: the folder of caches.
            test_data: another corpus whose test split takes the place of this one's; a folder of `clean`
                and `noisy` will do.
            further: more of that kind, scored beside it.
            report: is told of the progress of reading.

        Raises:
            InputError: a folder is missing or empty, or two test splits are the same.
            InputError: files do not pair, or are unreadable, silent, too short or not finite.
        """
        root, cache = corpus_folder(path, Path(cache)), Path(cache)
        notes: list[str] = []
        folders = _split_folders(root, "train", notes)
        if folders is None:
            raise InputError(f"{root} has no train files; {_LAYOUTS}")
        pairs = _read(root, "train", folders, cache, report)
        train, validation, speakers, split_notes = split_validation(pairs)
        test_root = root if test_data is None else corpus_folder(test_data, cache)
        test = _read_test(test_root, cache, notes, report)
        _note_sources((*pairs, *test), notes)
        digest, test_digest = digest_of(pairs), digest_of(test)
        _remember(cache, digest, path)
        _remember(cache, test_digest, path if test_data is None else test_data)
        is_demo = (root / DEMO_MARK).exists()
        name = _name(path, root)
        test_name = name if test_data is None else _name(test_data, test_root)
        more = _further(further, {test_name: test_digest}, cache, report)
        return cls(
            name=name,
            path=DEMO if str(path) == DEMO else str(root),
            kind=_kind(is_demo, pairs),
            is_demo=is_demo,
            train=train,
            validation=validation,
            test=test,
            digest=digest,
            test_digest=test_digest,
            validation_speakers=speakers,
            notes=notes + split_notes,
            test_path=None if test_data is None else str(test_root),
            test_is_demo=(test_root / DEMO_MARK).exists(),
            further_tests=more,
        )

    def split_by(self, seed: int) -> Corpus:
        """The corpus with the tenth held out for validation that a seed draws."""
        pairs = sorted((*self.train, *self.validation), key=lambda pair: pair.name)
        train, validation, speakers, _ = split_validation(pairs, seed)
        return replace(self, train=train, validation=validation, validation_speakers=speakers)

    def select_validation(self, count: int | None) -> tuple[Pair, ...]:
        """A fixed draw of `count` validation pairs, evenly spread over the names; None: all."""
        return spread(self.validation, count)


def open_test(path: str | Path, *, cache: str | Path, report: Report | None = None) -> tuple[Pair, ...]:
    """The test split of a corpus alone, or the pairs of a folder of `clean` and `noisy`.

    Raises:
        FileNotFoundError, InputError: as `Corpus.open`.
    """
    return _read_test(corpus_folder(path, Path(cache)), Path(cache), [], report)


def _further(
    paths: Sequence[str | Path], known: dict[str, str], cache: Path, report: Report | None
) -> tuple[FurtherTest, ...]:
    """Further test splits, each under a name of its own; `known` are names and digests of those before."""
    found = []
    for path in paths:
        root = corpus_folder(path, cache)
        pairs = _read_test(root, cache, [], report)
        digest, name = digest_of(pairs), _name(path, root)
        for other, its in known.items():
            if its == digest:
                raise InputError(f"test corpus {path} holds the same files as {other}; name it once")
        if name in known:
            name = f"{root.parent.name}/{name}"
        if name in known:
            raise InputError(f"two test corpora are called {name}; rename the folder of one")
        known[name] = digest
        _remember(cache, digest, path)
        found.append(FurtherTest(name, DEMO if str(path) == DEMO else str(root), digest, pairs))
    return tuple(found)


def _name(path: str | Path, root: Path) -> str:
    return DEMO if str(path) == DEMO else root.name


def find_corpus(path: str, digest: str, *, cache: Path) -> Corpus:
    """The corpus of a digest: at `path`, or wherever else this cache has read one with its content.

    Raises:
        InputError: it is nowhere; each place is named with what is wrong there.
    """
    return _find(path, digest, cache, lambda place: Corpus.open(place, cache=cache), lambda c: c.digest)


def find_test(path: str, digest: str, *, cache: Path) -> tuple[Pair, ...]:
    """The test split of a digest, as `find_corpus`."""
    return _find(path, digest, cache, lambda place: open_test(place, cache=cache), digest_of)


def _find(
    path: str, digest: str, cache: Path, read: Callable[[str], Found], digest_of: Callable[[Found], str]
) -> Found:
    problems = []
    for place in dict.fromkeys([path, *_places(cache, digest)]):
        try:
            found = read(place)
        except InputError as error:
            problems.append(str(error))
            continue
        if digest_of(found) == digest:
            return found
        problems.append(f"{place} has changed: digest {digest_of(found)[:12]}, planned {digest[:12]}")
    raise FilesError(
        f"the data with digest {digest[:12]} is not where it was",
        problems,
        "Restore it; or, where it was moved, name its new folder once (`ablate data check DIR`).",
    )


def _remember(cache: Path, digest: str, path: str | Path) -> None:
    """Keep where a content was read, for those who look for it by its digest."""
    place = DEMO if str(path) == DEMO else str(Path(path).expanduser().absolute())
    if place not in (known := _places(cache, digest)):
        write_json(cache / "corpora" / "places" / f"{digest}.json", [place, *known])


def _places(cache: Path, digest: str) -> list[str]:
    return read_json(cache / "corpora" / "places" / f"{digest}.json") or []


def spread(pairs: Sequence[Pair], count: int | None) -> tuple[Pair, ...]:
    """`count` of the pairs, at even distances in their order; all where there are no more."""
    if count is None or count >= len(pairs):
        return tuple(pairs)
    if count < 1:
        raise InputError(f"{count} utterances asked for; at least one is needed")
    return tuple(pairs[int((index + 0.5) * len(pairs) / count)] for index in range(count))


def is_voicebank_test(pairs: Sequence[Pair]) -> bool:
    """Whether names are those of the test split of VoiceBank+DEMAND (speakers p232 and p257)."""
    return bool(pairs) and all(re.fullmatch(r"p(232|257)_\d{3}", pair.name) for pair in pairs)


_LAYOUTS = "a corpus has train/clean, train/noisy, or clean_trainset_28spk_wav, noisy_trainset_28spk_wav"


def corpus_folder(path: str | Path, cache: Path) -> Path:
    """Where the files of a corpus are; "demo" is made where it is missing.

    Raises:
        InputError: there is no such folder.
    """
    if str(path) == DEMO:
        return make_demo(cache)
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"no data folder {root}")
    return root


def _split_folders(root: Path, split: str, notes: list[str]) -> tuple[Path, Path] | None:
    """The clean and noisy folder of a split, or None where the corpus has no such split."""
    plain = root / split / "clean", root / split / "noisy"
    if any(folder.is_dir() for folder in plain):
        return plain
    found = {
        kind: {folder.name.removeprefix(f"{kind}_"): folder for folder in root.glob(f"{kind}_{split}set*")}
        for kind in ("clean", "noisy")
    }
    names = sorted(name for name in {**found["clean"], **found["noisy"]} if name)
    if not names:
        return None
    chosen = next((name for name in names if "28spk" in name), names[0])
    if len(names) > 1:
        notes.append(f"{chosen} is taken; {', '.join(n for n in names if n != chosen)} is there too")
    return root / f"clean_{chosen}", root / f"noisy_{chosen}"


def _read_test(root: Path, cache: Path, notes: list[str], report: Report | None) -> tuple[Pair, ...]:
    folders = _split_folders(root, "test", notes)
    if folders is None and (root / "clean").is_dir():
        folders = root / "clean", root / "noisy"
    if folders is None:
        raise InputError(
            f"{root} has no test files; add test/clean and test/noisy (or clean_testset_wav and "
            "noisy_testset_wav), or name a corpus that has them with --test-data"
        )
    return _read(root, "test", folders, cache, report)


def _read(
    root: Path, split: str, folders: tuple[Path, Path], cache: Path, report: Report | None
) -> tuple[Pair, ...]:
    cached = open_split(*folders, cache, report)
    log = read_logs(root, split)
    speaker_of = speakers_of([entry.name for entry in cached.entries])
    return tuple(
        Pair(
            name=entry.name,
            speaker=speaker_of.get(entry.name),
            noise=log.get(entry.name, (None, None))[0],
            snr=log.get(entry.name, (None, None))[1],
            samples=entry.samples,
            clean_sha256=entry.clean_sha256,
            noisy_sha256=entry.noisy_sha256,
            rate=entry.rate,
            channels=entry.channels,
            clipped=entry.clipped,
            folder=cached.folder,
            start=entry.start,
        )
        for entry in cached.entries
    )


def _note_sources(pairs: Sequence[Pair], notes: list[str]) -> None:
    rates = Counter(pair.rate for pair in pairs if pair.rate != SAMPLE_RATE)
    for rate, count in sorted(rates.items()):
        notes.append(f"{count} pairs resampled from {rate} Hz to {SAMPLE_RATE} Hz")
    if stereo := sum(pair.channels > 1 for pair in pairs):
        notes.append(f"{stereo} pairs with several channels averaged to one")


def _kind(is_demo: bool, train: Sequence[Pair]) -> str:
    if is_demo:
        return "demo"
    if len(train) in TRAIN_COUNTS and all(re.fullmatch(r"p\d{3}_\d{3}", pair.name) for pair in train):
        return "voicebank+demand"
    return "folder"


def digest_of(pairs: Sequence[Pair]) -> str:
    """sha256 of the names and the 16 kHz contents of pairs, in hexadecimal."""
    rows = sorted(f"{pair.name} {pair.clean_sha256} {pair.noisy_sha256}\n" for pair in pairs)
    return sha256("".join(rows).encode()).hexdigest()
