"""Reading a data folder: pairs at one rate, splits, digests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ablate.models.errors import InputError, plural

from ..audio import SAMPLE_RATE, FilesError
from ..rundir import read_json, write_json
from .cache import Report
from .demo import DEMO, DEMO_MARK, make_demo
from .layouts import CorpusLayout
from .pairs import Pair, Reader, digest_of, digests, note_sources, spread
from .split import split_validation

Found = TypeVar("Found")

TEST_COUNT = 824
"""Test pairs of VoiceBank+DEMAND."""
TRAIN_COUNTS = (11_572, 23_075)
"""Train pairs of VoiceBank+DEMAND with 28 and with 56 speakers."""


@dataclass(frozen=True)
class FurtherTest:
    """The test split of another corpus, scored beside the first."""

    name: str
    path: str
    digest: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Corpus:
    """Pairs for training, selection and test.

    `digest` is the sha256 of names and contents of train and validation, `test_digest` that of the test
    split; neither depends on the file format or the resampler. `path` is "demo" or absolute. `pairs` says how
    files pair if names and `corpus.yaml` do not. `own_validation`: the corpus brings its validation split.
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
    extra_test_sets: tuple[FurtherTest, ...] = ()
    pairs: str | None = None
    own_validation: bool = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        cache: str | Path,
        test_data: str | Path | None = None,
        further: Sequence[str | Path] = (),
        report: Report | None = None,
        pairs: str | None = None,
        rate: int = SAMPLE_RATE,
    ) -> Corpus:
        """Read a corpus, through the cache.

        Args:
            path: a folder with a layout that `layouts` finds, or with a `corpus.yaml`; or "demo", the demo
                corpus, made at its first use.
            test_data: another corpus whose test split replaces this one's; a folder of `clean` and `noisy`
                works.
            further: more test corpora, scored beside it.
            pairs: a pattern in the names, or a list, that pairs the files.
            rate: Hz, of the samples.

        Raises:
            InputError: a folder is missing or empty, two test splits are equal, or files do not pair, or are
                unreadable, silent, too short or not finite.
        """
        root, cache = corpus_folder(path, Path(cache)), Path(cache)
        notes: list[str] = []
        reader = Reader(cache, report, rate, pairs, notes)
        layout = CorpusLayout.of(root, pairs)
        source = layout.sources.get("train") or (layout.loose if test_data is not None else None)
        if source is None:
            raise InputError(f"{root} has no train files. {layout.there()}")
        found = reader(layout, source, "train")
        own = layout.sources.get("validation")
        if own is None:
            train, validation, speakers, split_notes = split_validation(found)
        else:
            train, validation = found, reader(layout, own, "validation")
            speakers = tuple(sorted({pair.speaker for pair in validation if pair.speaker is not None}))
            split_notes = [f"validation is the corpus' own, {plural(len(validation), 'pair')}"]
        test_root = root if test_data is None else corpus_folder(test_data, cache)
        test = reader.test(test_root, layout if test_data is None else None)
        everything = (*train, *validation, *test)
        note_sources(everything, rate, notes)
        digest, test_digest = digest_of(train if own else found, validation if own else ()), digest_of(test)
        _remember(cache, digest, path)
        _remember(cache, test_digest, path if test_data is None else test_data)
        is_demo = (root / DEMO_MARK).exists()
        name = _name(path, root)
        test_name = name if test_data is None else _name(test_data, test_root)
        more = _further(further, {test_name: test_digest}, replace(reader, notes=[]))
        return cls(
            name=name,
            path=DEMO if str(path) == DEMO else str(root),
            kind=_kind(is_demo, found),
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
            extra_test_sets=more,
            pairs=pairs,
            own_validation=own is not None,
        )

    def as_planned(self, digest: str, tests: Sequence[str] = ()) -> Corpus:
        """The corpus with the digests of a study's plan, if they identify this content.

        Digests were once of the samples at 16 kHz, and validation was once drawn from train even if a corpus
        had its own. Digests of other content are ignored. `tests` are those of the first and the further test
        splits.
        """
        found = self
        if self.own_validation and digest in digests(self.train):
            train, validation, speakers, _ = split_validation(self.train)
            found = replace(
                self, train=train, validation=validation, validation_speakers=speakers, digest=digest
            )
        elif digest in digests(*self._split):
            found = replace(self, digest=digest)
        first, *others = [*tests, *("" for _ in self.extra_test_sets), ""]
        further = [
            replace(test, digest=planned) if planned in digests(test.pairs) else test
            for test, planned in zip(self.extra_test_sets, others, strict=False)
        ]
        test_digest = first if first in digests(self.test) else self.test_digest
        return replace(found, test_digest=test_digest, extra_test_sets=tuple(further))

    @property
    def sample_rate(self) -> int:
        """Hz, of the samples of all pairs."""
        return self.train[0].sample_rate

    @property
    def _split(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """The pairs in the digest, and those of the corpus' own validation split."""
        return (self.train, self.validation) if self.own_validation else ((*self.train, *self.validation), ())

    def split_by(self, seed: int) -> Corpus:
        """The corpus with a tenth held out for validation, drawn by a seed."""
        pairs = sorted((*self.train, *self.validation), key=lambda pair: pair.name)
        train, validation, speakers, _ = split_validation(pairs, seed)
        return replace(self, train=train, validation=validation, validation_speakers=speakers)

    def select_validation(self, count: int | None) -> tuple[Pair, ...]:
        """A fixed draw of `count` validation pairs, evenly spread over the names; None: all."""
        return spread(self.validation, count)


def open_test(
    path: str | Path,
    *,
    cache: str | Path,
    report: Report | None = None,
    pairs: str | None = None,
    rate: int = SAMPLE_RATE,
) -> tuple[Pair, ...]:
    """The test split of a corpus, or the pairs of a folder of `clean` and `noisy`, as `Corpus.open`."""
    cache = Path(cache)
    return Reader(cache, report, rate, pairs, []).test(corpus_folder(path, cache))


def _further(paths: Sequence[str | Path], known: dict[str, str], reader: Reader) -> tuple[FurtherTest, ...]:
    """Further test splits, each with a unique name; `known` are names and digests of earlier ones."""
    found = []
    for path in paths:
        root = corpus_folder(path, reader.cache)
        pairs = reader.test(root)
        digest, name = digest_of(pairs), _name(path, root)
        for other, its in known.items():
            if its == digest:
                raise InputError(f"test sets {path} and {other} have the same files; give only one")
        if name in known:
            name = f"{root.parent.name}/{name}"
        if name in known:
            raise InputError(f"two test sets are named {name}; rename one of the folders")
        known[name] = digest
        _remember(reader.cache, digest, path)
        found.append(FurtherTest(name, DEMO if str(path) == DEMO else str(root), digest, pairs))
    return tuple(found)


def _name(path: str | Path, root: Path) -> str:
    return DEMO if str(path) == DEMO else root.name


def find_corpus(
    path: str, digest: str, *, cache: Path, pairs: str | None = None, rate: int = SAMPLE_RATE
) -> Corpus:
    """The corpus with a digest: at `path`, or anywhere else that this cache has read it.

    Raises:
        InputError: it is not found; the message says what is wrong at each place.
    """

    def read(place: str) -> tuple[Corpus, str]:
        found = Corpus.open(place, cache=cache, pairs=pairs, rate=rate).as_planned(digest)
        return found, found.digest

    return _find(path, digest, cache, read)


def located(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `find_corpus` in a run's specification."""
    return {name: spec["corpus"].get(name) for name in ("path", "digest", "pairs")}


def find_test(
    path: str, digest: str, *, cache: Path, pairs: str | None = None, rate: int = SAMPLE_RATE
) -> tuple[Pair, ...]:
    """The test split with a digest, as `find_corpus`."""

    def read(place: str) -> tuple[tuple[Pair, ...], str]:
        found = open_test(place, cache=cache, pairs=pairs, rate=rate)
        return found, digest if digest in digests(found) else digest_of(found)

    return _find(path, digest, cache, read)


def _find(path: str, digest: str, cache: Path, read: Callable[[str], tuple[Found, str]]) -> Found:
    problems = []
    for place in dict.fromkeys([path, *_places(cache, digest)]):
        try:
            found, its = read(place)
        except InputError as error:
            problems.append(str(error))
            continue
        if its == digest:
            return found
        problems.append(f"{place} has changed: its digest is {its[:12]}, planned {digest[:12]}")
    raise FilesError(
        f"the data with digest {digest[:12]} is no longer at its old place",
        problems,
        "Restore it. If it was moved, show ablate its new folder once with `ablate data check DIR`.",
    )


def _remember(cache: Path, digest: str, path: str | Path) -> None:
    """Store where a content was read, so that its digest finds it."""
    place = DEMO if str(path) == DEMO else str(Path(path).expanduser().absolute())
    if place not in (known := _places(cache, digest)):
        write_json(cache / "corpora" / "places" / f"{digest}.json", [place, *known])


def _places(cache: Path, digest: str) -> list[str]:
    return read_json(cache / "corpora" / "places" / f"{digest}.json") or []


def corpus_folder(path: str | Path, cache: Path) -> Path:
    """The folder of a corpus; "demo" is made if missing.

    Raises:
        InputError: there is no such folder.
    """
    if str(path) == DEMO:
        return make_demo(cache)
    root = Path(path).expanduser().absolute()
    if root.is_file():
        raise InputError(f"{root} is a file; give the corpus folder, and a list of pairs as --pairs")
    if not root.is_dir():
        raise InputError(f"no data folder {root}")
    return root


def _kind(is_demo: bool, train: Sequence[Pair]) -> str:
    if is_demo:
        return "demo"
    if len(train) in TRAIN_COUNTS and all(re.fullmatch(r"p\d{3}_\d{3}", pair.name) for pair in train):
        return "voicebank+demand"
    return "folder"
