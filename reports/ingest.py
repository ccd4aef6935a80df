"""Analyses tables that others made: finds each factor's levels and off level, and the cells' design."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ablate.ablations.claims import Claim
from ablate.ablations.design import KINDS, Design, flip, positions
from ablate.ablations.inference.analysis import Analysis
from ablate.ablations.inference.estimates import infer
from ablate.ablations.inference.scores import Layout, keys_of, read_scores
from ablate.models.errors import InputError, listed


def analyze(
    scores: pd.DataFrame,
    base: str | Mapping[str, Any] | None = None,
    baseline: str | None = None,
    metric: str = "pesq_wb",
    *,
    claims: Mapping[str, Sequence[Any] | Claim] | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    factors: Sequence[str] = (),
    levels: Mapping[str, Sequence[str]] = MappingProxyType({}),
    design: str | None = None,
    guardrails: Sequence[str] = (),
    direction: str | Mapping[str, str] = MappingProxyType({}),
) -> Analysis:
    """Estimate the gap between a baseline and a base cell, and how much of it each factor explains.

    Args:
        scores: a row per cell, seed and utterance, with the columns cell, one for each factor (level names;
            empty for the baseline), seed, utterance and the metric. Optional: speaker, snr, noise, training
            (cells with the same value share that training; seeds of a cell with the same value are one run),
            status (done or diverged).
        base: the off level of each factor, as `"a=off,b=off"` or a mapping. Default for a factor: its first
            level in `levels`, else its only level that means off (such as `off`).
        baseline: the reference cell. Without it, neither the gap nor `unexplained` is estimated.
        metric: the column to compare.
        claims: factor (or `factor=level`) -> a `Claim`, (low, high) or (low, high, source), on - off. A
            `Claim` is tested on its own metric only. Default: those of the registered factors; `{}` means
            none.
        margin: the smallest difference that matters, in the metric's unit. Default: the metric's own (PESQ
            and the composite measures: 0.05). If the metric does not have one, there are no verdicts.
        confidence: confidence level of the intervals.
        factors: the columns that define the cells, besides those that `base` and `levels` name.
        levels: factor -> its levels in order, off first, on last.
        design: full, fractional, add-one or leave-one-out; needed only if the cells fit more than one.
        guardrails: other metrics of the table, which show whether a gain costs elsewhere; not part of the
            Holm family.
        direction: `higher` or `lower` (is better), for a metric that the registry does not know; for several
            a mapping by name.

    Raises:
        InputError: factors are not given, a column or the baseline is missing, two cells have equal levels, a
            row occurs twice, runs do not have an utterance in common, or a metric does not have a direction.
    """
    better = {metric: direction} if isinstance(direction, str) else direction
    baseline = None if baseline is None else str(baseline)
    given = parse_levels(base) if isinstance(base, str) else base or {}
    off = {str(name): level_text(level) for name, level in given.items()}
    layout = _layout(scores, off, baseline, metric, [*factors, *off, *levels], levels, design)
    return infer(
        read_scores(scores, metric, layout, better),
        claims=claims,
        margin=margin,
        confidence=confidence,
        guardrails=[read_scores(scores, guardrail, layout, better) for guardrail in guardrails],
    )


def _layout(
    scores: pd.DataFrame,
    given: Mapping[str, str],
    baseline: str | None,
    metric: str,
    factors: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    design: str | None,
) -> Layout:
    """The levels of a table's cells, in the order of reports; arguments as in `analyze`."""
    if not factors:
        raise InputError('which columns are factors? Give factors=["core"] or base="core=lstm"')
    table = _levels_of_cells(scores, metric, factors)
    names = list(table.index)
    if baseline is not None and baseline not in names:
        raise InputError(f"no cell {baseline!r} (the baseline); cells: {listed(names)}")
    grid = table.drop(index=[] if baseline is None else [baseline])
    within = {str(factor): dict.fromkeys(filter(None, column)) for factor, column in grid.items()}
    notes = []
    if baseline is not None:
        for factor in [f for f in within if len(table) > 2 and len(within[f]) == 1 and grid[f].all()]:
            level, own = str(grid[factor].iloc[0]), str(table.at[baseline, factor])
            if own != level:
                if own:
                    notes.append(
                        f"{factor} is {level} in every cell but the baseline ({own}), so it belongs to "
                        "the unexplained part."
                    )
                table = table.drop(columns=factor)
        if all(len(within[f]) > 1 and table.at[baseline, f] not in within[f] for f in map(str, table)):
            table.loc[baseline] = ""  # it stands outside, whatever its columns say ("-", "baseline")
    off, order = {}, {}
    for factor in map(str, table):
        declared = [str(name) for name in levels.get(factor, ())]
        known = _level_order(scores[factor], table[factor])
        off[factor] = _off(factor, given.get(factor), declared, known)
        found = tuple(dict.fromkeys([off[factor], *declared, *known]))
        if len(found) > 1:
            order[factor] = found
        else:
            notes.append(f"{factor} has only one level ({found[0]}) and is left out.")
    cells: dict[str, Mapping[str, str]] = {}
    for name in names:
        at = {factor: str(table.at[name, factor]) for factor in order}
        cells[name] = at if all(at.values()) else {}
    if baseline is not None and list(cells.values()).count(cells[baseline]) > 1:
        cells[baseline] = {}
    is_off = (table == pd.Series(off, dtype=object)).all(axis=1)
    at_off = [name for name in names if is_off[name] and name != baseline]
    outside = [name for name in names if order and not cells[name] and name != baseline]
    if outside:
        notes.append(f"{listed(outside)} has no level of some factors and is outside the factorial design.")

    def position_of(name: str) -> tuple[Any, ...]:
        own = cells[name]
        return (name == baseline and not own, not own, *(order[f].index(own[f]) for f in own))

    return Layout(
        guess_design(cells, order, declared=design),
        {name: cells[name] for name in sorted(names, key=position_of)},
        at_off[0] if len(at_off) == 1 else None,
        baseline,
        notes,
    )


def _levels_of_cells(scores: pd.DataFrame, metric: str, factors: Sequence[str]) -> pd.DataFrame:
    """The level of each cell in each factor's column; "" if it does not have one."""
    keys = keys_of(scores, metric, also=factors)
    first_row = np.unique(keys.cell_codes, return_index=True)[1]
    columns = {}
    for name in factors:
        codes, kinds = pd.factorize(scores[name])
        texts = np.array([*map(level_text, kinds), ""], dtype=object)[codes]
        columns[name] = texts[first_row]
        wrong = texts != columns[name][keys.cell_codes]
        if wrong.any():
            cell = keys.cells[int(keys.cell_codes[int(wrong.argmax())])]
            raise InputError(f"cell {cell!r} has rows with different levels of {name!r}")
    return pd.DataFrame(columns, index=keys.cells, dtype=object)


def _off(factor: str, asked: str | None, declared: Sequence[str], known: Sequence[str]) -> str:
    """The off level of a factor: the requested one, else the first declared, else the one that means off."""
    if asked is None:
        level = declared[0] if declared else off_level(known)
        if level is None:
            raise InputError(f"which level of {factor!r} is off? Set it with --base: {listed(known)}")
        return level
    level = asked if asked in declared else same_level(asked, known)
    if level is None:
        raise InputError(f"base has {factor}={asked}, but the levels are {listed(known)}")
    return level


def guess_design(
    cells: Mapping[str, Mapping[str, str]],
    levels: Mapping[str, tuple[str, ...]],
    constraints: Iterable[Mapping[str, str]] = (),
    declared: str | None = None,
) -> Design:
    """The design of some cells.

    If they fit several, `declared` decides: three cells of two factors may be an add-one design, or a full
    design with a missing cell.

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


_OFF = ("off", "false", "0", "no")


def off_level(found: Iterable[str]) -> str | None:
    """The level that means off; None if there is none, or if there are several."""
    off = [level for level in found if level.lower() in _OFF]
    return off[0] if len(off) == 1 else None


def same_level(level: str, known: Sequence[str]) -> str | None:
    """The level in `known` that `level` means: equal text, an equal number, or the only one meaning off."""
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
    """Factor -> level, from a text such as `"bidirectional=off,core=lstm"`.

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


def _level_order(column: pd.Series, found: Iterable[str]) -> list[str]:
    """Levels in the order of a categorical column, else as they appear."""
    there = [level for level in dict.fromkeys(found) if level]
    if isinstance(column.dtype, pd.CategoricalDtype):
        there.sort(key=[level_text(level) for level in column.dtype.categories].index)
    return there


def level_text(value: Any) -> str:
    """A level as text; "" for an empty field."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else str(value).removesuffix(".0")
    return "" if value is None or value is pd.NA else str(value)
