"""Foreign tables: which columns are factors, which levels are off, where each cell stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ablate.ablations.claims import Claim
from ablate.ablations.design import COLUMNS, KINDS, Design, flip, positions
from ablate.ablations.inference.analysis import Analysis
from ablate.ablations.inference.estimates import infer
from ablate.ablations.inference.scores import Keys, Layout, keys_of, read_scores
from ablate.models.errors import InputError, listed
from ablate.training.metrics.registry import METRICS


def analyze(
    scores: pd.DataFrame,
    base: str | Mapping[str, Any] | None = None,
    baseline: str | None = None,
    metric: str = "pesq_wb",
    *,
    claims: Mapping[str, Sequence[Any] | Claim] | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    factors: Sequence[str] | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    constraints: Iterable[Mapping[str, str]] = (),
    design: str | None = None,
    planned: Mapping[str, Mapping[str, str]] | None = None,
    guardrails: Sequence[str] = (),
    direction: str | Mapping[str, str] = MappingProxyType({}),
) -> Analysis:
    """Estimate the gap and what each factor has to do with it.

    Args:
        scores: a row per cell, seed and utterance: cell, a column per factor (level names; empty for the
            baseline), seed, utterance, the metric; optional speaker, snr, noise, training (a name for each
            training: cells with a common one share it, seeds of a cell with a common one are one run), status
            (done or diverged).
        base: the all-off levels, as `"a=off,b=off"`, a mapping or the name of that cell. Default: each
            factor's first level in `levels`, else its level `off`.
        baseline: the reference cell; none: no gap and no `unexplained`.
        metric: column of the scores to compare.
        claims: factor (or `factor=level`) -> a `Claim`, (low, high) or (low, high, source), on - off; a
            `Claim` is judged on its own metric only. Default: those of the registered factors; `{}`: none.
        margin: the smallest difference that matters, in the metric's unit. Default: the metric's own (PESQ
            and the composite measures: 0.05); without one there are no verdicts.
        confidence: of the intervals.
        factors: the factor columns. Default: columns that are not reserved and constant within each cell.
        levels: factor -> its levels in order, off first, on last.
        constraints: combinations of levels that the grid forbids.
        design: full, fractional, add-one or leave-one-out, where the cells leave it open.
        planned: cell -> levels of all cells of the plan, so that those without any row are named.
        guardrails: other metrics of the table, which say what a gain costs; outside the Holm family.
        direction: `higher` or `lower`, which is better, of a metric that the registry does not know; of
            several a mapping by name.

    Raises:
        InputError: a column is missing, base or baseline name no cell, rows are doubled, runs have no
            utterance in common, or a metric has no direction.
    """
    better = {metric: direction} if isinstance(direction, str) else direction
    baseline = None if baseline is None else str(baseline)
    cells, order, base_cell, notes = lay_out(scores, base, baseline, metric, factors, levels or {})
    cells |= {name: at for name, at in (planned or {}).items() if name not in cells}
    layout = Layout(guess_design(cells, order, constraints, design), cells, base_cell, baseline, notes)
    return infer(
        read_scores(scores, metric, layout, better),
        claims=claims,
        margin=margin,
        confidence=confidence,
        guardrails=[read_scores(scores, guardrail, layout, better) for guardrail in guardrails],
    )


def lay_out(
    scores: pd.DataFrame,
    base: str | Mapping[str, Any] | None,
    baseline: str | None,
    metric: str,
    factors: Sequence[str] | None,
    levels: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Mapping[str, str]], dict[str, tuple[str, ...]], str | None, list[str]]:
    """Where the cells of a table stand, guessed from its columns; arguments as in `analyze`.

    Returns:
        The cells in the order of report with their levels (none for one outside the factorial), the factors
        with their levels, the base cell, and what was made of the table.
    """
    keys = keys_of(scores, metric, also=factors or ())
    names = keys.cells
    if baseline is not None and baseline not in names:
        raise InputError(f"no cell {baseline!r} (the baseline); cells: {listed(names)}")
    notes: list[str] = []
    named = str(base) if isinstance(base, str) and base in names else None
    given = {} if named else _parse_base(base)
    table = _factor_table(scores, keys, baseline, metric, factors, given, notes)
    if baseline is not None:
        table = _without_fixed(table, baseline, given, notes)
        others = {factor: {*column} - {""} for factor, column in table.drop(index=baseline).items()}
        if all(len(its) > 1 and table.at[baseline, factor] not in its for factor, its in others.items()):
            table.loc[baseline] = ""  # it stands outside, whatever its columns say ("-", "baseline")
    off = _off_of_cell(table, named) if named else _off_levels(table, given, levels)
    order: dict[str, tuple[str, ...]] = {}
    for factor, level in off.items():
        declared = [str(name) for name in levels.get(factor, ())]
        found = dict.fromkeys([level, *declared, *_level_order(scores[factor], table[factor])])
        if len(found) > 1:
            order[factor] = tuple(found)
        else:
            notes.append(f"{factor} has only one level ({level}) and is left out.")
    cells: dict[str, Mapping[str, str]] = {}
    for name in names:
        at = {factor: str(table.at[name, factor]) for factor in order}
        cells[name] = at if all(at.values()) else {}
    if baseline is not None and list(cells.values()).count(cells[baseline]) > 1:
        cells[baseline] = {}
    at_off = table.index[(table[list(off)] == pd.Series(off, dtype=object)).all(axis=1)]
    at_base = [name for name in at_off if name != baseline]
    base_cell = named or (at_base[0] if len(at_base) == 1 else None)
    outside = [name for name in names if order and not cells[name] and name != baseline]
    if outside:
        notes.append(f"{listed(outside)} has no level of some factors and is outside the factorial design.")

    def position_of(name: str) -> tuple[Any, ...]:
        own = cells[name]
        return (name == baseline and not own, not own, *(order[f].index(own[f]) for f in own))

    return {name: cells[name] for name in sorted(names, key=position_of)}, order, base_cell, notes


def guess_design(
    cells: Mapping[str, Mapping[str, str]],
    levels: Mapping[str, tuple[str, ...]],
    constraints: Iterable[Mapping[str, str]] = (),
    declared: str | None = None,
) -> Design:
    """The design that cells make; `declared` settles what they leave open (three cells of two factors: a
    add-one design, or a full one with a hole).

    Raises:
        InputError: a level is not declared, two cells have equal levels, or the design is unknown.
    """
    if declared is not None and declared not in KINDS:
        raise InputError(f"design {declared!r} is not one of {', '.join(KINDS)}")
    keys = list(positions(cells, levels)) if levels else []
    matrix = np.array(keys, dtype=int).reshape(len(keys), len(levels))
    found = Design(levels, "incomplete", matrix, tuple(dict(rule) for rule in constraints))
    return replace(found, kind=_kind_of(found, declared))


def _kind_of(found: Design, declared: str | None) -> str:
    planned = set(found.keys)
    if declared == "full" or not found.levels:
        return "full"
    if sum(map(found.permits, planned)) == found.possible():
        return "full"
    sizes = [len(names) for names in found.levels.values()]
    add_one = {found.off} | {flip(found.off, i, level) for i, n in enumerate(sizes) for level in range(1, n)}
    leave_one_out = {found.on} | {flip(found.on, i, 0) for i in range(len(sizes))}
    unambiguous = len(sizes) > 2
    if planned == add_one and (declared == "add-one" or unambiguous):
        return "add-one"
    if planned | {found.off} == leave_one_out | {found.off} and (declared == "leave-one-out" or unambiguous):
        return "leave-one-out"
    if found.binary and len(planned) > len(sizes):
        signs = np.column_stack([np.ones(len(planned)), 2 * found.matrix - 1])
        if np.allclose(signs.T @ signs, len(planned) * np.eye(signs.shape[1])):
            return "fractional"
    return "incomplete"


def _factor_table(
    scores: pd.DataFrame,
    keys: Keys,
    baseline: str | None,
    metric: str,
    factors: Sequence[str] | None,
    given: Mapping[str, str],
    notes: list[str],
) -> pd.DataFrame:
    """The level of each cell in each factor's column; "" where it has none."""
    for name in given:
        if name not in scores.columns:
            raise InputError(f"--base names {name!r}, not a column of {listed(list(scores.columns), 20)}")
    reserved = {*COLUMNS, *METRICS, metric}
    others = [str(c) for c in scores.columns if c not in reserved and not str(c).startswith("noisy_")]
    first_row = np.unique(keys.cell_codes, return_index=True)[1]
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*(factors or others), *given]):
        codes, kinds = pd.factorize(scores[name])
        texts = np.array([*map(_level_text, kinds), ""], dtype=object)[codes]
        own = texts[first_row]
        wrong = texts != own[keys.cell_codes]
        if not wrong.any():
            columns[name] = own
        elif name in given or factors:
            cell = keys.cells[int(keys.cell_codes[int(wrong.argmax())])]
            raise InputError(f"cell {cell!r} has rows with different levels of {name!r}")
    table = pd.DataFrame(columns, index=keys.cells, dtype=object)
    if factors is not None:
        return table
    names, rest = list(columns), table if baseline is None else table.drop(index=baseline)

    def enough(columns: list[str]) -> bool:
        inside = rest.loc[(rest[columns] != "").all(axis=1), columns]
        return bool(columns) and not inside.duplicated().any()

    ignored: list[str] = []
    if given and enough(list(given)):
        ignored = [name for name in names if name not in given]
    else:
        if baseline is not None:
            empty = [name for name in names if not table.at[baseline, name]]
            if empty:
                ignored = [name for name in names if name not in empty and name not in given]
        for name in [name for name in names if name not in ignored and name not in given]:
            found = {*rest[name]} - {""}
            numeric = pd.api.types.is_numeric_dtype(scores[name]) and not found <= {"0", "1", "True", "False"}
            left = [other for other in names if other != name and other not in ignored]
            if (numeric or len(found) == len(rest) > 2) and enough(left):
                ignored.append(name)
    varied = [name for name in ignored if table[name].nunique() > 1]
    if varied:
        notes.append(f"Columns not taken as factors: {listed(varied)}.")
    return table.drop(columns=ignored)


def _without_fixed(
    table: pd.DataFrame, baseline: str, given: Mapping[str, str], notes: list[str]
) -> pd.DataFrame:
    """Without the columns in which the baseline alone differs: no cell of the grid shows what they cost."""
    fixed = []
    for factor in map(str, table if len(table) > 2 else ()):
        own, others = str(table.at[baseline, factor]), {*table.drop(index=baseline)[factor]}
        level = min(others)
        if len(others) == 1 and level and own not in others and given.get(factor, level) == level:
            fixed.append(factor)
            if own:
                notes.append(
                    f"{factor} is {level} in every cell but the baseline ({own}), so it belongs to "
                    "the unexplained part."
                )
    return table.drop(columns=fixed)


_OFF = ("off", "false", "0", "no")


def off_level(found: Iterable[str]) -> str | None:
    """The only level that says off; none: there is none, or several."""
    off = [level for level in found if level.lower() in _OFF]
    return off[0] if len(off) == 1 else None


def same_level(level: str, known: Sequence[str]) -> str | None:
    """The level of a table that a name stands for: itself, an equal number, or its only word for off."""
    if level in known:
        return level
    number = _number(level)
    equal = [other for other in known if number is not None and _number(other) == number]
    if equal:
        return equal[0]
    return off_level(known) if level.lower() in _OFF else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_levels(text: str) -> dict[str, str]:
    """`"bidirectional=off,core=lstm"` as a mapping.

    Raises:
        InputError: an item is not `factor=level`.
    """
    levels = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, level = (part.strip() for part in item.partition("="))
        if not (equals and name and level):
            raise InputError(f"{item!r} in {text!r} is not of the form factor=level, e.g. bidirectional=off")
        levels[name] = level
    return levels


def _parse_base(base: str | Mapping[str, Any] | None) -> dict[str, str]:
    if isinstance(base, str):
        return parse_levels(base)
    return {str(name): _level_text(level) for name, level in (base or {}).items()}


def _off_of_cell(table: pd.DataFrame, base: str) -> dict[str, str]:
    """The levels of the base cell; none where it has none of any factor."""
    found = {factor: str(table.at[base, factor]) for factor in map(str, table)}
    empty = [factor for factor, level in found.items() if not level]
    if empty and len(empty) < len(found):
        raise InputError(f"the base cell {base!r} has no level of {listed(empty)}")
    return {} if empty else found


def _off_levels(
    table: pd.DataFrame, given: Mapping[str, str], levels: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The off level of every factor: the one given, else the first declared, else the one that says off."""
    resolved = {}
    for factor in map(str, table):
        known = [level for level in table[factor].unique() if level]
        declared = [str(level) for level in levels.get(factor, ())]
        asked = given.get(factor)
        if asked is None:
            level = declared[0] if declared else off_level(known)
            if level is None:
                raise InputError(f"which level of {factor!r} is off? Set it with --base: {listed(known)}")
        else:
            level = asked if asked in declared else same_level(asked, known)
            if level is None:
                raise InputError(f"base has {factor}={asked}, but the levels are {listed(known)}")
        resolved[factor] = level
    return resolved


def _level_order(column: pd.Series, found: Iterable[str]) -> list[str]:
    """Levels in the order of a categorical column, else as they appear."""
    there = [level for level in dict.fromkeys(found) if level]
    if isinstance(column.dtype, pd.CategoricalDtype):
        there.sort(key=[_level_text(level) for level in column.dtype.categories].index)
    return there


def _level_text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else str(value).removesuffix(".0")
    return "" if value is None or value is pd.NA else str(value)
