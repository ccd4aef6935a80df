"""Pairs from a list: CSV and TSV (LibriMix, SpeechBrain), JSON (SpeechBrain, denoiser), scp, names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablate.models.errors import InputError, listed, plural

from ..audio import Fault, FilePair, FilesError, is_audio

ENDINGS = frozenset({".csv", ".tsv", ".txt", ".json", ".scp", ".lst"})
NOISY = ("noisy", "mixture", "mix", "degraded", "input", "wav")
CLEAN = ("clean", "source_1", "source1", "s1", "spk1", "target", "reference", "ref", "label", "speech")
_FIELDS = {
    "name": ("id", "utt", "utterance", "mixture_id", "name", "key"),
    "speaker": ("speaker", "spk", "speaker_id", "spk_id", "spkid"),
    "noise": ("noise_type", "noise_name", "noise"),
    "snr": ("snr", "snr_db", "snr_level"),
    "split": ("split", "subset", "set", "partition"),
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+")
_PLACEHOLDER = re.compile(r"^(?:\{\w+\}|\$\{?\w+\}?)/*")
"""`{data_root}/` or `$data_root/` before a path, as SpeechBrain writes it."""


class Listed(NamedTuple):
    """Pairs, the split that the list gives each, and notes on guesses."""

    pairs: list[FilePair]
    splits: list[str | None]
    notes: list[str]


def is_list(path: Path) -> bool:
    """Whether a path is a list, or a folder with the two lists of denoiser's egs or of Kaldi."""
    return path.suffix.lower() in ENDINGS if path.is_file() else bool(_two_lists(path))


def read_list(path: Path, root: Path, folders: Sequence[Path] = ()) -> Listed:
    """The pairs in a list.

    Args:
        path: the list, or a folder with one list of clean and one of noisy files.
        root: of the corpus; relative and missing paths are searched there.
        folders: of the clean and the noisy files, for a list of names only.

    Raises:
        InputError: the list cannot be read, or its columns are ambiguous.
        FilesError: listed files are missing.
    """
    if path.is_dir():
        lists = _two_lists(path)
        if lists is None:
            raise InputError(f"{path} has no pair of lists such as clean.json and noisy.json, or .scp files")
        clean, noisy = (dict(_scp(place)) for place in lists)
        return _of_two(path, clean, noisy, root)
    if path.suffix.lower() == ".scp":
        beside = _two_lists(path.parent)
        if not beside:
            raise InputError(f"{path} has no list of clean files next to it, such as spk1.scp")
        return read_list(path.parent, root)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(json.loads(text)) if path.suffix.lower() == ".json" else _table_rows(text)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a list of pairs: {error}") from None
    if not rows:
        raise InputError(f"{path} lists no files")
    if len(folders) == 2 and not any(
        is_audio(Path(str(value))) and "/" in str(value) for value in rows[0].values()
    ):
        return _of_names(path, rows, folders)
    return _resolved(path, rows, _columns(path, rows), root)


def _two_lists(folder: Path) -> tuple[Path, Path] | None:
    """The lists of the clean and the noisy files in a folder, or in its folders `clean` and `noisy`."""
    for clean, noisy in (
        ("clean.json", "noisy.json"),
        ("clean.scp", "noisy.scp"),
        ("spk1.scp", "wav.scp"),
        ("clean/wav.scp", "noisy/wav.scp"),
    ):
        if (folder / clean).is_file() and (folder / noisy).is_file():
            return folder / clean, folder / noisy
    return None


def _scp(path: Path) -> Iterator[tuple[str, str]]:
    """Name and path of each file in a list of one kind."""
    if path.suffix == ".json":  # denoiser: [[path, samples], ...]
        for row in json.loads(path.read_text(encoding="utf-8")):
            place = row[0] if isinstance(row, list) else row
            yield Path(place).stem, place
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, place = line.strip().partition(" ")
        if place.rstrip().endswith("|"):
            raise InputError(f"{path}: {name} is a command ({place!r}), which is not executed; list files")
        if name:
            yield name, place.strip()


def _of_two(path: Path, clean: Mapping[str, str], noisy: Mapping[str, str], root: Path) -> Listed:
    alone = sorted(clean.keys() ^ noisy.keys())
    if alone and len(clean) == len(noisy):  # denoiser pairs by order
        noisy = dict(zip(clean, noisy.values(), strict=True))
    elif alone:
        raise InputError(f"{path}: {plural(len(alone), 'name')} in only one of two lists: {listed(alone, 3)}")
    speakers = path / "utt2spk"
    spoken = dict(_scp(speakers)) if speakers.is_file() else {}
    rows = [
        {"id": name, "clean": clean[name], "noisy": noisy[name], "speaker": spoken.get(name)}
        for name in clean
    ]
    found = {"clean": "clean", "noisy": "noisy", "speaker": "speaker", "name": "id"}
    return _resolved(path, rows, found, root)


def _of_names(path: Path, rows: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> Listed:
    """Only names, such as `p226_001|text`, of files in two folders."""
    from .pairing import pair_folders

    clean, noisy = folders
    pairs, notes = pair_folders(clean, noisy)
    named = {str(value).strip().removesuffix(".wav") for row in rows for value in [next(iter(row.values()))]}
    known = {pair.name for pair in pairs}
    if missing := sorted(named - known):
        raise FilesError(
            f"{path} names files that are not in {folders[0]}",
            [Fault("missing", f"{name} is missing") for name in missing],
            "Use the folders for which the list was made.",
        )
    kept = [pair for pair in pairs if pair.name in named]
    return Listed(
        kept, [None] * len(kept), [*notes, f"{plural(len(kept), 'pair')} by the names in {path.name}"]
    )


def _json_rows(content: Any) -> list[dict[Any, Any]]:
    if isinstance(content, dict):
        return [{"id": key, **row} for key, row in content.items()]
    return [row if isinstance(row, dict) else dict(enumerate(row)) for row in content]


def _table_rows(text: str) -> list[dict[Any, Any]]:
    """Rows by column; without a header, columns are numbered."""
    sample = "\n".join(text.splitlines()[:20])
    separator = next((sign for sign in "\t|,;" if sign in sample), " ")
    rows = [
        row for row in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True) if any(row)
    ]
    has_audio = [any(is_audio(Path(value.strip())) for value in row) for row in rows[:2]]
    if has_audio == [False, True] and len(rows[0]) > 1:
        return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    return [dict(enumerate(row)) for row in rows]


def _columns(path: Path, rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """The column of each kind of value; InputError if it is ambiguous."""
    first = rows[0]
    audio = [key for key, value in first.items() if isinstance(value, str) and is_audio(Path(value.strip()))]
    found: dict[str, Any] = {}
    for kind, words in (("clean", CLEAN), ("noisy", NOISY)):
        left = [column for column in audio if column not in found.values()]
        by_header = (
            c
            for word in words
            for c in left
            if word in re.split(r"[^a-z0-9]+", str(c).lower()) or str(c).lower().startswith(word)
        )
        by_value = (c for word in words[:3] for c in left if re.search(rf"(?i)\b{word}|_{word}", first[c]))
        column = next(by_header, None)
        found[kind] = next(by_value, None) if column is None else column
    known = [column for column in found.values() if column is not None]
    if len(known) == 1 and len(audio) == 2:
        (other,) = (column for column in audio if column != known[0])
        found = {kind: other if column is None else column for kind, column in found.items()}
    if None in found.values():
        raise InputError(
            f"{path}: it is not clear which columns are the clean and the noisy files; its columns are "
            f"{listed(list(first))}; name two of them clean and noisy"
        )
    lower = {str(column).lower(): column for column in first if column not in audio}
    for field, names in _FIELDS.items():
        if named := next((lower[name] for name in names if name in lower), None):
            found[field] = named
    return found


def _resolved(
    path: Path, rows: Sequence[Mapping[Any, Any]], columns: Mapping[str, Any], root: Path
) -> Listed:
    finder = _Finder(path.parent if path.is_file() else path, root)
    pairs, splits, faults = [], [], []
    for row in rows:
        named = [str(row.get(columns[kind]) or "").strip() for kind in ("clean", "noisy")]
        clean, noisy = map(finder, named)
        if clean is None or noisy is None:
            lost = [text for text, place in zip(named, (clean, noisy), strict=True) if place is None]
            faults += [Fault("missing", f"{text} does not exist, also not in {root}") for text in lost]
            continue
        told = {field: row.get(columns[field]) for field in ("speaker", "noise", "snr") if field in columns}
        known = {field: str(value) for field, value in told.items() if value not in (None, "")}
        spoken = _LIBRISPEECH.match(noisy.stem)
        speaker = known.get("speaker") or (spoken[1] if spoken else None)
        snr = float(known["snr"]) if _NUMBER.fullmatch(known.get("snr", "")) else None
        pairs.append(FilePair(noisy.stem, clean, noisy, speaker, known.get("noise"), snr))
        splits.append(str(row[columns["split"]]).lower() if "split" in columns else None)
    if faults:
        raise FilesError(
            f"{path} lists files that are missing", faults, f"Is {root} the folder it was made for?"
        )
    if len({pair.name for pair in pairs}) < len(pairs):
        if "name" not in columns or len({row[columns["name"]] for row in rows}) < len(rows):
            raise InputError(f"{path}: several noisy files have the same name; add a column id")
        pairs = [pair._replace(name=str(row[columns["name"]])) for pair, row in zip(pairs, rows, strict=True)]
    told_columns = ", ".join(f"{kind}: {column}" for kind, column in columns.items() if kind != str(column))
    notes = [
        f"{plural(len(pairs), 'pair')} listed in {path.name}" + (f" ({told_columns})" if told_columns else "")
    ]
    if finder.moved:
        notes.append(f"{path.name} was made elsewhere: {finder.moved[0]} is read from {finder.moved[1]}")
    ordered = sorted(zip(pairs, splits, strict=True), key=lambda item: item[0].name)
    return Listed([pair for pair, _ in ordered], [split for _, split in ordered], notes)


class _Finder:
    """Finds listed files: as written, from the list's folder, below the corpus, or by the end of a path that
    was written on another machine."""

    def __init__(self, beside: Path, root: Path) -> None:
        self.places = (beside, root)
        self.moved: tuple[str, Path] | None = None
        self._cut: int | None = None

    def __call__(self, text: str) -> Path | None:
        if not text:
            return None
        written = Path(_PLACEHOLDER.sub("", text))
        for place in (Path(), *self.places):
            if (place / written).is_file() and (written.is_absolute() or place != Path()):
                return place / written
        parts = written.parts
        for cut in dict.fromkeys([self._cut or 1, *range(1, len(parts))]):
            for place in self.places:
                found = place.joinpath(*parts[cut:])
                if parts[cut:] and found.is_file():
                    self._cut, self.moved = cut, self.moved or (text, found)
                    return found
        return None
