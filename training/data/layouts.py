"""Where the splits of a corpus are: in its folders, in its lists, or as its `corpus.yaml` says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ablate.models.config import Frozen
from ablate.models.errors import InputError, explain, listed, plural

from ..audio import is_audio
from .lists import ENDINGS, is_list, read_list
from .pairing import Paired, check_pattern, pair_folders, with_patterns

SPLITS = {
    "train": frozenset({"train", "tr", "training", "trainset"}),
    "validation": frozenset({"valid", "validation", "val", "dev", "cv", "devset", "validset"}),
    "test": frozenset({"test", "tt", "testing", "testset", "eval", "evaluation"}),
}
KINDS = {
    "clean": frozenset({"clean", "s1", "spk1", "target", "reference", "ref"}),
    "noisy": frozenset({"noisy", "mixture", "mix", "degraded", "input"}),
}
DEPTH = 5
MOST = 5_000
"""The most folders that are searched."""
DESCRIPTION = "corpus.yaml"
LAYOUTS = (
    "train/clean, train/noisy, test/clean, test/noisy; or clean_trainset_28spk_wav, "
    "noisy_trainset_28spk_wav, clean_testset_wav, noisy_testset_wav"
)


class Files(Frozen):
    """The files of a split: two folders, a list, or two folders and a list of names in them."""

    clean: str | None = None
    noisy: str | None = None
    list_: str | None = Field(default=None, alias="list")
    pairs: str | None = None


class Description(Frozen):
    """The content of a `corpus.yaml`. Paths are relative to the corpus' folder.

    Attributes:
        data: the folder of the corpus, if the file is beside it.
        pairs: a pattern whose group is equal in the two names of a pair.
        speakers, noises, snr: patterns searched in the noisy names.
        train, validation, test: the files of a split; a text is the path of a list.
    """

    data: str | None = None
    pairs: str | None = None
    speakers: str | None = None
    noises: str | None = None
    snr: str | None = None
    train: Files | str | None = None
    validation: Files | str | None = None
    test: Files | str | None = None


@dataclass(frozen=True)
class Source:
    """Where the pairs of a split come from.

    `split` is its name in a list of several splits (None: the whole list); `note` says how it was found.
    """

    clean: Path | None = None
    noisy: Path | None = None
    listed: Path | None = None
    split: str | None = None
    pattern: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class CorpusLayout:
    """The splits in a folder; `loose` are clean and noisy folders whose names give no split."""

    root: Path
    sources: Mapping[str, Source]
    loose: Source | None = None
    patterns: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, pairs: str | None = None) -> CorpusLayout:
        """Search a folder; `pairs` (a pattern or a list) overrides everything except a `corpus.yaml`.

        Raises:
            InputError: its `corpus.yaml` cannot be used, or `pairs` is neither a list nor a pattern.
        """
        if (told := _description(root)) is not None:
            return _described(root, *told)
        lists = None if pairs is None else _list_named(pairs, root)
        if lists is None and pairs is not None:
            check_pattern(pairs)
        found, loose = _folders(root, pairs if lists is None else None)
        if lists is not None:
            found = found | _split_lists(lists, root, loose)
        elif "train" not in found:
            found |= {k: v for k, v in _lists_within(root, loose).items() if k not in found}
        return cls(root, found, loose)

    def read(self, source: Source) -> Paired:
        """The pairs of a source, with notes; raises as `pair_folders` and `read_list`."""
        notes = [source.note] if source.note else []
        if source.listed is not None:
            folders = [folder for folder in (source.clean, source.noisy) if folder is not None]
            told = read_list(source.listed, self.root, folders)
            notes += told.notes
            wanted = source.split and SPLITS[source.split]
            pairs = [
                p for p, split in zip(told.pairs, told.splits, strict=True) if not wanted or split in wanted
            ]
        else:
            assert source.clean is not None
            assert source.noisy is not None
            pairs, said = pair_folders(source.clean, source.noisy, source.pattern)
            notes += said
        return Paired(with_patterns(pairs, self.patterns) if self.patterns else pairs, notes)

    def there(self) -> str:
        """The content of the folder and the nearest layout, for a message."""
        entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        folders = [f"{entry.name}/{_within(entry)}" for entry in entries if _is_folder(entry)]
        audio = sum(is_audio(Path(entry.name)) for entry in entries)
        lists = [entry.name for entry in entries if Path(entry.name).suffix in ENDINGS]
        parts = [*([listed(folders)] if folders else []), *([listed(lists, 3)] if lists else [])]
        parts += [plural(audio, "audio file")] if audio else []
        held = f"It holds {', '.join(parts) or 'nothing'}. "
        if _told(_words(self.root.name), SPLITS) and _folders(self.root.parent, None)[0]:
            return f"{held}It is one split of a corpus; give {self.root.parent} instead"
        if self.loose is not None and self.loose.clean is not None:
            return (
                f"{held}The clean and noisy folders are not in train/ and test/ folders; move them there, "
                f"give the folder as --test-data, or name the train and test files in {DESCRIPTION}"
            )
        return f"{held}A corpus has {LAYOUTS}; or a {DESCRIPTION} that names its files (docs/data.md)"


def _description(root: Path) -> tuple[Path, Description] | None:
    """The `corpus.yaml` in a folder, `NAME.yaml` beside it, or the `corpus.yaml` beside it that names it."""
    for path in (root / DESCRIPTION, root.with_name(f"{root.name}.yaml"), root.parent / DESCRIPTION):
        if not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            told = Description.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error)}") from None
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        if path.parent != root.parent or path.name != DESCRIPTION:
            return path, told
        if told.data is not None and (path.parent / told.data).resolve() == root.resolve():
            return path, told
    return None


def _described(root: Path, path: Path, told: Description) -> CorpusLayout:
    for name in ("pairs", "speakers", "noises", "snr"):
        if (pattern := getattr(told, name)) is not None:
            check_pattern(pattern)
    base = root if told.data is None else (path.parent / told.data).resolve()
    found, loose = _folders(base, told.pairs)
    given: dict[str, Source] = {}
    for split in SPLITS:
        files = getattr(told, split)
        if files is None:
            continue
        if isinstance(files, str):
            files = Files(list=files)
        if files.list_ is None and (files.clean is None or files.noisy is None):
            raise InputError(f"{path}: {split} needs clean and noisy, or a list")
        clean, noisy, rows = (text and base / text for text in (files.clean, files.noisy, files.list_))
        how, note = files.pairs or told.pairs, f"{split}: {path.name}"
        given[split] = Source(clean or None, noisy or None, rows or None, None, how, note)
    patterns = {"speaker": told.speakers, "noise": told.noises, "snr": told.snr}
    return CorpusLayout(base, given or found, loose, patterns if any(patterns.values()) else {})


def _words(name: str) -> list[str]:
    """The words of a folder's name: `CleanSpeech_training` has clean, speech and training."""
    return [word.lower() for word in re.findall(r"\d+[a-z]*|[A-Z]?[a-z]+\d*|[A-Z]+(?![a-z])\d*", name)]


def _told(words: list[str], known: Mapping[str, frozenset[str]]) -> str | None:
    found = [name for name, its in known.items() if its & set(words)]
    return found[0] if len(found) == 1 else None


def _folders(root: Path, pattern: str | None) -> tuple[dict[str, Source], Source | None]:
    """The clean and noisy folders below a root by split, and those without a split."""
    groups: dict[tuple[str | None, str], dict[str, Path]] = {}
    for split, kind, key, folder in _kinds(root):
        groups.setdefault((split, key), {}).setdefault(kind, folder)
    found: dict[str | None, Source] = {}
    for split in (*SPLITS, None):
        keys = sorted(
            (key for its, key in groups if its == split), key=lambda key: _rank(key, groups[split, key])
        )
        if not keys:
            continue
        chosen, *others = keys
        folders = groups[split, chosen]
        clean, noisy = (folders.get(kind) or _partner(folders, kind) for kind in ("clean", "noisy"))
        others = [key for key in others if len(groups[split, key]) == 2]
        note = None
        if others or chosen.count("/") > 1:
            at = folders["clean" if "clean" in folders else "noisy"]
            note = f"{at.relative_to(root).as_posix()} is used for {split or 'test'}"
        if others:
            names = [min(groups[split, key].values()).relative_to(root).as_posix() for key in others]
            note = f"{note}; {listed(names, 3)} also exists (name the folders in {DESCRIPTION} to choose)"
        found[split] = Source(clean, noisy, pattern=pattern, note=note)
    loose = found.pop(None, None)
    return {str(split): source for split, source in found.items()}, loose


def _kinds(root: Path) -> Iterator[tuple[str | None, str, str, Path]]:
    """Split, kind, rest of the path, and path of each folder of clean or of noisy files."""
    waiting: list[tuple[Path, str | None, str | None, str]] = [(root, None, None, "")]
    looked = 0
    while waiting and looked < MOST:
        folder, split, kind, key = waiting.pop(0)
        looked += 1
        further = [
            sub
            for sub in sorted(Path(entry.path) for entry in os.scandir(folder) if _is_folder(entry))
            if kind is None or (split is None and _told(_words(sub.name), SPLITS))
        ]
        if kind is not None and not further:
            yield split, kind, key.strip("/"), folder
            continue
        if key.count("/") >= DEPTH:
            continue
        for sub in further:
            words = _words(sub.name)
            own = _told(words, KINDS)
            if (own is None and all(its & set(words) for its in KINDS.values())) or "both" in words:
                continue
            rest = [word for word in words if word not in {"single"}.union(*KINDS.values())]
            name = "_".join(["*"] * (own is not None) + rest)
            waiting.append((sub, _told(words, SPLITS) or split, own or kind, f"{key}/{name}"))


def _within(folder: os.DirEntry[str]) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    return f" ({listed(names, 3) or 'empty'})"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _rank(key: str, folders: Mapping[str, Path]) -> tuple[Any, ...]:
    """Complete groups first, then `train/*`, then the fewest folders, then the usual 28 speakers."""
    plain = key in {f"{split}/*" for split in SPLITS}
    return len(folders) < 2, not plain, key.count("/"), "28spk" not in key, key


def _partner(folders: Mapping[str, Path], kind: str) -> Path:
    """Where the missing folder of a pair should be."""
    (other, folder), *_ = folders.items()
    name = re.sub(other, kind, folder.name, flags=re.IGNORECASE)
    return folder.with_name(name if name != folder.name else kind)


def _list_named(pairs: str, root: Path) -> Path | None:
    """The list that `--pairs` names, or None if it is a pattern."""
    for path in (Path(pairs).expanduser().absolute(), root / pairs):
        if path.exists() and is_list(path):
            return path
    if Path(pairs).suffix.lower() in ENDINGS and not re.search(r"[\\()\[\]]", pairs):
        raise InputError(f"--pairs {pairs}: no such list, here or in {root}")
    return None


def _split_lists(path: Path, root: Path, loose: Source | None) -> dict[str, Source]:
    """The sources of a list: by its split column, or together with the lists of other splits beside it."""
    folders = (loose.clean, loose.noisy) if loose is not None else (None, None)
    if path.is_file() and path.suffix.lower() != ".scp":
        splits = read_list(path, root, [folder for folder in folders if folder]).splits
        if any(splits):
            known = {name for name, words in SPLITS.items() if words & set(splits)}
            return {name: Source(*folders, listed=path, split=name) for name in known}
    by_name = _told(_words(path.stem), SPLITS)
    own = by_name or _told(_words(path.parent.name), SPLITS)
    found = {own or "train": Source(*folders, listed=path)}
    place = path if by_name else path.parent
    for sibling in sorted(place.parent.iterdir()) if own else ():
        other = _told(_words(sibling.stem), SPLITS)
        its = sibling if by_name else sibling / path.name
        if other and other not in found and sibling.suffix == place.suffix and is_list(its):
            found[other] = Source(*folders, listed=its)
    return found


def _lists_within(root: Path, loose: Source | None) -> dict[str, Source]:
    """The lists of pairs in a folder whose names give their splits."""
    near = [root, *(sub for depth in ("*/", "*/*/", "*/*/*/") for sub in sorted(root.glob(depth)))][:MOST]
    for folder in near:
        for path in [folder, *sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)]:
            if not is_list(path) or _told(_words(path.stem), SPLITS) != "train":
                continue
            try:
                return _split_lists(path, root, loose)
            except InputError:
                continue
    return {}
