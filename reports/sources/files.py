"""Turns a table of results trained elsewhere into scores and facts about a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.studies.scores import RunInfo

from ..ingest import off_level, parse_levels, same_level
from .columns import CURVE, NOTES, tidy
from .study import StudyInfo


def scores_from_elsewhere(
    frame: pd.DataFrame,
    source: str,
    factors: Sequence[str],
    base: str = "",
    baseline: str | None = None,
    metric: str = "pesq_wb",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> tuple[pd.DataFrame, StudyInfo]:
    """Scores from a table that others made (`sources.elsewhere`), or of enhanced speech scored here
    (`sources.enhanced`).

    Args:
        source: origin of the table, for the report.
        factors: the columns that define the cells.
        base: off levels, `core=lstm`. Default for a factor: its level that means off, else its first.
        columns: our name of a column -> the table's.

    Raises:
        InputError: as in `sources.columns.tidy`; or no cell has the base's levels, a cell has several levels
            of a factor, or the baseline is missing.
    """
    given = parse_levels(base)
    if unknown := [name for name in given if name not in factors]:
        raise InputError(f"--base names {unknown[0]!r}{suggestion(unknown[0], factors)}")
    told = frame.attrs.pop(NOTES, [])
    frame, notes = tidy(frame, factors, metric, columns, baseline)
    levels = {}
    for name in factors:
        found = list(map(str, frame[name].dropna().unique()))
        asked = given.get(name)
        levels[name] = (asked and same_level(asked, found)) or asked or off_level(found) or found[0]
        if asked is None:
            notes.append(f"{name}={levels[name]} is used as off; choose another with --base {name}=...")
    for name in ("cell", "utterance", *factors):
        frame[name] = pd.Categorical(frame[name], categories=frame[name].dropna().unique())
    _check_cells(frame, source, levels, baseline)
    diverged = frame["status"] == "diverged" if "status" in frame.columns else pd.Series(False, frame.index)
    gone = diverged.groupby([frame["cell"], frame["seed"]], observed=True, sort=False).all().reset_index()
    curves: dict[tuple[str, int], list] = {}
    if CURVE in frame.columns:
        curves = dict(zip(zip(frame["cell"], frame["seed"], strict=True), frame.pop(CURVE), strict=True))
    runs = []
    for cell, seed, lost in gone.itertuples(index=False):
        curve = curves.get((cell, seed), [])
        state, last = "diverged" if lost else "done", max((row["step"] for row in curve), default=0)
        runs.append(RunInfo(str(cell), int(seed), state=state, step=last, metrics=curve, scored=not lost))
    name = Path(source).stem
    return frame, StudyInfo(name, source, levels, baseline, runs=runs, notes=(*told, *notes))


def _check_cells(frame: pd.DataFrame, source: str, levels: Mapping[str, str], baseline: str | None) -> None:
    cells = frame[["cell", *levels]].drop_duplicates()
    doubled = cells.loc[cells["cell"].duplicated(), "cell"]
    if len(doubled):
        raise InputError(f"{source}: cell {doubled.iloc[0]!r} has rows with different factor levels")
    if not (cells[list(levels)] == pd.Series(levels)).all(axis=1).any():
        known = {name: sorted(map(str, cells[name].dropna().unique())) for name in levels}
        raise InputError(
            f"{source} has no base cell with "
            f"{', '.join(f'{name}={level}' for name, level in levels.items())}; levels in the file: "
            + "; ".join(f"{name}: {', '.join(values)}" for name, values in known.items())
        )
    names = [str(name) for name in cells["cell"]]
    if baseline is not None and baseline not in names:
        raise InputError(f"{source}: no cell {baseline!r}{suggestion(baseline, names)}")
