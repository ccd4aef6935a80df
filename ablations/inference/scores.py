"""Turns a long table of scores into arrays over cells, seeds and utterances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ablate.models.errors import InputError, listed

from ..claims import direction_of
from ..design import Design, positions
from .engine import Array, Estimates, estimate
from .holes import filled, islands
from .trainings import merge, rows_of, training_groups

DESCRIPTIONS = ("speaker", "snr", "noise")


@dataclass(frozen=True)
class Layout:
    """The levels of each cell, from a plan or from a table that others made (`reports.ingest`).

    Attributes:
        design: design of the cells that have a level of every factor.
        cells: cell -> factor -> level, in the order of reports, including cells without scores. Cells outside
            the factorial do not have levels.
        base: the cell at the off levels, if there is one.
        baseline: the reference cell.
        notes: sentences on how the table was read.
    """

    design: Design
    cells: Mapping[str, Mapping[str, str]]
    base: str | None = None
    baseline: str | None = None
    notes: Sequence[str] = ()

    @classmethod
    def planned(
        cls, design: Design, cells: Mapping[str, Mapping[str, str]], baseline: str | None = None
    ) -> Layout:
        """The layout of a study: its design, its cells by name, and the baseline if there is one."""
        at = positions(cells, design.levels)
        inside = {at[key]: cells[at[key]] for key in sorted(at)}
        return cls(design, inside | dict(cells), at.get(design.off), baseline)


@dataclass(frozen=True)
class Scores:
    """Scores of one metric as arrays.

    Attributes:
        cells: the cells of the layout that are in the table.
        values: (cell, seed, utterance), NaN if the run is absent.
        present, diverged: (cell, seed).
        groups: for each set of cells that share their runs, their indices; every cell is in one group.
        utterance_info: one row per utterance, with speaker, snr and noise if known.
        direction: 1 if higher is better, -1 if lower is.
        measured: (cell, seed) share of the utterances that were measured; the others are fitted.
        rounding: lower bound of the variance of a cell's mean, for a rounded table of run means.
        notes: sentences on scores that were left out or merged.
    """

    metric: str
    layout: Layout
    cells: list[str]
    seeds: list[Any]
    utterances: list[str]
    values: Array
    present: Array
    diverged: Array
    groups: list[list[int]]
    utterance_info: pd.DataFrame
    direction: int
    measured: Array
    rounding: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def cell_levels(self) -> Mapping[str, Mapping[str, str]]:
        return self.layout.cells

    @property
    def levels(self) -> Mapping[str, tuple[str, ...]]:
        return self.layout.design.levels

    @property
    def better(self) -> dict[str, str]:
        """The metric's direction, as the argument `direction` of `read_scores`."""
        return {self.metric: "higher" if self.direction > 0 else "lower"}

    def scored(self) -> list[int]:
        """Indices of the cells with at least one scored run."""
        return np.flatnonzero(self.present.any(1)).tolist()

    def groups_of(self, kept: Sequence[int]) -> list[list[int]]:
        """The groups as positions among the `kept` cells."""
        position = {index: new for new, index in enumerate(kept)}
        reduced = [[position[index] for index in group if index in position] for group in self.groups]
        return [group for group in reduced if group]

    def estimate(self, weights: Array, utterances: slice | Array = slice(None)) -> Estimates:
        """Estimates of contrasts of the scored cells, over all utterances or a selection."""
        kept = self.scored()
        return estimate(
            self.values[kept][..., utterances],
            weights,
            self.groups_of(kept),
            self.present[kept],
            rounding=self.rounding,
            observed=self.observed(kept),
        )

    def observed(self, kept: Sequence[int]) -> Array | None:
        """Share of each cell's scores that were measured; None if all scores were."""
        there = self.present[kept]
        share = np.where(there, self.measured[kept], 0.0).sum(1) / there.sum(1)
        return share if (share < 1).any() else None


@dataclass(frozen=True)
class Keys:
    """The cell and seed of each row of a table."""

    cells: list[str]
    cell_codes: Array
    seeds: list[Any]
    seed_codes: Array


def keys_of(table: pd.DataFrame, metric: str, also: Sequence[str] = ()) -> Keys:
    """The cells and seeds of a table's rows.

    Raises:
        InputError: the table is empty or lacks a column (including `also`), or a row lacks a cell or seed.
    """
    needed = ["cell", "seed", "utterance", metric, *also]
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        raise InputError(f"the scores lack {listed(lacking)}; they have {listed(list(table.columns))}")
    if not len(table):
        raise InputError("the scores are empty")
    cell_codes, cell_index = pd.factorize(table["cell"])
    seed_codes, seed_index = pd.factorize(table["seed"], sort=True)
    if (cell_codes < 0).any() or (seed_codes < 0).any():
        column = "cell" if (cell_codes < 0).any() else "seed"
        row = int(np.argmax((cell_codes if column == "cell" else seed_codes) < 0))
        raise InputError(f"row {row} of the scores has no {column}")
    return Keys([str(name) for name in cell_index], cell_codes, [plain(s) for s in seed_index], seed_codes)


def read_scores(
    table: pd.DataFrame, metric: str, layout: Layout, direction: Mapping[str, str] = MappingProxyType({})
) -> Scores:
    """The scores of one metric.

    Args:
        table: a row per cell, seed and utterance: cell, seed, utterance, the metric; optional speaker, snr,
            noise, training (cells with a common name share their runs, and seeds of a cell with a common name
            are one run), status (done or diverged).
        layout: the layout of all cells of the table.
        direction: metric -> `higher` or `lower` (is better), for metrics that are not registered.

    Raises:
        InputError: a column is missing, a row occurs twice, runs do not have an utterance in common, or the
            metric's direction is unknown.
    """
    better = direction_of(metric, direction)
    keys = keys_of(table, metric)
    there = set(keys.cells)
    cells = [cell for cell in layout.cells if cell in there]
    position = {name: index for index, name in enumerate(cells)}
    cell_codes = np.array([position[name] for name in keys.cells])[keys.cell_codes]
    seed_names, seed_codes = keys.seeds, keys.seed_codes
    notes = list(layout.notes)
    diverged = np.zeros((len(cells), len(seed_names)), dtype=bool)
    keep = np.ones(len(table), dtype=bool)
    if "status" in table.columns:
        status_codes, kinds = pd.factorize(table["status"])
        unknown = sorted({str(kind) for kind in kinds} - {"done", "diverged", ""})
        if unknown:
            raise InputError(f"status {unknown[0]!r} is not 'done' or 'diverged'")
        code = {str(kind): index for index, kind in enumerate(kinds)}.get("diverged")
        if code is not None:
            gone = status_codes == code
            diverged[cell_codes[gone], seed_codes[gone]] = True
            keep = ~diverged[cell_codes, seed_codes]
    try:
        values = pd.to_numeric(table[metric], errors="raise").to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"{metric} does not contain numbers: {error}") from None
    keep &= np.isfinite(values)
    if not keep.any():
        raise InputError(f"no run has a value of {metric}")
    utterance_codes, utterance_index = pd.factorize(table["utterance"])
    if (utterance_codes[keep] < 0).any():
        raise InputError(f"row {int(np.flatnonzero(keep & (utterance_codes < 0))[0])} has no utterance")
    utterance_names = [str(name) for name in utterance_index]
    shape = (len(cells), len(seed_names), len(utterance_names))
    flat = np.ravel_multi_index((cell_codes[keep], seed_codes[keep], utterance_codes[keep]), shape)
    array = np.full(int(np.prod(shape)), np.nan)
    array[flat] = values[keep]
    if int(np.isfinite(array).sum()) < len(flat):
        ordered = np.sort(flat)
        doubled = ordered[1:][ordered[1:] == ordered[:-1]][0]
        c, s, u = (int(i) for i in np.unravel_index(doubled, shape))
        where = np.zeros(len(table), dtype=bool)
        where[np.flatnonzero(keep)[flat == doubled]] = True
        raise InputError(
            f"cell {cells[c]!r}, seed {seed_names[s]}, utterance {utterance_names[u]!r} has more than one "
            f"row ({rows_of(where)}); keep one"
        )
    array = array.reshape(shape)
    silent = np.ones(shape[:2], dtype=bool)
    silent[cell_codes, seed_codes] = False
    silent |= np.isfinite(array).any(-1) | diverged
    notes += merge(table, cell_codes, seed_codes, cells, seed_names, array)
    finite = np.isfinite(array)

    def run_names(runs: Array) -> list[str]:
        return [f"{cells[c]} seed {seed_names[s]}" for c, s in np.argwhere(runs).tolist()]

    present = finite.any(-1)
    if not silent.all():
        notes.append(f"Runs without any value of {metric}, left out: {listed(run_names(~silent))}.")
    known = finite[present].any(0)
    counts = finite.sum(-1)
    poor = present & (counts < np.median(counts[present]) / 2)
    if poor.any():
        few = [f"{name} ({n})" for name, n in zip(run_names(poor), counts[poor].tolist(), strict=True)]
        notes.append(
            f"Runs with {metric} on fewer than half of the {int(known.sum())} utterances, left out to "
            f"keep the utterances of the others: {listed(few)}. Score them again."
        )
        present &= ~poor
    heard = finite[present].mean(0)
    compared = heard >= 0.5
    if not compared.any():
        c, s = (int(i) for i in np.argwhere(present)[counts[present].argmin()])
        raise InputError(
            f"no utterance has {metric} in half of the runs; {cells[c]!r} seed {seed_names[s]} has it on "
            f"{counts[c, s]} of {int(known.sum())}. Score every run on the same utterances"
        )
    if unmeasured := [utterance_names[u] for u in np.flatnonzero(~known)]:
        notes.append(f"Utterances without {metric} in any run, left out: {listed(unmeasured)}.")
    if dropped := [utterance_names[u] for u in np.flatnonzero(known & ~compared)]:
        notes.append(
            f"{len(dropped)} of {int(known.sum())} utterances are left out because fewer than half of the "
            f"runs have {metric} for them: {listed(dropped)}."
        )
    kept_values = np.ascontiguousarray(array[..., compared])
    kept_values[~present] = np.nan
    _refuse_copies(kept_values, present, cells, seed_names)
    share = np.isfinite(kept_values).mean(-1)
    holes = present & (share < 1)
    if holes.any():
        _refuse_islands(np.isfinite(kept_values[present]), run_names(present), metric)
        lacking = [utterance_names[u] for u in np.flatnonzero(compared & (heard < 1))]
        notes.append(
            f"{len(lacking)} of {int(compared.sum())} utterances ({listed(lacking)}) have no {metric} in "
            f"{listed(run_names(holes))}; each run's mean is adjusted for its missing utterances (a "
            "least-squares fit with a term per run and one per utterance)."
        )
        kept_values[present] = filled(kept_values[present])
    digits = decimals(table[metric][keep]) if int(compared.sum()) == 1 else None
    row_at = np.full(len(utterance_names), -1)
    indices = np.flatnonzero(keep)[::-1]
    row_at[utterance_codes[indices]] = indices
    kept = [utterance_names[u] for u in np.flatnonzero(compared)]
    info = pd.DataFrame(index=pd.Index(kept, name="utterance"))
    for column in DESCRIPTIONS:
        if column in table.columns:
            found_values = table[column].iloc[row_at[compared]]
            if found_values.notna().any():
                info[column] = found_values.to_numpy()
    return Scores(
        metric=metric,
        layout=layout,
        cells=cells,
        seeds=seed_names,
        utterances=list(info.index),
        values=kept_values,
        present=present,
        diverged=diverged,
        groups=training_groups(table, cell_codes, len(cells)),
        utterance_info=info,
        direction=better,
        measured=share,
        rounding=0.0 if digits is None else 100.0**-digits / 12,
        notes=notes,
    )


def _refuse_copies(values: Array, present: Array, cells: Sequence[str], seeds: Sequence[Any]) -> None:
    """Raise InputError if two seeds of a cell have exactly the same scores.

    Runs with one score for every utterance (an output at the metric's floor) are skipped, and so are runs of
    a few scores with three decimals, which can be equal by chance.
    """
    for cell, block, there in zip(cells, values, present, strict=True):
        known: dict[bytes, int] = {}
        for seed in np.flatnonzero(there).tolist():
            rounded = block.shape[-1] < 8 and np.array_equal(
                block[seed].round(3), block[seed], equal_nan=True
            )
            if rounded or (block[seed] == block[seed][0]).all():
                continue
            other = known.setdefault(block[seed].tobytes(), seed)
            if other != seed:
                raise InputError(
                    f"cell {cell!r}: seeds {seeds[other]} and {seeds[seed]} have the same scores to the "
                    f"last bit on all {block.shape[-1]} utterances. Two training runs never have: either "
                    "the seed does not reach the training, or one run's scores are there twice. Remove "
                    "its rows, or give both the same name in the column training"
                )


def _refuse_islands(measured: Array, runs: Sequence[str], metric: str) -> None:
    """Raise InputError if runs do not share an utterance with the others; `measured` is (run, utterance)."""
    found = islands(measured)
    if (apart := found != found[0]).any():
        theirs = [name for name, other in zip(runs, apart.tolist(), strict=True) if other]
        raise InputError(
            f"no utterance is scored with {metric} both in {listed(theirs)} and in the other runs, so "
            "they cannot be compared. Score all runs on the same utterances, or remove those runs"
        )


def decimals(column: pd.Series) -> int:
    """The largest number of decimals in a column."""
    exponents = [Decimal(text).as_tuple().exponent for text in column.dropna().astype(str)]
    return max([-power for power in exponents if isinstance(power, int)], default=0)


def plain(value: Any) -> Any:
    """A value as a plain JSON type; numbers that are not finite become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
