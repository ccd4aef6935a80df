"""Curves of other trainers: rows of numbers by step, from many kinds of files."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.registry import suggestion

from .files import newest

Row = dict[str, float]

LINE = "line"
"""In place of a step's column: rows are counted from 1."""


class CurveFormat(Frozen):
    """The file and the columns of a program's curve.

    The file's name gives its kind: `.jsonl` (an object per line), `.json` (a list of objects), `.csv`,
    `.wandb` or a folder with one, `events.out.tfevents.*` or a folder with some; with a pattern any text.

    Attributes:
        file: a path or a glob; of several files the newest counts.
        pattern: a regular expression on each line of a log, whose named groups are columns.
        step: the column with steps or epochs; `line`: count the rows.
        names: our name -> the file's column, e.g. `{val/pesq_wb: val_pesq}`.
    """

    file: str
    pattern: str | None = None
    step: str = "step"
    names: dict[str, str] = {}  # noqa: RUF012

    def model_post_init(self, context: Any) -> None:
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise InputError(f"pattern {self.pattern!r} is not a valid regular expression: {error}") from None
        if self.step not in (*groups, LINE):
            raise InputError(
                f"pattern {self.pattern!r} has the groups {', '.join(groups) or 'none'}, and none for the "
                f"step: write (?P<{self.step}>\\d+), name another with step, or count with step: {LINE}"
            )

    def newest(self, folder: Path) -> Path | None:
        """The newest matching file below a folder; None if there is none yet."""
        return newest(folder, self.file)

    def read(self, path: Path, since: int = 0) -> list[Row]:
        """The curve in a file, a row per step in order, with our names.

        Args:
            since: byte of a log at which its lines begin to count.

        Raises:
            InputError: the kind of file is unknown, or it lacks steps or a column of `names`.
        """
        try:
            rows = _rows(path, self.pattern, since)
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as a curve: {error}") from None
        return _by_step(rows, self, path)


def _rows(path: Path, pattern: str | None, since: int) -> list[Mapping[str, Any]]:
    from .event_files import tensorboard_scalars, wandb_run

    if pattern is not None:
        lines = path.read_bytes()[since:].decode(errors="replace").splitlines()
        return [match.groupdict() for line in lines if (match := re.search(pattern, line))]
    if path.suffix == ".wandb" or (path.is_dir() and any(path.glob("*.wandb"))):
        return list(wandb_run(path)[1])
    if path.is_dir() or path.name.startswith("events.out.tfevents."):
        return list(tensorboard_scalars(path))
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".json" and (found := _object(path.read_text())) is not None:
        if not isinstance(found, list):
            raise ValueError(f"it contains one {type(found).__name__}, not a list of objects")
        return [row for row in found if isinstance(row, dict)]
    rows: list[Mapping[str, Any]] = [
        row for line in path.read_text().splitlines() if isinstance(row := _object(line), dict)
    ]
    if rows or path.suffix == ".jsonl":
        return rows
    raise ValueError("unknown format; use a pattern, or .jsonl, .json, .csv, .wandb, TensorBoard events")


def _object(line: str) -> Any:
    """A line's JSON; None if it is incomplete."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _by_step(rows: Iterable[Mapping[str, Any]], how: CurveFormat, path: Path) -> list[Row]:
    """Rows with equal steps joined: trainers write losses and validation in separate rows."""
    ours = {theirs: name for name, theirs in how.names.items()}
    found: dict[int, Row] = {}
    columns: dict[str, None] = {}
    for count, row in enumerate(rows, 1):
        numbers = {str(key): number for key, value in row.items() if (number := _number(value)) is not None}
        columns |= dict.fromkeys(numbers)
        step = numbers.pop(how.step, count if how.step == LINE else math.nan)
        if math.isfinite(step):
            at = found.setdefault(int(step), {"step": int(step)})
            at |= {ours.get(key, key): value for key, value in numbers.items() if key != "step"}
    if not columns:
        raise InputError(f"{path} has no row of numbers; check that its format matches its file name")
    if not found:
        raise InputError(
            f"{path} has no row with a step {how.step!r}{suggestion(how.step, columns)}; name it with "
            f"step, or count the rows with step: {LINE}"
        )
    lacking = [theirs for theirs in ours if theirs not in columns]
    if lacking:
        raise InputError(f"{path} has no column {lacking[0]!r}{suggestion(lacking[0], columns)}")
    return [found[step] for step in sorted(found)]


def _number(value: Any) -> float | None:
    """A number, also a non-finite one; None for text and for an empty CSV field."""
    with suppress(TypeError, ValueError):
        return None if isinstance(value, bool) else float(value)
    return None
