"""Scores of folders of enhanced speech, measured here: `exp/{core}-{direction}/seed{seed}/enhanced`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile

from ablate.models.errors import InputError, listed
from ablate.training.audio import FilePair
from ablate.training.files import append_lines, read_lines
from ablate.training.metrics import MetricPool, Scored
from ablate.training.metrics.files import pair_paths, read_pair
from ablate.training.metrics.passport import KEY, passports
from ablate.training.metrics.registry import usual

from .patterns import FoundPath


def measured(
    found: Sequence[FoundPath],
    clean: Path,
    cache: Path,
    pool: MetricPool,
    metrics: Iterable[str] = (),
    progress: Any = iter,
) -> pd.DataFrame:
    """Measure the folders of enhanced speech, what was measured before taken from the cache.

    Args:
        clean: the folder of the references, which every folder's files are paired with by name.
        cache: a folder; a line for each pair of contents and set of metrics.
        metrics: beside the usual ones.
        progress: wraps the list of all pairs, as `rich.progress.track` does.

    Returns:
        A row per folder and file: the fields, `utterance`, the metrics, `broken` and `error`.

    Raises:
        InputError: files do not pair, or folders hold different files.
    """
    names = tuple(dict.fromkeys((*usual(), *metrics)))
    pairs = [(place, pair) for place in found for pair in pair_paths(clean, place.path).pairs]
    _check_same_files(found, pairs)
    known = MeasuredFiles(cache / "measured.jsonl", names)
    rows = []
    for place, pair, scored in known.of(progress(pairs), pool):
        known_of = {"speaker": pair.speaker, "noise": pair.noise, "snr": pair.snr}
        row = {"utterance": pair.name, **known_of, **scored.with_floors()}
        rows.append(
            {**place.fields, **row, "error": scored.reasons(), "broken": ", ".join(scored.broken) or None}
        )
    frame = pd.DataFrame(rows)
    rates = {soundfile.info(path).samplerate for _, pair in pairs for path in (pair.clean, pair.other)}
    frame.attrs[KEY] = passports(names, rates)
    return frame


def _check_same_files(found: Sequence[FoundPath], pairs: Sequence[tuple[FoundPath, FilePair]]) -> None:
    """Raises InputError where the means of two folders would be over different files."""
    of: dict[Path, set[str]] = {place.path: set() for place in found}
    for place, pair in pairs:
        of[place.path].add(pair.name)
    every = set.union(*of.values())
    for path, files in of.items():
        if lacking := sorted(every - files):
            raise InputError(
                f"{path} lacks {listed(lacking)}, which other folders have: the means would be over "
                "different test files; add them, or remove them everywhere"
            )


class MeasuredFiles:
    """What was measured, by content, so that measuring can be stopped and taken up again.

    Args:
        path: a file of JSON lines.
        metrics: that are measured.
    """

    def __init__(self, path: Path, metrics: tuple[str, ...]) -> None:
        self._path = path
        self._metrics = metrics
        self._what = json.dumps(passports(metrics), sort_keys=True)
        self._known: dict[str, Scored] = {}
        for line in read_lines(path):
            self._known[line["key"]] = Scored(line["values"], line["errors"], tuple(line["broken"]))

    def of(
        self, pairs: Iterable[tuple[FoundPath, FilePair]], pool: MetricPool
    ) -> Iterator[tuple[FoundPath, FilePair, Scored]]:
        """Each pair with its scores, in order; a few are measured at a time.

        Raises:
            InputError: a file cannot be read.
        """
        waiting: list[tuple[FoundPath, FilePair, str, Any]] = []
        for place, pair in pairs:
            key = self._key(pair)
            found = self._known.get(key)
            waiting.append((place, pair, key, found or pool.submit(*read_pair(pair)[:2], self._metrics)))
            while len(waiting) > 4 * max(pool.processes, 1):
                yield self._settled(*waiting.pop(0))
        for item in waiting:
            yield self._settled(*item)

    def _key(self, pair: FilePair) -> str:
        digest = sha256(self._what.encode())
        for path in (pair.clean, pair.other):
            digest.update(sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _settled(
        self, place: FoundPath, pair: FilePair, key: str, scored: Any
    ) -> tuple[FoundPath, FilePair, Scored]:
        if not isinstance(scored, Scored):
            scored = scored.result()
            self._known[key] = scored
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._path, [{"key": key, **scored._asdict()}])
        return place, pair, scored
