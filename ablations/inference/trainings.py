"""Finds runs that are the same training: those that cells share, or several seeds of one cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.models.errors import InputError, listed

from .engine import Array


def rows_of(where: Array) -> str:
    """The indices of the true rows (from 0), as text."""
    found = np.flatnonzero(where)
    return f"row{'s' * (len(found) > 1)} {listed([str(row) for row in found.tolist()], 3)}"


def merge(
    table: pd.DataFrame,
    cell_codes: Array,
    seed_codes: Array,
    cells: Sequence[str],
    seeds: Sequence[Any],
    values: Array,
) -> list[str]:
    """Merge the seeds of a cell that are one training: the first seed gets their mean.

    Args:
        values: (cell, seed, utterance), changed in place; the other seeds become absent (NaN).

    Returns:
        A sentence for each merge.

    Raises:
        InputError: a run has rows of two trainings, or cells have one training under different seeds.
    """
    if "training" not in table.columns:
        return []
    codes, names = _codes(table)
    at = np.full(values.shape[:2], -1)
    known = codes >= 0
    at[cell_codes[known], seed_codes[known]] = codes[known]
    mixed = known & (at[cell_codes, seed_codes] != codes)
    if mixed.any():
        row = int(mixed.argmax())
        cell, seed = cell_codes[row], seed_codes[row]
        raise InputError(
            f"cell {cells[cell]!r}, seed {seeds[seed]} has rows of trainings {names[codes[row]]!r} and "
            f"{names[at[cell, seed]]!r} ({rows_of(mixed & (cell_codes == cell) & (seed_codes == seed))}); "
            "a run must belong to one training"
        )
    notes = []
    for cell, trained in enumerate(at):
        for training in np.unique(trained[trained >= 0]):
            same = np.flatnonzero((trained == training) & np.isfinite(values[cell]).any(-1)).tolist()
            if len(same) < 2:
                continue
            finite = np.isfinite(values[cell, same])
            total = np.where(finite, values[cell, same], 0.0).sum(0)
            with np.errstate(invalid="ignore"):
                values[cell, same[0]] = total / finite.sum(0)
            values[cell, same[1:]] = np.nan
            at[cell, same[1:]] = -1
            notes.append(
                f"{cells[cell]}: seeds {listed([str(seeds[s]) for s in same])} are one training run "
                f"({names[training]}) and count as one, with their mean. If they are separate runs, give "
                "each its own name in the column training."
            )
    cell_of, seed_of = np.nonzero(at >= 0)
    first: dict[int, int] = {}
    for cell, seed in zip(cell_of.tolist(), seed_of.tolist(), strict=True):
        training = int(at[cell, seed])
        other = first.setdefault(training, seed)
        if other != seed:
            where = (codes == training) & ((seed_codes == seed) | (seed_codes == other))
            raise InputError(
                f"training {names[training]!r} is seed {seeds[other]} in one cell and seed {seeds[seed]} "
                f"in {cells[cell]!r} ({rows_of(where)}); give a training one seed, or use two names"
            )
    return notes


def training_groups(table: pd.DataFrame, cell_codes: Array, count: int) -> list[list[int]]:
    """Groups of cells that are connected by common values of `training`."""
    if "training" not in table.columns:
        return [[index] for index in range(count)]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes, kinds = _codes(table)
    known = codes >= 0
    links = coo_array(
        (np.ones(int(known.sum())), (cell_codes[known], count + codes[known])),
        shape=(count + len(kinds), count + len(kinds)),
    )
    component = connected_components(links, directed=False)[1][:count]
    return [np.flatnonzero(component == c).tolist() for c in dict.fromkeys(component.tolist())]


def _codes(table: pd.DataFrame) -> tuple[Array, list[str]]:
    """Each row's training as a number (-1: not named), and the names."""
    codes, kinds = pd.factorize(table["training"])
    names = [str(kind) for kind in kinds]
    empty = np.array([name == "" for name in names] + [True])
    return np.where(empty[codes], -1, codes), names
