"""Scores folders of enhanced speech, e.g. `exp/{core}-{direction}/seed{seed}/enhanced`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile

from ablate.models.errors import InputError, listed
from ablate.training.audio import SAMPLE_RATE, FilePair
from ablate.training.files import append_lines, read_lines
from ablate.training.metrics import MetricPool, Scored
from ablate.training.metrics.files import check_lengths, pair_paths, read_pair
from ablate.training.metrics.passport import KEY, passports
from ablate.training.metrics.registry import usual

from .columns import NOTES
from .patterns import FoundPath


def measured(
    found: Sequence[FoundPath],
    clean: Path,
    cache: Path,
    pool: MetricPool,
    metrics: Iterable[str] = (),
    progress: Any = iter,
    noisy: Path | None = None,
    pattern: str | None = None,
) -> pd.DataFrame:
    """Score folders of enhanced speech; results that are in the cache are not computed again.

    Args:
        clean: folder of the references; files are paired by name.
        cache: folder for results, by content and set of metrics.
        metrics: further metrics besides the default ones.
        progress: wraps the list of all pairs, as `rich.progress.track` does.
        noisy: folder of the noisy files, which are scored too.
        pattern: regular expression whose group is equal within a pair, if names differ.

    Returns:
        A row per folder and file: the fields, `utterance`, the metrics, those of the noisy file (`noisy_...`)
        if there is one, `broken` and `error`.

    Raises:
        InputError: files cannot be paired, or folders contain different files.
    """
    names = tuple(dict.fromkeys((*usual(), *metrics)))
    unprocessed = [] if noisy is None else [FoundPath(noisy, {})]
    places = [*found, *unprocessed]
    pairs = [(place, pair) for place in places for pair in pair_paths(clean, place.path, pattern).pairs]
    _check_same_files(places, pairs)
    rates, notes = _rates([pair for _, pair in pairs])
    rows = []
    of_noisy: dict[str, dict[str, float | None]] = {}
    for place, pair, scored in _scored(progress(pairs), cache / "measured.jsonl", names, pool):
        if place in unprocessed:
            of_noisy[pair.name] = {f"noisy_{name}": value for name, value in scored.with_floors().items()}
            continue
        known_of = {"speaker": pair.speaker, "noise": pair.noise, "snr": pair.snr}
        row: dict[str, Any] = {"utterance": pair.name, **known_of, **scored.with_floors()}
        rows.append(
            {**place.fields, **row, "error": scored.reasons(), "broken": ", ".join(scored.broken) or None}
        )
    frame = pd.DataFrame([row | of_noisy.get(row["utterance"], {}) for row in rows])
    frame.attrs |= {KEY: passports(names, rates), NOTES: notes}
    return frame


def _rates(pairs: Sequence[FilePair]) -> tuple[set[int], list[str]]:
    """The sample rates of all files in Hz, and notes on them.

    Raises:
        InputError: a file cannot be read, or the two of a pair differ in length.
    """
    rates: dict[int, list[Path]] = {}
    for pair in pairs:
        seconds = []
        for path in (pair.clean, pair.other):
            try:
                info = soundfile.info(path)
            except soundfile.LibsndfileError as error:
                raise InputError(f"{path} cannot be read: {error.error_string}") from None
            rates.setdefault(info.samplerate, []).append(path)
            seconds.append(info.duration)
        check_lengths(pair, seconds)
    low = [f"{path} ({rate} Hz)" for rate, paths in rates.items() if rate < SAMPLE_RATE for path in paths]
    told = f"Below {SAMPLE_RATE} Hz, so that PESQ-WB and the composite do not compare with others: "
    return {*rates}, [f"{told}{listed(list(dict.fromkeys(low)), 3)}; take --metric pesq_nb."] if low else []


def _check_same_files(found: Sequence[FoundPath], pairs: Sequence[tuple[FoundPath, FilePair]]) -> None:
    """Raise InputError if the means of two folders would be over different files."""
    of: dict[Path, set[str]] = {place.path: set() for place in found}
    for place, pair in pairs:
        of[place.path].add(pair.name)
    every = set.union(*of.values())
    for path, files in of.items():
        if lacking := sorted(every - files):
            raise InputError(
                f"{path} lacks {listed(lacking)}, which other folders have, so the means would cover "
                "different test files; add these files, or remove them everywhere"
            )


def _scored(
    pairs: Iterable[tuple[FoundPath, FilePair]], path: Path, names: tuple[str, ...], pool: MetricPool
) -> Iterator[tuple[FoundPath, FilePair, Scored]]:
    """Each pair with its scores, in order.

    Results are stored by content in a JSON Lines file, so that interrupted scoring can be resumed.

    Raises:
        InputError: a file cannot be read.
    """
    what = json.dumps(passports(names), sort_keys=True).encode()
    known = {
        line["key"]: Scored(line["values"], line["errors"], tuple(line["broken"]))
        for line in read_lines(path)
    }

    def submitted() -> Iterator[tuple[tuple[FoundPath, FilePair, str], Future[Scored]]]:
        for place, pair in pairs:
            content = [sha256(file.read_bytes()).digest() for file in (pair.clean, pair.other)]
            key = sha256(b"".join([what, *content])).hexdigest()
            future: Future[Scored] = Future()
            if key in known:
                future.set_result(known[key])
            else:
                future = pool.submit(*read_pair(pair)[:2], names)
            yield (place, pair, key), future

    path.parent.mkdir(parents=True, exist_ok=True)
    for (place, pair, key), scored in pool.in_order(submitted()):
        if key not in known:
            known[key] = scored
            append_lines(path, [{"key": key, **scored._asdict()}])
        yield place, pair, scored
