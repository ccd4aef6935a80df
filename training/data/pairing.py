"""Pairs each noisy file with its clean one: by name, or by a pattern in both names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ablate.models.errors import InputError, listed, plural

from ..audio import Fault, FilePair, FilesError, audio_files, unread

PATTERNS = (r"fileid_(\d+)", r"clnsp(\d+)")
"""Of DNS-Challenge and MS-SNSD; tried if names differ."""
KINDS = "clean|noisy|noise|mixture|mixed|mix|reverb|target|source|enhanced"
WORDS = rf"(?i)(?:^|(?<=[_.\- ]))(?:{KINDS})(?=$|[_.\- ])"
"""Words for the kind of a file, ignored in names: `a_clean` pairs with `a_noisy`."""
SNR = re.compile(r"snr(?:db)?[_-]?(-?\d+(?:\.\d+)?)", re.IGNORECASE)
SPEAKER = re.compile(r"reader_(\d+)")
"""In names of DNS-Challenge."""
ADVICE = (
    r"Paired files need equal names, except for the suffix. Add or remove the files above, or say how "
    r"they are paired: --pairs 'fileid_(\d+)' (a pattern whose group is equal in both names) or --pairs "
    r"LIST.csv."
)

Files = Mapping[str, Path]


class Paired(NamedTuple):
    """Pairs, sorted by name, and notes on how they were found."""

    pairs: list[FilePair]
    notes: list[str]


def equal_form(text: str) -> str:
    """A name in composed Unicode: disks and archives store `é` as one character or as two."""
    return unicodedata.normalize("NFC", text)


def check_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern for names; InputError if it is not a regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"--pairs {text!r} is not a file or a regular expression: {error}") from None


def pair_folders(clean: Path, other: Path, pattern: str | None = None) -> Paired:
    """Pair the files of two folders and of their subfolders.

    Equal names pair, ignoring suffixes. A pattern with the same match in both names comes first; several
    noisy files may share a clean one. Without a pattern, if names differ, those of known corpora are tried;
    one is used only if it pairs every file.

    Raises:
        InputError: a folder is missing or has no audio, or the pattern is not a regular expression.
        FilesError: a file has no partner.
    """
    left, right = audio_files(clean), audio_files(other)
    notes = [
        f"{plural(len(names), 'file')} in {folder} cannot be read and are left out: {listed(names, 3)}; "
        "convert them to .wav"
        for folder in (clean, other)
        if (names := unread(folder))
    ]
    problem = None
    if pattern is not None:
        try:
            if (found := _by_pattern(left, right, check_pattern(pattern))) is not None:
                return Paired(found.pairs, [*notes, *found.notes])
        except FilesError as error:  # of another corpus of the study, whose names are equal
            problem = error
    cleans = {_place(path, clean): name for name, path in left.items()}
    others = {_place(path, other): name for name, path in right.items()}
    keys, told = _equal(cleans.keys(), others.keys())
    if keys:
        pairs = [_named(cleans[key], left[cleans[key]], right[others[key]], key) for key in keys]
        if any(pair.speaker is None for pair in pairs):
            pairs = [pair._replace(speaker=None) for pair in pairs]
        return Paired(sorted(pairs), [*notes, *told])
    if problem is None and (found := _guessed(left, right)) is not None:
        return Paired(found.pairs, [*notes, *found.notes])
    raise problem or _unpaired(clean, other, left, right)


def _equal(left: Set[str], right: Set[str]) -> tuple[Set[str], list[str]]:
    """Places that are equal in both folders, with a note on ignored ones: all, or only those outside
    subfolders."""
    if left == right:
        return left, []
    top = [{key for key in files if "/" not in key} for files in (left, right)]
    if top[0] == top[1]:
        deep = len(left) + len(right) - len(top[0]) - len(top[1])
        return top[0], [f"{plural(deep, 'file')} in subfolders are ignored because they do not pair"]
    return set(), []


def _named(name: str, clean: Path, other: Path, place: str) -> FilePair:
    """A pair of equal names; its folder is its speaker, unless the folder's name is an SNR."""
    folder = place.rpartition("/")[0].rpartition("/")[2]
    speaker = folder if folder and not re.search(r"(?i)^-?\d+\s*db$|snr", folder) else None
    return FilePair(name, clean, other, speaker)


def _place(path: Path, folder: Path) -> str:
    return equal_form(path.relative_to(folder).with_suffix("").as_posix())


def _key(pattern: re.Pattern[str], name: str) -> object:
    """The match of a pattern in a name; digits become numbers, so 7 equals 007."""
    match = pattern.search(equal_form(name))
    if match is None:
        return None
    return tuple(int(part) if part.isdecimal() else part for part in match.groups() or (match[0],) if part)


def _by_pattern(left: Files, right: Files, pattern: re.Pattern[str]) -> Paired | None:
    """Pair files by a pattern; None if it matches no name.

    Raises:
        FilesError: it matches only some names, or a noisy file has no clean one or several.
    """
    keys = [{name: _key(pattern, name) for name in files} for files in (left, right)]
    if not any(key is not None for found in keys for key in found.values()):
        return None
    count = Counter(keys[0].values())
    faults = [
        Fault("without the pattern", f"{files[name]} does not match {pattern.pattern!r}")
        for files, found in zip((left, right), keys, strict=True)
        for name, key in found.items()
        if key is None
    ]
    faults += [
        Fault("clean files alike", f"{left[name]} has the same {pattern.pattern!r} as another clean file")
        for name, key in keys[0].items()
        if key is not None and count[key] > 1
    ]
    faults += [
        Fault("without a partner", f"{right[name]} has no clean file with the same {pattern.pattern!r}")
        for name, key in keys[1].items()
        if key is not None and not count[key]
    ]
    if faults:
        raise FilesError(
            f"the pattern {pattern.pattern!r} does not pair {len(left):,} clean and {len(right):,} noisy "
            "files",
            faults,
            "Its group must match in every name, and must be equal only for the two files of a pair.",
        )
    names = {key: name for name, key in keys[0].items()}
    return _joined(left, right, {name: names[key] for name, key in keys[1].items()}, pattern.pattern)


def _guessed(left: Files, right: Files) -> Paired | None:
    """Pairs by the pattern of a known corpus, by names without words for the kind of a file, or by clean
    names at the start or end of noisy ones; None unless every file has a partner."""
    for pattern in PATTERNS:
        with suppress(FilesError):
            found = _by_pattern(left, right, re.compile(pattern))
            if found is not None and len({pair.clean for pair in found.pairs}) == len(left):
                return found
    bare = {_bare(name): name for name in left}
    by_words = {name: bare.get(_bare(name), "") for name in right} if len(bare) == len(left) else {}
    for partners, shown in (
        (by_words, "ignoring words such as clean and noisy"),
        (_affixed(left, right), "clean names within noisy names"),
    ):
        if set(partners.values()) == set(left):
            return _joined(left, right, partners, shown)
    return None


def _bare(name: str) -> str:
    return re.sub(r"[_.\- ]+", "_", re.sub(WORDS, "", equal_form(name))).strip("_")


def _affixed(left: Files, right: Files) -> dict[str, str]:
    """The clean name at the start or end of each noisy one; if some names are equal, that of its file."""
    if left.keys() & right.keys():
        stems = {path.stem: name for name, path in left.items()}
        return {name: stems.get(path.stem, "") for name, path in right.items()}
    plain = {equal_form(name): name for name in left}
    partners = {}
    for name in right:
        form = equal_form(name)
        cuts = [match.start() for match in re.finditer(r"[_.\- ]", form)]
        ends = [form[:cut] for cut in reversed(cuts)] + [form[cut + 1 :] for cut in cuts]
        partners[name] = next((plain[end] for end in ends if end in plain), "")
    return partners


def _joined(left: Files, right: Files, partners: Mapping[str, str], shown: str) -> Paired:
    """Pairs from each noisy name to its clean one, named after the noisy file."""
    pairs = [_told(FilePair(name, left[clean], right[name])) for name, clean in sorted(partners.items())]
    notes = [f"paired by {shown}: {pairs[0].clean.name} with {pairs[0].other.name}"]
    if shared := len(pairs) - len(set(partners.values())):
        notes.append(f"{plural(len(pairs), 'noisy file')} share {plural(len(pairs) - shared, 'clean file')}")
    if unused := sorted(left.keys() - set(partners.values())):
        notes.append(
            f"{plural(len(unused), 'clean file')} without a noisy one, left out: {listed(unused, 3)}"
        )
    return Paired(pairs, notes)


def _told(pair: FilePair) -> FilePair:
    """A pair with the speaker and the SNR in its noisy name."""
    snr, speaker = SNR.search(pair.name), SPEAKER.search(pair.name)
    return pair._replace(snr=snr and float(snr[1]), speaker=speaker and speaker[0].replace("_", ""))


def _unpaired(clean: Path, other: Path, left: Files, right: Files) -> FilesError:
    keys = [{equal_form(name): name for name in files} for files in (left, right)]
    faults = [
        Fault("without a partner", f"{files[names[key]].name} has no partner in {place}")
        for files, names, others, place in ((left, keys[0], keys[1], other), (right, keys[1], keys[0], clean))
        for key in names.keys() - others.keys()
    ]
    return FilesError(
        f"{len(left)} files in {clean} and {len(right)} in {other} do not pair by name",
        sorted(faults),
        ADVICE,
    )


def with_patterns(pairs: Sequence[FilePair], patterns: Mapping[str, str | None]) -> list[FilePair]:
    """Pairs with the `speaker`, `noise` and `snr` that patterns find in the noisy names."""
    found = []
    for pair in pairs:
        told: dict[str, Any] = {}
        for field, pattern in patterns.items():
            if pattern and (match := re.search(pattern, pair.name)):
                text = match[1] if match.re.groups else match[0]
                told[field] = float(text) if field == "snr" else text
        found.append(pair._replace(**told))
    return found
