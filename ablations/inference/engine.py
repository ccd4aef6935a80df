"""Closed-form estimates of contrasts over crossed seeds and utterances.

Arrays are (..., cell, seed, utterance). Leading axes are independent repetitions, so simulations run the same
code as reports.

For weights w the variance of a contrast is

    sum_c w_c^2 s_c^2 / S_c  +  (utterance x contrast variance, net of residual) / U

with s_c^2 the variance over the S_c seeds of the cell's utterance mean; nothing is pooled over cells. Cells
that share their runs are one source of seed noise: their weighted sum is taken seed by seed first.
Degrees of freedom: Satterthwaite (1946), Welch (1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Estimates:
    """Estimates of K contrasts; arrays are (..., contrast) or (..., contrast, group of cells).

    Attributes:
        value: the contrasts.
        seed_parts: each training group's share of the variance, at its number of seeds.
        one_seed: the same shares if every cell had the same single seed.
        least: (contrast, group) lower bound of a share, for cell means that were rounded.
        seeds: (contrast, group) seeds behind each share; 0 where the contrast leaves the group out.
        utterance_part: the utterances' share of the variance, net of residual, never negative.
        utterance_df: its degrees of freedom (infinite if it is zero).
        estimable: (contrast,) whether every group involved has two seeds or more.
    """

    value: Array
    seed_parts: Array
    one_seed: Array
    least: Array
    seeds: Array
    utterance_part: Array
    utterance_df: Array
    estimable: Array

    @cached_property
    def variance(self) -> Array:
        return np.where(self.estimable, self.seed_parts.sum(-1) + self.utterance_part, np.nan)

    @cached_property
    def se(self) -> Array:
        return np.sqrt(self.variance)

    @cached_property
    def df(self) -> Array:
        """Welch-Satterthwaite degrees of freedom; infinite if the variance is exactly zero."""
        return satterthwaite(
            self.variance, self.seed_parts, self.seeds - 1, self.utterance_part, self.utterance_df
        )

    def rows(self, chosen: slice | Sequence[int]) -> Estimates:
        """The estimates of some of the contrasts."""
        return replace(
            self,
            value=self.value[..., chosen],
            seed_parts=self.seed_parts[..., chosen, :],
            one_seed=self.one_seed[..., chosen, :],
            least=self.least[chosen],
            seeds=self.seeds[chosen],
            utterance_part=self.utterance_part[..., chosen],
            utterance_df=self.utterance_df[..., chosen],
            estimable=self.estimable[chosen],
        )

    def interval(self, confidence: float) -> tuple[Array, Array]:
        half = self.half_width(confidence)
        return self.value - half, self.value + half

    def half_width(self, confidence: float) -> Array:
        return quantile(confidence, self.df) * self.se

    @cached_property
    def p(self) -> Array:
        """Two-sided p-values of "the contrast is zero"."""
        return p_values(self.value, self.se, self.df)

    def columns(self, confidence: float) -> dict[str, Array]:
        """Estimates with interval and p-value, by column name; see the function `columns`."""
        return columns(self.value, self.se, self.df, confidence)

    def at_seeds(self, seeds: int | Array) -> tuple[Array, Array]:
        """Standard error and degrees of freedom if every cell had `seeds` seeds (a number or an array).

        Assumes that cells which share runs have all these seeds in common.
        """
        count = np.asarray(seeds)[..., None]
        parts = np.maximum(self.one_seed / count, self.least)
        variance = np.where(self.estimable, parts.sum(-1) + self.utterance_part, np.nan)
        df = satterthwaite(variance, parts, count - 1, self.utterance_part, self.utterance_df)
        return np.sqrt(variance), df


def satterthwaite(variance: Array, parts: Array, part_df: Array, extra: Array, extra_df: Array) -> Array:
    """Degrees of freedom of a variance that is a sum of `parts` (last axis) and one `extra` part.

    A sum has at least as many as its part with the fewest, so at least one. The formula can give fewer if
    `extra` is the difference of two nearly equal numbers, so the result is bounded from below.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(parts > 0, parts**2 / part_df, 0.0).sum(-1) + extra**2 / extra_df
        df = np.where(shares > 0, variance**2 / shares, np.inf)
    least = np.where(parts > 0, part_df, 1.0).min(-1, initial=1.0)
    return np.where(np.isnan(variance), np.nan, np.maximum(df, least))


def quantile(confidence: float, df: Array) -> Array:
    """Two-sided quantile of the t distribution; of the normal one if degrees of freedom are infinite."""
    upper = (1 + confidence) / 2
    finite = np.where(np.isfinite(df), df, 1.0)
    found = np.where(np.isinf(df), special.ndtri(upper), special.stdtrit(finite, upper))
    return np.where(np.isnan(df), np.nan, found)


def p_values(value: Array, se: Array, df: Array) -> Array:
    """Two-sided p-values. With zero variance, p is 1 for a value of exactly zero, else 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(value) / se
    finite = np.where(np.isfinite(df), df, 1.0)
    p = np.where(np.isinf(df), 2 * special.ndtr(-t), 2 * special.stdtr(finite, -t))
    exact = np.where(np.abs(value) < 1e-12, 1.0, 0.0)
    return np.where(np.isnan(se), np.nan, np.where(se == 0, exact, p))


def columns(value: Array, se: Array, df: Array, confidence: float) -> dict[str, Array]:
    """Estimates with interval and p-value, by column name of a table."""
    half = quantile(confidence, df) * se
    found = {"estimate": value, "se": se, "df": df, "low": value - half, "high": value + half}
    return found | {"p": p_values(value, se, df)}


def holm(p: Array, family: int | None = None) -> Array:
    """Holm-adjusted p-values (Holm 1979) along the last axis.

    `family` is the number of declared hypotheses (default: all of `p`). Those without a p-value (NaN, or not
    in `p`) count as the largest, so that the family does not shrink if results are lost.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, axis=-1)
    ordered = np.take_along_axis(p, order, -1)
    count = max(family or 0, p.shape[-1])
    factor = count - np.arange(p.shape[-1])
    adjusted = np.minimum(np.maximum.accumulate(ordered * factor, axis=-1), 1.0)
    out = np.empty_like(p)
    np.put_along_axis(out, order, adjusted, -1)
    return np.where(np.isnan(p), np.nan, out)


def estimate(
    scores: Array,
    weights: Array,
    groups: Sequence[Sequence[int]],
    present: Array | None = None,
    *,
    rounding: float = 0.0,
    observed: Array | None = None,
) -> Estimates:
    """Estimate contrasts of cell means.

    Args:
        scores: (..., cell, seed, utterance); values of absent runs are ignored.
        weights: (contrast, cell).
        groups: for each set of cells that share their runs, their indices; every cell is in one group.
        present: (cell, seed) which runs exist (default: all). Every cell needs at least one.
        rounding: lower bound of the variance of a cell's mean, for any number of seeds.
        observed: (cell,) share of a cell's scores that were measured (default: all). The others are fitted,
            which reduces the utterances' part by the square of this share.

    With one utterance, the utterances' part is zero: the interval then covers other runs only.
    """
    if present is None:
        present = np.ones(scores.shape[-3:-1], dtype=bool)
    count = present.sum(-1)
    if not count.all():
        raise ValueError(f"cells {np.flatnonzero(count == 0).tolist()} have no run")
    utterances = scores.shape[-1]
    scores = scores if present.all() else np.where(present[..., None], scores, 0.0)
    run_means = scores.mean(-1)
    by_utterance = scores.sum(-2) / count[:, None]
    means = by_utterance.mean(-1)
    shape = (*means.shape[:-1], len(weights), len(groups))
    seed_parts, one_seed, residual_parts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    seeds = np.zeros((len(weights), len(groups)), dtype=int)
    alone = [g for g, group in enumerate(groups) if len(group) == 1]
    cells = [groups[g][0] for g in alone]
    squares = weights[:, cells] ** 2
    variance, residual = _variances(scores[..., cells, :, :], present[cells])
    seeds[:, alone] = np.where(squares > 0, count[cells], 0)
    one_seed[..., alone] = squares * variance[..., None, :]
    seed_parts[..., alone] = one_seed[..., alone] / count[cells]
    residual_parts[..., alone] = squares * (residual / count[cells])[..., None, :]
    for g, group in enumerate(groups):
        if len(group) == 1:
            continue
        involved = weights[:, group] != 0
        for pattern in np.unique(involved, axis=0):
            cells, rows = np.array(group)[pattern], np.flatnonzero((involved == pattern).all(1))
            common = present[cells].all(0)
            shared = int(common.sum())
            seeds[rows, g] = shared if len(cells) else 0
            if not len(cells) or shared < 2:
                continue
            overlap = present[cells].astype(float) @ present[cells].T / np.outer(count[cells], count[cells])
            w = weights[np.ix_(rows, cells)]
            series = run_means[..., cells, :][..., common]
            covariance = _covariance(series)
            one_seed[..., rows, g] = np.einsum("kc,...cd,kd->...k", w, covariance, w)
            seed_parts[..., rows, g] = np.einsum("kc,...cd,kd->...k", w, covariance * overlap, w)
            if utterances > 1:
                block = scores[..., cells, :, :][..., common, :]
                residual = _residual_covariance(block, series) * overlap
                residual_parts[..., rows, g] = np.einsum("kc,...cd,kd->...k", w, residual, w)
    estimable = ((seeds > 1) | (np.abs(weights) @ membership(groups, weights.shape[1]) == 0)).all(-1)
    least = (weights**2 @ membership(groups, weights.shape[1])) * rounding
    seed_parts, one_seed = np.maximum(seed_parts, least), np.maximum(one_seed, 0.0)
    net, net_df = utterance_part(by_utterance, weights, residual_parts, seeds - 1, observed)
    return Estimates(means @ weights.T, seed_parts, one_seed, least, seeds, net, net_df, estimable)


def utterance_part(
    by_utterance: Array, weights: Array, residual_parts: Array, part_df: Array, observed: Array | None = None
) -> tuple[Array, Array]:
    """The utterances' share of a contrast's variance, net of the residual; and its degrees of freedom.

    Args:
        by_utterance: (..., cell, utterance) means over seeds.
        residual_parts: (..., contrast, group) residual variance of one utterance with the present seeds.
        part_df: degrees of freedom of each residual part.
        observed: (cell,) as in `estimate`.
    """
    utterances = by_utterance.shape[-1]
    if utterances < 2:
        shape = residual_parts.shape[:-1]
        return np.zeros(shape), np.full(shape, np.inf)
    across = (weights @ by_utterance).var(-1, ddof=1) / utterances
    residual_parts = residual_parts / utterances
    net = across - residual_parts.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = across**2 + np.where(part_df > 0, residual_parts**2 / part_df, 0.0).sum(-1)
        net_df = np.where(net > 0, net**2 * (utterances - 1) / spread, np.inf)
    net = np.maximum(net, 0.0)
    if observed is not None:
        net = net / np.where(weights != 0, observed, 1.0).min(-1) ** 2
    return net, net_df


def membership(groups: Sequence[Sequence[int]], cells: int) -> Array:
    """(cell, group): 1 if the cell belongs to the group."""
    member = np.zeros((cells, len(groups)))
    for g, group in enumerate(groups):
        member[list(group), g] = 1
    return member


def _variances(scores: Array, present: Array) -> tuple[Array, Array]:
    """For each cell of (..., cell, seed, utterance): the variance of the run's mean over seeds, and that of
    the seed x utterance residual. Both are zero with one seed, the second also with one utterance."""
    degrees = np.maximum(present.sum(-1) - 1, 1)
    count = present.sum(-1)[:, None]
    run_means = scores.mean(-1)
    centred = np.where(present, run_means - run_means.sum(-1, keepdims=True) / count, 0.0)
    variance = (centred**2).sum(-1) / degrees
    if scores.shape[-1] < 2:
        return variance, np.zeros_like(variance)
    rest = scores - (scores.sum(-2) / count)[..., None, :] - centred[..., None]
    rest = np.where(present[..., None], rest, 0.0)
    return variance, (rest**2).sum((-2, -1)) / (degrees * (scores.shape[-1] - 1))


def _covariance(series: Array) -> Array:
    """Covariance over seeds: (..., cell, seed) -> (..., cell, cell)."""
    centred = series - series.mean(-1, keepdims=True)
    return centred @ np.swapaxes(centred, -1, -2) / (series.shape[-1] - 1)


def _residual_covariance(block: Array, series: Array) -> Array:
    """Covariance of the seed x utterance residuals: (..., cell, seed, utterance) -> (..., cell, cell)."""
    residual = block - block.mean(-2, keepdims=True) - (series - series.mean(-1, keepdims=True))[..., None]
    flat = residual.reshape(*residual.shape[:-2], -1)
    return flat @ np.swapaxes(flat, -1, -2) / ((block.shape[-2] - 1) * (block.shape[-1] - 1))
