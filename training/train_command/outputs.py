"""What a command leaves below `{out}`: its curve, and the scores or the enhanced files of its test."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate.models.errors import InputError, listed

from .. import score_table
from ..audio import audio_files, is_audio, read_mono, resample
from ..config import Evaluation
from ..data.corpus import Pair
from ..failures import DivergedError
from ..metrics import MetricPool
from ..metrics.files import SLACK_SECONDS
from ..metrics.registry import METRICS
from .config import TrainingCommand

if TYPE_CHECKING:
    import pandas as pd

VALUE = "val/pesq_wb"
"""What a line of a curve is selected by, as the driver and the reports know it."""


class OutputError(InputError):
    """A command ended well, but what it left is not what was asked for."""


def scores_at(own: TrainingCommand, out: Path, pairs: Sequence[Pair]) -> Path:
    """Where the command has left the scores of a test.

    Raises:
        OutputError: they are not there; the message says what was expected.
    """
    place = out / own.scores
    expected = (
        f"a table with a row for each of {len(pairs)} test utterances: utterance and measures"
        if own.is_table
        else f"{len(pairs)} enhanced test files such as {pairs[0].name}.wav"
    )
    if own.is_table and place.is_file():
        return place
    if not own.is_table and place.is_dir() and any(map(is_audio, place.iterdir())):
        try:
            there = set(audio_files(place))
        except InputError as error:
            raise OutputError(str(error)) from None
        missing = [pair.name for pair in pairs if pair.name not in there]
        if missing:
            raise OutputError(
                f"{len(missing)} of {len(pairs)} test files are missing in {{out}}/{own.scores}: "
                f"{listed(missing, 3)}"
            )
        return place
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    left = f"no audio file in {own.scores}" if place.is_dir() else f"no {own.scores}"
    raise OutputError(
        f"the command ended well and left {left}: expected {expected} in {{out}}/{own.scores}; "
        f"{{out}} holds {listed(found) or 'nothing'}"
    )


def check(own: TrainingCommand, out: Path, pairs: Sequence[Pair]) -> None:
    """Read what a command has left for a test.

    Raises:
        OutputError, DivergedError: as `table`.
    """
    place = scores_at(own, out, pairs)
    if own.is_table:
        _read_table(place, pairs)
    else:
        deque(_enhanced(place, pairs, None), maxlen=0)


def table(
    own: TrainingCommand,
    place: Path,
    pairs: Sequence[Pair],
    evaluation: Evaluation,
    pool: MetricPool,
    *,
    cache: Path,
    keep: Callable[[Pair, np.ndarray], None] | None = None,
) -> pd.DataFrame:
    """The scores of a test, measured from the enhanced files, or as the command's own table has them.

    Args:
        keep: is given each pair with its enhanced speech, (sample,) at 16 kHz.

    Raises:
        OutputError: a file cannot be read or is too short or long, or the table lacks something.
        DivergedError: enhanced speech or a measure is not finite.
    """
    if own.is_table:
        return _own_table(place, pairs, evaluation, pool, cache=cache)
    return score_table.measured(pairs, _enhanced(place, pairs, keep), evaluation, pool, cache=cache)


def _enhanced(
    folder: Path, pairs: Sequence[Pair], keep: Callable[[Pair, np.ndarray], None] | None
) -> Iterator[tuple[int, np.ndarray]]:
    import soundfile

    files = audio_files(folder)
    for index, pair in enumerate(pairs):
        path = files[pair.name]
        try:
            audio, rate, _ = read_mono(path)
        except soundfile.LibsndfileError as error:
            raise OutputError(f"{path} cannot be read: {error.error_string}") from None
        if not np.isfinite(audio).all():
            raise DivergedError(f"{path} holds samples that are not finite (NaN)", {"file": str(path)})
        signal = resample(audio, rate, pair.sample_rate)
        if abs(len(signal) - pair.samples) > SLACK_SECONDS * pair.sample_rate:
            raise OutputError(
                f"{path} has {len(signal) / pair.sample_rate:.3f} s, its noisy file {pair.seconds:.3f} s: "
                "enhanced files are as long as the noisy ones"
            )
        if keep is not None:
            keep(pair, signal)
        yield index, signal[: pair.samples]


def _own_table(
    path: Path, pairs: Sequence[Pair], evaluation: Evaluation, pool: MetricPool, *, cache: Path
) -> pd.DataFrame:
    values = _read_table(path, pairs, evaluation.metrics)
    rows = [
        {
            **score_table.known_of(pair),
            **{metric: float(by_name[pair.name]) for metric, by_name in values.items()},
            "seconds": pair.seconds,
            "error": None,
            "broken": None,
        }
        for pair in pairs
    ]
    return score_table.table(rows, pairs, pool, cache=cache)


def _read_table(path: Path, pairs: Sequence[Pair], wanted: Sequence[str] = ()) -> dict[str, dict[Any, Any]]:
    """The measures of a command's own table, by metric and utterance."""
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
    found = found.assign(utterance=found["utterance"].astype(str)).set_index("utterance")[metrics]
    names = [pair.name for pair in pairs]
    missing = [name for name in names if name not in found.index]
    others = [name for name in found.index if name not in set(names)]
    twice = sorted(set(found.index[found.index.duplicated()]))
    for what, wrong in (("without", missing), ("of no test file", others), ("twice", twice)):
        if wrong:
            raise OutputError(f"{path}: utterances {what}: {listed(wrong, 3)}; one row for each test file")
    values = {metric: pd.to_numeric(found[metric], errors="coerce").to_dict() for metric in metrics}
    for metric, by_name in values.items():
        bad = [name for name, value in by_name.items() if not math.isfinite(value)]
        if bad:
            raise DivergedError(f"{path}: {metric} is no finite number for {listed(bad, 3)}", {})
    return values


class CurveFile:
    """The lines that a command has added to its curve since it was last looked at.

    Attributes:
        refused: how many lines were no JSON object with a whole `step`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read = 0
        self.lines: dict[int, dict[str, Any]] = {}
        self.refused = 0

    def take(self) -> list[dict[str, Any]]:
        """The new lines, as `metrics.jsonl` has them: numbers alone, what is not finite as none."""
        if self._path is None or not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._read:  # written anew
                self._read = 0
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        fresh = [line for raw in whole.splitlines() if (line := self._line(raw)) is not None]
        self.lines |= {line["step"]: line for line in fresh}
        return fresh

    def _line(self, raw: bytes) -> dict[str, Any] | None:
        if not raw.strip():
            return None
        try:
            line = json.loads(raw)
            step = int(line["step"])
        except (ValueError, TypeError, KeyError, OverflowError):
            self.refused += 1
            return None
        numbers = {
            name: value if math.isfinite(value) else None
            for name, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        return {"time": time.time(), **numbers, "step": step}

    @property
    def last(self) -> dict[str, Any] | None:
        """The line of the highest step."""
        return self.lines[max(self.lines)] if self.lines else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the highest validation PESQ."""
        rated = [line for line in self.lines.values() if line.get(VALUE) is not None]
        return max(rated, key=lambda line: line[VALUE]) if rated else None

    def lost(self) -> str | None:
        """A loss whose last value is not finite."""
        last = {name: self.lines[step][name] for step in sorted(self.lines) for name in self.lines[step]}
        return next((name for name, value in last.items() if value is None and "loss" in name), None)
