"""Chooses the run that narrows the intervals most per hour.

A target's half-width with n_g seeds of training group g is t(df) sqrt(sum_g V_g / n_g + U). V_g is what one
seed of the group adds (`Estimates.one_seed`), U the utterances' part, and df are Satterthwaite's. The next
run is the one whose seed lowers the widest target's half-width most per hour.

Variances are shrunk towards the target's mean for this choice only, never for an interval. With few seeds the
noisiest cell is noisy partly by chance, and choosing by chance costs coverage. For the same reason every cell
gets `FIRST` seeds before the first look.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ablate.models.errors import InputError

from .analysis import Analysis
from .contrasts import judged
from .engine import Array, Estimates, membership, quantile, satterthwaite
from .scores import Scores

FIRST = 5
"""Seeds of every cell before the first look."""
PRIOR = 20.0
"""Degrees of freedom that the mean over a target's groups is worth in the shrinkage (docs/statistics.md)."""


@dataclass(frozen=True)
class Training:
    """One run to add: a seed of a cell, or of the cells that share it.

    Attributes:
        target: the widest target, which the run should narrow; empty before the first look.
        half_width: half-width of the widest target after this run and those before it, at today's variances.
        gain: how much the target's half-width falls per hour.
    """

    cells: tuple[str, ...]
    seed: Any
    hours: float
    target: str = ""
    half_width: float | None = None
    gain: float | None = None


@dataclass(frozen=True)
class Allocation:
    """The next runs, the most useful first.

    Attributes:
        widest: the widest target and its reported half-width; None before the first look.
        floors: target -> half-width from the utterances alone, if that exceeds the wanted one. Such a target
            does not get runs, since only more test utterances would narrow it.
        stopped: cells that do not get more runs because they keep diverging or failing.
        blocked: other target -> half-width from utterances and stopped cells alone, if that exceeds the
            wanted one. Such a target does not get runs either.
    """

    trainings: tuple[Training, ...]
    widest: tuple[str, float] | None
    floors: Mapping[str, float]
    stopped: tuple[str, ...]
    blocked: Mapping[str, float] = field(default_factory=dict)

    @property
    def limits(self) -> list[str]:
        """Sentences on the intervals that more runs cannot narrow."""
        lines = [f"{cell} keeps diverging or failing, so it gets no more runs" for cell in self.stopped]
        lines += [
            f"{target}: the test utterances alone give a half-width of {floor:.3f}; add test utterances, "
            "more runs do not help"
            for target, floor in self.floors.items()
        ]
        lines += [
            f"{target}: without more runs of {', '.join(self.stopped)}, runs of the other cells cannot "
            f"get below +-{floor:.3f}; none are added for it"
            for target, floor in self.blocked.items()
        ]
        return lines


@dataclass(frozen=True)
class Targets:
    """Variances of the targets, to compare runs.

    Attributes:
        estimates: the targets' estimates, with shrunk variances of one seed and the planned numbers of seeds.
        stuck: (target,) whether further runs cannot narrow it.
    """

    estimates: Estimates
    confidence: float
    stuck: Array

    @classmethod
    def of(cls, estimates: Estimates, sizes: Array, confidence: float) -> Targets:
        """Build it from the targets' estimates; `sizes` (target, group) are sums of squared weights.

        A group's variance per squared weight is shrunk towards the target's mean by its degrees of freedom.
        """
        involved = estimates.seeds > 0
        total = np.where(involved, sizes, 0.0).sum(-1, keepdims=True)
        mean = estimates.one_seed.sum(-1, keepdims=True) / np.where(total > 0, total, 1.0)
        own = np.maximum(estimates.seeds - 1, 0)
        trust = own / (own + PRIOR)
        shrunk = np.where(involved, trust * estimates.one_seed + (1 - trust) * mean * sizes, 0.0)
        return cls(replace(estimates, one_seed=shrunk), confidence, np.zeros(len(shrunk), dtype=bool))

    def half_widths(self) -> Array:
        """The half-width of each target, (target,)."""
        return _half_widths(self.estimates, self.estimates.seeds, self.confidence)

    def best(self, hours: Array, open: Array) -> tuple[int, int, float]:
        """(target, group, gain per hour): the widest target that is not stuck, and the `open` group that
        narrows it most per hour. If the gain is zero or less, more runs do not narrow the target."""
        half = self.half_widths()
        target = int(np.where(self.stuck, -np.inf, half).argmax())
        seeds = self.estimates.seeds[target]
        one_more = seeds + np.eye(len(seeds), dtype=int) * (seeds > 0)
        after = _half_widths(self.estimates.rows([target]), one_more, self.confidence)
        gain = np.where(open & (seeds > 0), (half[target] - after) / hours, -np.inf)
        group = int(gain.argmax())
        return target, group, float(gain[group])

    def with_seed(self, group: int) -> Targets:
        """These targets with one more seed of a group."""
        seeds = self.estimates.seeds.copy()
        seeds[:, group] += seeds[:, group] > 0
        return replace(self, estimates=replace(self.estimates, seeds=seeds))


def _half_widths(estimates: Estimates, seeds: Array, confidence: float) -> Array:
    """Half-widths with the given numbers of seeds (..., group)."""
    shares = np.where(seeds > 0, estimates.one_seed / np.maximum(seeds, 1), 0.0)
    return _half_width(shares, np.maximum(seeds - 1, 1), estimates, confidence)


def _half_width(parts: Array, part_df: Array, estimates: Estimates, confidence: float) -> Array:
    """Half-widths from the given seed parts of the variance and the estimates' utterance part."""
    variance = parts.sum(-1) + estimates.utterance_part
    df = satterthwaite(variance, parts, part_df, estimates.utterance_part, estimates.utterance_df)
    return quantile(confidence, df) * np.sqrt(variance)


def targets(analysis: Analysis) -> list[int]:
    """Rows of `effects` to narrow: the judged effects and the gap."""
    wanted = {*judged(analysis.contrasts)}
    return [
        row
        for row, contrast in enumerate(analysis.contrasts)
        if (contrast.kind == "gap" or row in wanted) and analysis.estimates.estimable[row]
    ]


def allocate(
    analysis: Analysis,
    *,
    hours: Mapping[str, float] | None = None,
    width: float | None = None,
    count: int = 10,
    max_seeds: int | None = None,
    failed: Mapping[str, Collection[Any]] = MappingProxyType({}),
) -> Allocation:
    """The runs that narrow most per hour, one after the other.

    Args:
        hours: hours of one run of each cell; default: the same for all.
        width: wanted half-width of every target; default: list `count` runs.
        count: maximum number of runs to list.
        max_seeds: maximum number of seeds of a cell, including diverged and failed ones.
        failed: seeds of each cell that failed for good; they are not proposed again. A cell with failed seeds
            but without scores does not get runs.

    Raises:
        InputError: the width is not above zero, or a cell's hours are missing or not above zero.
    """
    if width is not None and not width > 0:
        raise InputError(f"the target half-width {width} is not above zero")
    scores = analysis.scores
    trainings = [_Group(scores, group, hours, failed) for group in scores.groups]
    most = math.inf if max_seeds is None else max_seeds
    stopped = tuple(cell for group in trainings if group.keeps_diverging for cell in group.cells)
    stopped += tuple(cell for cell in failed if cell not in scores.cells)
    active = [group for group in trainings if not group.keeps_diverging]
    first = [
        group.training(more)
        for more in range(FIRST)
        for group in active
        if group.done + more < min(FIRST, most) and len(group.made) + more < most
    ]
    if first:
        return Allocation(tuple(first[:count]), None, {}, stopped)
    rows, halves = _with_width(analysis)
    if not rows:
        return Allocation((), None, {}, stopped)
    names = [analysis.contrasts[row].name for row in rows]
    widest = max(zip(names, halves, strict=True), key=lambda named: named[1])
    scored = scores.scored()
    there = [group for group in trainings if set(group.members) & set(scored)]
    closed = np.array([group.keeps_diverging for group in there])
    floors = {} if width is None else _above(width, analysis, rows, np.zeros_like(closed))
    blocked = {} if width is None else _above(width, analysis, rows, closed)
    blocked = {name: left for name, left in blocked.items() if name not in floors}
    rows = [row for row, name in zip(rows, names, strict=True) if name not in floors | blocked]
    names = [name for name in names if name not in floors | blocked]
    if not rows:
        return Allocation((), widest, floors, stopped, blocked)
    chosen = analysis.estimates.rows(rows)
    sizes = (analysis.weights.to_numpy()[rows] ** 2) @ membership(scores.groups_of(scored), len(scored))
    state = Targets.of(chosen, sizes, analysis.confidence)
    half = chosen.half_width(analysis.confidence)
    price = np.array([group.hours for group in there])
    added = np.zeros(len(there), dtype=int)
    found: list[Training] = []
    while len(found) < count and not state.stuck.all():
        if width is not None and half[~state.stuck].max() <= width:
            break
        room = np.array([len(group.made) < most - more for group, more in zip(there, added, strict=True)])
        target, group, gain = state.best(price, room & ~closed)
        if not gain > 0:
            state.stuck[target] = True
            continue
        state = state.with_seed(group)
        half = state.half_widths()
        found.append(there[group].training(int(added[group]), names[target], float(half.max()), gain))
        added[group] += 1
    return Allocation(tuple(found), widest, floors, stopped, blocked)


def _with_width(analysis: Analysis) -> tuple[list[int], list[float]]:
    """The rows of targets with an interval, and their half-widths."""
    rows = targets(analysis)
    half = analysis.estimates.rows(rows).half_width(analysis.confidence) if rows else np.empty(0)
    there = np.flatnonzero(np.isfinite(half)).tolist()
    return [rows[i] for i in there], half[there].tolist()


def _above(width: float, analysis: Analysis, rows: list[int], closed: Array) -> dict[str, float]:
    """Target -> half-width from utterances and `closed` groups alone, if that is above `width`."""
    chosen = analysis.estimates.rows(rows)
    parts, part_df = chosen.seed_parts[:, closed], chosen.seeds[:, closed] - 1
    left = _half_width(parts, part_df, chosen, analysis.confidence)
    found = zip(rows, left.tolist(), strict=True)
    return {analysis.contrasts[row].name: half for row, half in found if half > width}


class _Group:
    """Cells that share their runs: seeds used so far, hours per run, and whether they keep diverging."""

    def __init__(
        self,
        scores: Scores,
        members: Sequence[int],
        hours: Mapping[str, float] | None,
        failed: Mapping[str, Collection[Any]],
    ) -> None:
        self.members = list(members)
        self.cells = tuple(scores.cells[c] for c in members)
        done, gone = scores.present[self.members].any(0), scores.diverged[self.members].any(0)
        self.made = [scores.seeds[s] for s in np.flatnonzero(done | gone)]
        lost = {seed for cell in self.cells for seed in failed.get(cell, ())} - set(self.made)
        self.made += sorted(lost)
        self.done = int(done.sum())
        self.keeps_diverging = bool(gone.sum() + len(lost) >= max(2, self.done))
        lacking = [cell for cell in self.cells if hours is not None and not hours.get(cell, 0) > 0]
        if lacking:
            raise InputError(f"hours per run of {lacking[0]!r} must be above zero")
        self.hours = 1.0 if hours is None else max(hours[cell] for cell in self.cells)

    def training(
        self, more: int, target: str = "", half_width: float | None = None, gain: float | None = None
    ) -> Training:
        """The run after `more` others; its seed is the smallest free number, as seeds are nested."""
        free = [seed for seed in range(1, len(self.made) + more + 2) if seed not in self.made]
        return Training(self.cells, free[more], self.hours, target, half_width, gain)
