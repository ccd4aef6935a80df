"""Scores of results trained elsewhere, from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.studies.scores import RunInfo

from ..ingest import off_level, parse_levels, same_level
from .columns import tidy
from .study import StudyInfo

KEYS = ("cell", "seed", "utterance")


def scores_from_file(
    path: Path | str,
    base: Mapping[str, str] | str,
    baseline: str | None = None,
    metric: str = "pesq_wb",
) -> tuple[pd.DataFrame, StudyInfo]:
    """Scores of results trained elsewhere: CSV or parquet, a row per cell, seed and utterance.

    Args:
        path: a table with `cell`, one column per factor (empty for the baseline), `seed`,
            `utterance`, the metric; optional `speaker`, `snr`, `noise`, `training`, `status`.
        base: the level of every factor in the all-off cell.
        baseline: name of the reference cell; none: no gap is reported.
        metric: the column that must be there.

    Raises:
        InputError: there is no such file, a column is missing, the base names no cell, or the baseline is not
            in the file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no scores file {path}")
    levels = parse_levels(base) if isinstance(base, str) else dict(base)
    if not levels:
        raise InputError('the base is empty: name every factor\'s off level, e.g. --base "bidirectional=off"')
    return _checked(_read_table(path, levels), str(path), levels, baseline, metric)


def scores_from_elsewhere(
    frame: pd.DataFrame,
    source: str,
    factors: Sequence[str],
    base: str = "",
    baseline: str | None = None,
    metric: str = "pesq_wb",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> tuple[pd.DataFrame, StudyInfo]:
    """Scores from a table that others made (`sources.elsewhere`), or of speech measured here
    (`sources.enhanced`).

    Args:
        source: where it is from, as the report says it.
        factors: the columns that make the cells.
        base: off levels, `core=lstm`; of the others a level that says off, else the first in the table.
        columns: our name of a column -> the table's.

    Raises:
        InputError: as `scores_from_file` and `sources.columns.tidy`.
    """
    frame, notes = tidy(frame, factors, metric, columns, baseline)
    given, levels = parse_levels(base), {}
    if unknown := [name for name in given if name not in factors]:
        raise InputError(f"--base names {unknown[0]!r}{suggestion(unknown[0], factors)}")
    for name in factors:
        found = list(map(str, frame[name].dropna().unique()))
        levels[name] = given.get(name) or off_level(found) or found[0]
        if name not in given:
            notes.append(f"{name}={levels[name]} is taken as off (--base {name}=... names another).")
    for name in ("cell", "utterance", *factors):
        frame[name] = pd.Categorical(frame[name], categories=frame[name].dropna().unique())
    frame, info = _checked(frame, source, levels, baseline, metric)
    return frame, replace(info, notes=tuple(notes))


def _checked(
    frame: pd.DataFrame, path: str, levels: dict[str, str], baseline: str | None, metric: str
) -> tuple[pd.DataFrame, StudyInfo]:
    """A table with what is known of its runs; see `scores_from_file`."""
    missing = [name for name in (*KEYS, *levels, metric) if name not in frame.columns]
    if missing:
        have = ", ".join(map(str, frame.columns))
        raise InputError(f"{path} lacks {_columns(missing)}; it has {have}")
    if not pd.api.types.is_numeric_dtype(frame[metric]):
        raise InputError(f"{path}: column {metric!r} is not numeric, e.g. {frame[metric].dropna().iloc[0]!r}")
    for name, level in levels.items():
        there = [str(known) for known in frame[name].dropna().unique()]
        levels[name] = same_level(level, there) or level
    cells = frame[["cell", *levels]].drop_duplicates()
    doubled = cells.loc[cells["cell"].duplicated(), "cell"]
    if len(doubled):
        raise InputError(f"{path}: cell {doubled.iloc[0]!r} has rows with different factor levels")
    rows = cells
    for name, level in levels.items():
        rows = rows[rows[name] == level]
    names = [str(name) for name in cells["cell"]]
    if rows.empty:
        known = {name: sorted(map(str, cells[name].dropna().unique())) for name in levels}
        raise InputError(
            f"{path}: no base cell with {_levels(levels)}; levels in the file: "
            + "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
        )
    if baseline is not None and baseline not in names:
        raise InputError(f"{path}: no cell {baseline!r}{suggestion(baseline, names)}")
    pairs = frame[["cell", "seed"]].drop_duplicates()
    diverged: set[tuple[str, int]] = set()
    if "status" in frame.columns:
        bad = sorted(set(map(str, frame["status"].dropna().unique())) - {"done", "diverged"})
        if bad:
            raise InputError(f"{path}: status {bad[0]!r} is neither done nor diverged")
        gone = frame.loc[frame["status"] == "diverged", ["cell", "seed"]].drop_duplicates()
        diverged = {(str(c), int(s)) for c, s in zip(gone["cell"], gone["seed"], strict=True)}
    runs = [
        RunInfo(
            str(cell),
            int(seed),
            state="diverged" if (str(cell), int(seed)) in diverged else "done",
            scored=(str(cell), int(seed)) not in diverged,
        )
        for cell, seed in zip(pairs["cell"], pairs["seed"], strict=True)
    ]
    return frame, StudyInfo(Path(path).stem, path, levels, baseline, runs=runs)


def _read_table(path: Path, levels: Mapping[str, str]) -> pd.DataFrame:
    texts = ("cell", "utterance", "speaker", "noise", "training", "status", *levels)
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            options = pacsv.ConvertOptions(
                column_types={name: pa.string() for name in texts},
                strings_can_be_null=True,
                null_values=["", "nan", "NaN", "NA", "null"],
            )
            table = pacsv.read_csv(path, convert_options=options)
        elif suffix == ".parquet":
            table = pq.read_table(path)
        else:
            raise InputError(
                f"{path}: scores are read from .csv or .parquet, not {suffix or 'a bare name'!r}"
            )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    frame = table.to_pandas()
    for name in texts:
        if name in frame.columns:
            column = frame[name]
            if not isinstance(column.dtype, pd.CategoricalDtype):
                empty = column.isna() | (column.astype("string") == "")
                column = column.astype("string").astype("object").mask(empty)
            frame[name] = pd.Categorical(column, categories=column.dropna().unique())
    if "seed" in frame.columns:
        seeds = pd.to_numeric(frame["seed"], errors="coerce")
        if seeds.isna().any():
            wrong = frame.loc[seeds.isna(), "seed"].iloc[0]
            raise InputError(f"{path}: seed {wrong!r} is not a whole number")
        frame["seed"] = seeds.astype("int64")
    return frame


def _columns(names: Sequence[str]) -> str:
    return ("column " if len(names) == 1 else "columns ") + ", ".join(map(repr, names))


def _levels(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={level}" for name, level in levels.items())
