"""Secondary intervals, centred by seed within the grid: they remove what the runs of one seed share.

Runs of one seed share order, crops and initialisation. A seed effect that is the same in every cell cancels
in a contrast of the grid's cells, but not in the cells' variances over seeds. The interval of `engine` is
then wider than necessary. Here, variances are those of the residuals of an additive fit with terms for
training group and seed, separately for each utterance:

    s_g^2 = sum of squared residuals of group g / their trace,    sum_g w_g^2 s_g^2 / S_g
            + s_b^2 sum_s (sum_g w_g [s in g] / S_g)^2            + the utterances' part of `engine`

With equal seeds the fit subtracts each seed's mean over the C groups, the trace is (S-1)(C-1)/C, and the
seeds' own variance s_b^2 cancels. If a factor acts differently at each seed, this interval is too narrow;
`seed_f` tests for that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from .engine import Array, Estimates, membership, quantile, satterthwaite, utterance_part

FEWEST_GROUPS, FEWEST_SEEDS = 4, 3


@dataclass(frozen=True)
class Blocked:
    """Secondary intervals of K contrasts; arrays (..., contrast).

    Attributes:
        se, df: standard error and degrees of freedom; the headline's if the contrast is not centred.
        centred: (contrast,) whether the contrast is centred.
        seed_f, seed_p: F test of seed x contrast against the remaining seed x cell interaction, with
            (S-1, (C-2)(S-1)) degrees of freedom over the seeds that all groups have; NaN if not possible.
    """

    se: Array
    df: Array
    centred: Array
    seed_f: Array
    seed_p: Array

    def half_width(self, confidence: float) -> Array:
        return quantile(confidence, self.df) * self.se


def blocked(
    headline: Estimates,
    scores: Array,
    weights: Array,
    groups: Sequence[Sequence[int]],
    present: Array,
    grid: Collection[int],
    observed: Array | None = None,
) -> Blocked:
    """The contrasts centred by seed; see the module.

    Args:
        headline: the same contrasts by `engine.estimate`, whose arguments the others are.
        grid: the cells of the grid. Groups that contain one of them belong to it.
    """
    kept = [list(group) for group in groups if {*group} & {*grid}]
    none = np.full(headline.value.shape, np.nan)
    alone = Blocked(headline.se, headline.df, np.zeros(len(weights), dtype=bool), none, none)
    if len(kept) < FEWEST_GROUPS or any((present[g] != present[g[0]]).any() for g in kept):
        return alone
    there = present[[group[0] for group in kept]]
    summed = weights @ membership(kept, weights.shape[1])
    outside = np.ones(weights.shape[1], dtype=bool)
    outside[[cell for group in kept for cell in group]] = False
    inside = (weights[:, outside] == 0).all(1) & (np.abs(summed.sum(1)) < 1e-9)
    means = np.stack([scores[..., group, :, :].mean(-3) for group in kept], -3)
    inside &= (np.abs(summed) > 1e-9).any(1)
    seed_f, seed_p = _interplay(means.mean(-1)[..., there.all(0)], summed, inside)
    found = _fitted(headline, scores, weights, kept, means, present, observed)
    if found is None:
        return replace(alone, seed_f=seed_f, seed_p=seed_p)
    se, df, trace = found
    involved = np.abs(weights) @ membership(kept, weights.shape[1]) != 0
    centred = inside & ~(involved & (trace < 1e-9)).any(1)
    se, df = np.where(centred, se, headline.se), np.where(centred, df, headline.df)
    return Blocked(se, df, centred, seed_f, seed_p)


def _fitted(
    headline: Estimates,
    scores: Array,
    weights: Array,
    groups: Sequence[Sequence[int]],
    means: Array,
    present: Array,
    observed: Array | None,
) -> tuple[Array, Array, Array] | None:
    """Standard errors and degrees of freedom of all contrasts, as if centred, and the trace (group,) of the
    additive fit's residuals. None if there are too few seeds, or the groups are not connected."""
    group, seed = np.nonzero(present[[cells[0] for cells in groups]])
    of_group = np.eye(len(groups))[group]
    of_seed = np.eye(present.shape[1])[seed]
    of_seed = of_seed[:, of_seed.any(0)]
    seeds = of_seed.shape[1]
    both = np.hstack([of_group, of_seed])
    if seeds < FEWEST_SEEDS or np.linalg.matrix_rank(both) < len(groups) + seeds - 1:
        return None
    within = np.eye(len(group)) - of_group @ np.linalg.pinv(of_group)
    to_rest = np.eye(len(group)) - both @ np.linalg.pinv(both)
    to_seeds = within - to_rest
    own_trace = np.diag(to_rest) @ of_group
    runs = means[..., group, seed, :]
    rest = to_rest @ runs
    utterances = scores.shape[-1]
    shape = (*headline.value.shape, len(groups))
    parts, residual_parts = np.zeros(shape), np.zeros(shape)
    variances = np.zeros((*headline.value.shape[:-1], len(groups)))
    trace = np.maximum(own_trace, 1e-9)
    least = np.zeros((len(weights), len(groups)))
    for g, cells in enumerate(groups):
        own = group == g
        at = seed[own]
        apart = scores[..., cells, :, :][..., at, :] - means[..., g, at, :][..., None, :, :]
        series = rest[..., own, :][..., None, :, :] + apart - apart.mean(-2, keepdims=True)
        w = weights[:, cells]
        level = series.mean(-1)
        covariance = level @ np.swapaxes(level, -1, -2) / trace[g]
        parts[..., g] = np.einsum("kc,...cd,kd->...k", w, covariance, w) / len(at)
        variances[..., g] = (rest[..., own, :].mean(-1) ** 2).sum(-1) / trace[g]
        least[:, g] = (w**2).sum(1)
        if utterances > 1:
            odd = series - level[..., None]
            flat = odd.reshape(*odd.shape[:-2], -1)
            product = flat @ np.swapaxes(flat, -1, -2) / (trace[g] * (utterances - 1))
            residual_parts[..., g] = np.einsum("kc,...cd,kd->...k", w, product, w) / len(at)
    rounding = headline.least.sum(1) / np.maximum((weights**2).sum(1), 1e-300)
    parts = np.maximum(parts, least * rounding[:, None])
    squares = np.square(to_seeds @ runs.mean(-1)[..., None])[..., 0].sum(-1)
    expected = variances @ (np.diag(to_seeds) @ of_group)
    spread = float(np.trace(of_seed.T @ within @ of_seed))
    seed_variance = np.maximum(squares - expected, 0.0) / spread
    summed = weights @ membership(groups, weights.shape[1])
    lever = np.zeros((len(weights), present.shape[1]))
    np.add.at(lever.T, seed, (summed[:, group] / np.bincount(group)[group]).T)
    extra = seed_variance[..., None] * (lever**2).sum(1)
    by_utterance = np.where(present[..., None], scores, 0.0).sum(-2) / present.sum(-1)[:, None]
    net, net_df = utterance_part(by_utterance, weights, residual_parts, own_trace, observed)
    parts = np.concatenate([parts, extra[..., None]], -1)
    variance = parts.sum(-1) + net
    df = satterthwaite(variance, parts, np.append(trace, seeds - 1), net, net_df)
    return np.sqrt(variance), np.minimum(df, own_trace.sum()), own_trace


def _interplay(means: Array, weights: Array, inside: Array) -> tuple[Array, Array]:
    """F and p of seed x contrast against the remaining seed x cell interaction, (..., contrast).

    Args:
        means: (..., group, seed), of the seeds that all groups have.
        weights: (contrast, group).
    """
    groups, seeds = means.shape[-2:]
    if seeds < FEWEST_SEEDS:
        none = np.full((*means.shape[:-2], len(weights)), np.nan)
        return none, none
    rest = means - means.mean(-1, keepdims=True)
    rest = rest - rest.mean(-2, keepdims=True)
    total = (rest**2).sum((-2, -1))[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        own = ((weights @ rest) ** 2).sum(-1) / (weights**2).sum(1)
        left = (total - own) / ((groups - 2) * (seeds - 1))
        f = np.where(inside & (left > 0), own / (seeds - 1) / left, np.nan)
    return f, stats.f.sf(f, seeds - 1, (groups - 2) * (seeds - 1))
