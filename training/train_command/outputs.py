"""A command's outputs below `{out}`: the enhanced files of its test, or a table of their scores."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablate.models.errors import InputError, listed

from .. import score_table
from ..audio import audio_files, is_audio, read_mono, resample
from ..config import Evaluation
from ..data.corpus import Pair
from ..failures import DivergedError
from ..files import newest
from ..metrics import MetricPool
from ..metrics.files import SLACK_SECONDS
from ..metrics.registry import METRICS
from .config import TrainingCommand

if TYPE_CHECKING:
    import pandas as pd


NAME = "{name}"
"""In `scores`: the name of a test file."""
MOST_LOOKED_AT = 20_000
"""Files below `{out}` that are searched for enhanced ones."""


class OutputError(InputError):
    """A command succeeded, but its outputs are not the requested ones."""


Left = Path | dict[str, Path]
"""A command's output for a test: its own table, or enhanced files by utterance."""


def scores_at(own: TrainingCommand, out: Path, pairs: Sequence[Pair]) -> Left:
    """A command's output for a test, at `scores`.

    Raises:
        OutputError: it is missing; the message says what was expected and what was found instead.
    """
    if own.is_table:
        expected = f"a table with a row for each of {len(pairs)} test utterances: utterance and measures"
        table = newest(out, own.scores)
        if table is not None and table.is_file():
            return table
    else:
        expected = f"{len(pairs)} enhanced test files such as {pairs[0].name}.wav"
        files = _enhanced_files(own.scores, out, pairs)
        missing = [pair.name for pair in pairs if pair.name not in files]
        if not missing:
            return files
        if files:
            raise OutputError(
                f"{len(missing)} of {len(pairs)} test files are missing in {{out}}/{own.scores}: "
                f"{listed(missing, 3)}{_nearest(own, out, pairs)}"
            )
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    left = f"no audio file in {own.scores}" if (out / own.scores).is_dir() else f"no {own.scores}"
    raise OutputError(
        f"the command succeeded but left {left}; expected {expected} in {{out}}/{own.scores}; {{out}} has "
        f"{listed(found) or 'nothing'}{_nearest(own, out, pairs)}"
    )


def _enhanced_files(scores: str, out: Path, pairs: Sequence[Pair]) -> dict[str, Path]:
    """The existing enhanced files, by utterance."""
    place, _, last = scores.rpartition("/")
    folder = newest(out, (place or ".") if NAME in last else scores)
    if folder is None or not folder.is_dir():
        return {}
    if NAME in last:
        named = {pair.name: newest(folder, last.replace(NAME, escape(pair.name))) for pair in pairs}
        return {name: path for name, path in named.items() if path is not None}
    try:
        return audio_files(folder) if any(map(is_audio, folder.iterdir())) else {}
    except InputError as error:
        raise OutputError(str(error)) from None


def _nearest(own: TrainingCommand, out: Path, pairs: Sequence[Pair]) -> str:
    """A hint at the files below `{out}` with the names of most test files, and the `scores` that finds
    them."""
    names = sorted((pair.name for pair in pairs), key=len, reverse=True)
    found: dict[str, list[str]] = {}
    for path in islice(out.rglob("*"), MOST_LOOKED_AT):
        name = next((name for name in names if name in path.stem), None) if is_audio(path) else None
        if name is not None:
            file = path.relative_to(out)
            whole = path.stem == name and file.parent != Path()
            pattern = file.parent if whole else file.with_name(file.name.replace(name, NAME, 1))
            found.setdefault(pattern.as_posix(), []).append(file.as_posix())
    likely, files = max(found.items(), key=lambda item: len(item[1]), default=("", [""]))
    if likely in ("", own.scores):
        return ""
    return f", for example {files[0]}; did you mean scores: {likely}?"


def check(own: TrainingCommand, out: Path, pairs: Sequence[Pair]) -> None:
    """Read a command's output for a test.

    Raises:
        OutputError, DivergedError: as `table`.
    """
    left = scores_at(own, out, pairs)
    if isinstance(left, Path):
        _read_table(left, pairs)
    else:
        deque(_enhanced(left, pairs, None), maxlen=0)


def table(
    left: Left,
    pairs: Sequence[Pair],
    evaluation: Evaluation,
    pool: MetricPool,
    *,
    cache: Path,
    keep: Callable[[Pair, np.ndarray], None] | None = None,
) -> pd.DataFrame:
    """The scores of a test, measured from the enhanced files or taken from the command's own table.

    Args:
        keep: gets each pair with its enhanced speech, (sample,) at 16 kHz.

    Raises:
        OutputError: a file is unreadable, too short or too long, or the table lacks something.
        DivergedError: enhanced speech or a score is not finite.
    """
    if not isinstance(left, Path):
        return score_table.measured(pairs, _enhanced(left, pairs, keep), evaluation, pool, cache=cache)
    measures = _read_table(left, pairs, evaluation.metrics).to_dict("records")
    rows = [
        {**score_table.known_of(pair), **told, "seconds": pair.seconds, "error": None, "broken": None}
        for pair, told in zip(pairs, measures, strict=True)
    ]
    return score_table.table(rows, pairs, pool, cache=cache)


def _enhanced(
    files: dict[str, Path], pairs: Sequence[Pair], keep: Callable[[Pair, np.ndarray], None] | None
) -> Iterator[tuple[int, np.ndarray]]:
    import soundfile

    for index, pair in enumerate(pairs):
        path = files[pair.name]
        try:
            audio, rate, _ = read_mono(path)
        except soundfile.LibsndfileError as error:
            raise OutputError(f"{path} cannot be read: {error.error_string}") from None
        if not np.isfinite(audio).all():
            raise DivergedError(f"{path} has samples that are not finite (NaN)", {"file": str(path)})
        signal = resample(audio, rate, pair.sample_rate)
        if abs(len(signal) - pair.samples) > SLACK_SECONDS * pair.sample_rate:
            raise OutputError(
                f"{path} has {len(signal) / pair.sample_rate:.3f} s, its noisy file {pair.seconds:.3f} s: "
                "enhanced files must be as long as the noisy ones"
            )
        if keep is not None:
            keep(pair, signal)
        yield index, signal[: pair.samples]


def _read_table(path: Path, pairs: Sequence[Pair], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """The scores in a command's own table, in the order of the test."""
    import pandas as pd

    try:
        found = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise OutputError(f"{path} cannot be read as a table: {error}") from None
    metrics = [name for name in found.columns if name in METRICS]
    lacking = [name for name in ("utterance", *wanted) if name not in found.columns]
    if lacking or not metrics:
        raise OutputError(
            f"{path} has the columns {listed(list(found.columns), 12)}; it needs "
            f"{', '.join(lacking) or 'a measure'} (measures: {listed(list(METRICS), 12)})"
        )
    names = [pair.name for pair in pairs]
    told = [
        Path(name).stem if name not in names and is_audio(Path(name)) else name
        for name in found["utterance"].astype(str)
    ]
    missing, others = sorted({*names} - {*told}), sorted({*told} - {*names})
    twice = [name for name, count in Counter(told).items() if count > 1]
    for what, wrong in (("without", missing), ("of no test file", others), ("twice", twice)):
        if wrong:
            raise OutputError(f"{path}: utterances {what}: {listed(wrong, 3)}; each test file needs one row")
    found = found.set_index(pd.Index(told))[metrics].loc[names].apply(pd.to_numeric, errors="coerce")
    for metric in metrics:
        if bad := list(found.index[~np.isfinite(found[metric])]):
            raise DivergedError(f"{path}: {metric} is not a finite number for {listed(bad, 3)}", {})
    return found.astype(float)
