"""From a long table of scores to estimates with intervals and verdicts.

`analyze` turns a scores frame into an `Analysis`. The numbers are contrasts of cell means
(`ablations.contrasts`) with the closed-form variances of `reports.engine`; docs/statistics.md says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .contrasts import Contrast, NotEstimable, build
from .engine import Array, Estimates, estimate, holm, quantile

SCHEMA = "ablate.analysis"
SCHEMA_VERSION = 1
METRICS = ("pesq_wb", "pesq_nb", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr")
DESCRIPTIONS = ("speaker", "snr", "noise")
RESERVED = ("cell", "seed", "utterance", *DESCRIPTIONS, "training", "status", *METRICS, "seconds", "error")
EFFECT_COLUMNS = ("name", "kind", "estimate", "se", "df", "low", "high", "p", "p_holm", "verdict")
MOST_SEEDS = 200


@dataclass(frozen=True)
class FactorClaim:
    """What somebody said a factor is worth: on - off, in the metric's unit."""

    low: float
    high: float
    source: str = ""


@dataclass(frozen=True)
class Scores:
    """A scores frame as arrays.

    Attributes:
        values: (cell, seed, utterance), NaN where a run is absent.
        present, diverged: (cell, seed).
        groups: indices of the cells that share their trainings; together every cell once.
        cell_levels: cell -> factor -> level; empty for a cell outside the factorial.
        base: the cell at the off levels, if it has rows.
        utterance_info: one row per utterance, with speaker, snr and noise where known.
        notes: what was left out.
    """

    cells: list[str]
    seeds: list[Any]
    utterances: list[str]
    values: Array
    present: Array
    diverged: Array
    groups: list[list[int]]
    cell_levels: dict[str, dict[str, str]]
    levels: dict[str, tuple[str, ...]]
    base: str | None
    utterance_info: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def scored(self) -> list[int]:
        """Indices of the cells with at least one scored run."""
        return np.flatnonzero(self.present.any(1)).tolist()


@dataclass(frozen=True)
class Analysis:
    """Estimates of every contrast the scores can give.

    Attributes:
        effects: a row per contrast: name, kind, estimate, se, df, low, high, p, p_holm, verdict; then `at`
            (the other factors' levels of a simple effect), claim_low, claim_high, claim_source,
            seeds_needed, note.
        cells: a row per cell with scores: cell, one column per factor, runs, mean, sd (over seeds), se,
            df, low, high.
        divergence: a row per cell: cell, runs, diverged, rate, low, high (exact binomial interval).
        pooled: the same contrasts under the pooled crossed model, a labelled secondary.
        contrasts: the weights, in the order of `effects`.
        not_estimable: contrasts that need cells without scores.
        aliases: what a fractional design mixes up with each effect.
        design: full, fractional, one-in, one-out or incomplete.
        levels: factor -> its levels, off first.
        base: the all-off levels.
        base_cell: their cell; None where it has no scores.
        baseline: the reference cell.
        claims: factor (or `factor=level`) -> what was claimed.
        notes: sentences a report prints under its tables.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    divergence: pd.DataFrame
    pooled: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    not_estimable: tuple[NotEstimable, ...]
    aliases: Mapping[str, tuple[str, ...]]
    design: str
    metric: str
    margin: float
    confidence: float
    levels: Mapping[str, tuple[str, ...]]
    base: Mapping[str, str]
    base_cell: str | None
    baseline: str | None
    claims: Mapping[str, FactorClaim]
    seeds: tuple[Any, ...]
    utterances: int
    notes: tuple[str, ...]
    scores: Scores = field(repr=False)
    estimates: Estimates = field(repr=False)

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(self.levels)

    def kind(self, kind: str) -> pd.DataFrame:
        """The effects of one kind."""
        return self.effects[self.effects["kind"] == kind]

    @property
    def credit(self) -> pd.DataFrame:
        """The row per factor that a claim is compared with: Shapley values, else main effects."""
        shapley = self.kind("shapley")
        return shapley if len(shapley) else self.kind("main")

    @cached_property
    def weights(self) -> pd.DataFrame:
        """The weight matrix: a row per contrast, a column per cell with scores."""
        names = [self.scores.cells[i] for i in self.scores.scored()]
        index = pd.MultiIndex.from_tuples(
            [(c.kind, c.name, c.at) for c in self.contrasts], names=["kind", "name", "at"]
        )
        return pd.DataFrame(_matrix(self.contrasts, names), index=index, columns=names)

    def by(self, column: str) -> pd.DataFrame:
        """Cell means, the gap and the main effects within each speaker, snr or noise.

        Returns a row per subset and number: the subset (named like `column`), utterances, kind (`cell`,
        `gap`, `main`), name, estimate, se, df, low, high. These subsets of one test set describe it,
        and nothing corrects for looking at many.

        Raises ValueError if the scores have no such column.
        """
        info = self.scores.utterance_info
        if column not in info.columns:
            have = ", ".join(info.columns) or "none of speaker, snr, noise"
            raise ValueError(f"the scores have no column {column!r} to split by (there: {have})")
        scored = self.scores.scored()
        names = [self.scores.cells[i] for i in scored]
        chosen = [c for c in self.contrasts if c.kind in ("gap", "main")]
        weights = np.vstack([np.eye(len(names)), _matrix(chosen, names)])
        groups, present = _subgroups(self.scores.groups, scored), self.scores.present[scored]
        labels = [("cell", name) for name in names] + [(c.kind, c.name) for c in chosen]
        parts = []
        for value, rows in info.groupby(column, sort=True, observed=True).indices.items():
            found = estimate(self.scores.values[scored][..., rows], weights, groups, present)
            low, high = found.interval(self.confidence)
            parts.append(
                pd.DataFrame(
                    {
                        column: value,
                        "utterances": len(rows),
                        "kind": [kind for kind, _ in labels],
                        "name": [name for _, name in labels],
                        "estimate": found.value,
                        "se": found.se,
                        "df": found.df,
                        "low": low,
                        "high": high,
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the scores themselves, in plain types; numbers that do not exist are None."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "metric": self.metric,
            "margin": self.margin,
            "confidence": self.confidence,
            "design": self.design,
            "levels": {factor: list(names) for factor, names in self.levels.items()},
            "base": dict(self.base),
            "base_cell": self.base_cell,
            "baseline": self.baseline,
            "seeds": [_plain(seed) for seed in self.seeds],
            "utterances": self.utterances,
            "claims": {
                name: {"low": claim.low, "high": claim.high, "source": claim.source}
                for name, claim in self.claims.items()
            },
            "effects": [
                {**record, "weights": dict(contrast.weights)}
                for record, contrast in zip(_records(self.effects), self.contrasts, strict=True)
            ],
            "cells": _records(self.cells),
            "divergence": _records(self.divergence),
            "not_estimable": [
                {"kind": lost.kind, "name": lost.name, "at": lost.at, "missing": list(lost.missing)}
                for lost in self.not_estimable
            ],
            "aliases": {name: list(others) for name, others in self.aliases.items()},
            "pooled": {"label": POOLED_LABEL, "effects": _records(self.pooled)},
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON; `schema` and `version` say how to read it."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)


POOLED_LABEL = "secondary: pooled crossed model (equal variances in all cells)"


def analyze(
    scores: pd.DataFrame,
    base: str | Mapping[str, Any] | None = None,
    baseline: str | None = None,
    metric: str = "pesq_wb",
    *,
    claims: Mapping[str, Sequence[Any] | FactorClaim] | None = None,
    margin: float = 0.05,
    confidence: float = 0.95,
    factors: Sequence[str] | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    constraints: Iterable[Mapping[str, str]] = (),
    design: str | None = None,
    planned: Mapping[str, Mapping[str, str]] | None = None,
) -> Analysis:
    """Estimate the gap and what each factor has to do with it.

    Args:
        scores: a row per cell, seed and utterance: cell, a column per factor (level names; empty for the
            baseline), seed, utterance, the metric; optional speaker, snr, noise, training (cells with a
            common value share a training), status (done or diverged).
        base: the all-off levels, as `"a=off,b=off"`, a mapping or the name of that cell. Default: each
            factor's first level in `levels`, else its level `off`.
        baseline: the reference cell; none: no gap and no `not toggled`.
        metric: column of the scores to compare.
        claims: factor (or `factor=level`) -> (low, high) or (low, high, source), on - off. Default: those of
            the registered factors if the metric is pesq_wb; `{}` for none.
        margin: the smallest difference that matters, in the metric's unit.
        confidence: of the intervals.
        factors: the factor columns. Default: columns that are not reserved and constant within each cell.
        levels: factor -> its levels in order, off first, on last.
        constraints: combinations of levels that the grid forbids.
        design: full, fractional, one-in or one-out, where the cells leave it open.
        planned: cell -> levels of all cells of the plan, so that those without any row are named.

    Raises:
        ValueError: a column is missing, base or baseline name no cell, rows are doubled, or no utterance is
            scored in every run.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if margin < 0:
        raise ValueError(f"margin {margin} is negative")
    baseline = None if baseline is None else str(baseline)
    data = _read(scores, base, baseline, metric, factors, levels)
    scored = data.scored()
    names = [data.cells[i] for i in scored]
    if not data.levels and baseline is not None and data.base in (None, baseline):
        raise ValueError("the scores have no factor with two levels, and base names no cell of its own")
    found = build(
        {**(planned or {}), **data.cell_levels},
        data.levels,
        base=data.base,
        baseline=baseline,
        available=set(names),
        constraints=constraints,
        design=design,
    )
    groups = _subgroups(data.groups, scored)
    weights = found.matrix(names)
    everything = np.vstack([weights, np.eye(len(names))])
    both = estimate(data.values[scored], everything, groups, data.present[scored])
    count = len(weights)
    estimates, of_cells = _rows(both, slice(0, count)), _rows(both, slice(count, None))
    stated = _claims(claims, metric, data.levels)
    effects = _effects(found.rows, estimates, names, data, stated, margin, confidence)
    from .pooled import pooled_effects

    pooled, pooled_note = pooled_effects(
        data.values[scored], weights, data.present[scored], found.rows, confidence
    )
    base_levels = {factor: order[0] for factor, order in data.levels.items()}
    divergence = _divergence(data, confidence)
    notes = _notes(data, effects, divergence, metric, found.notes, bool(base_levels))
    if pooled_note:
        notes.append(pooled_note)
    return Analysis(
        effects=effects,
        cells=_cells(data, scored, of_cells, confidence),
        divergence=divergence,
        pooled=pooled,
        contrasts=found.rows,
        not_estimable=found.not_estimable,
        aliases=found.aliases,
        design=found.design,
        metric=metric,
        margin=margin,
        confidence=confidence,
        levels=data.levels,
        base=base_levels,
        base_cell=data.base if data.base in names else None,
        baseline=baseline,
        claims=stated,
        seeds=tuple(data.seeds),
        utterances=len(data.utterances),
        notes=tuple(notes),
        scores=data,
        estimates=estimates,
    )


def decide(
    estimate: Array, half: Array, half_equivalence: Array, claim: tuple[float, float] | None, margin: float
) -> tuple[Array, Array, Array]:
    """Whether estimates are (contradicted, negligible, supported), from the half-widths of two intervals.

    `half` belongs to the 95 % interval, `half_equivalence` to the 90 % one (two one-sided tests).
    """
    negligible = (estimate - half_equivalence > -margin) & (estimate + half_equivalence < margin)
    if claim is None:
        nothing = np.zeros(np.shape(estimate), dtype=bool)
        return nothing, negligible, nothing
    low, high = claim
    contradicted = (estimate + half < low) | (estimate - half > high)
    inside = (estimate - half >= low - margin) & (estimate + half <= high + margin)
    return contradicted, negligible, inside & ~contradicted & ~negligible


def seeds_to_decide(
    estimates: Estimates, index: int, claim: tuple[float, float], margin: float, confidence: float
) -> float:
    """The fewest seeds per cell at which a claim would be decided if the estimate stayed where it is.

    NaN if no number up to 200 does (the estimate lies on a border, or the utterances limit the interval).
    """
    involved = estimates.seeds[index]
    start = int(involved[involved > 0].min()) + 1
    row = _rows(estimates, slice(index, index + 1))
    seeds = np.arange(start, MOST_SEEDS + 1)[:, None]
    se, df = row.at_seeds(seeds)
    value = np.broadcast_to(row.value, se.shape)
    half, equivalence = (quantile(level, df) * se for level in (confidence, 2 * confidence - 1))
    decided = np.logical_or.reduce(decide(value, half, equivalence, claim, margin)).ravel()
    return float(seeds[decided.argmax(), 0]) if decided.any() else math.nan


def _effects(
    contrasts: Sequence[Contrast],
    estimates: Estimates,
    names: Sequence[str],
    data: Scores,
    claims: Mapping[str, FactorClaim],
    margin: float,
    confidence: float,
) -> pd.DataFrame:
    low, high = estimates.interval(confidence)
    half = estimates.half_width(confidence)
    equivalence = estimates.half_width(max(2 * confidence - 1, 0.0))
    kinds = [contrast.kind for contrast in contrasts]
    p_holm = np.full(len(contrasts), np.nan)
    family = [i for i, kind in enumerate(kinds) if kind == "main"]
    if family:
        p_holm[family] = holm(estimates.p[family])
    shared_out = {contrast.name for contrast in contrasts if contrast.kind == "shapley"}
    runs = {name: int(data.present[data.cells.index(name)].sum()) for name in names}
    verdicts, notes, needed, stated = [], [], [], []
    for i, contrast in enumerate(contrasts):
        credited = contrast.kind == ("shapley" if contrast.name in shared_out else "main")
        claim = claims.get(contrast.name) if credited else None
        note, seeds = "", math.nan
        if not estimates.estimable[i]:
            verdict = "undecided"
            few = [cell for cell in contrast.weights if runs[cell] < 2 and contrast.weights[cell]]
            note = (
                f"no interval: one seed in {_listed(few)}; how much trainings differ is unknown"
                if few
                else "no interval: cells that share their trainings have fewer than two seeds in common"
            )
        else:
            bounds = (claim.low, claim.high) if claim else None
            flags = decide(estimates.value[i], half[i], equivalence[i], bounds, margin)
            words = ("contradicted", "negligible", "supported")
            verdict = ", ".join(word for word, flag in zip(words, flags, strict=True) if flag)
            if not verdict and claim:
                verdict = "undecided"
                seeds = seeds_to_decide(estimates, i, (claim.low, claim.high), margin, confidence)
                if math.isnan(seeds):
                    note = f"more seeds (up to {MOST_SEEDS}) would not decide it at this estimate"
            elif not verdict and credited and (contrast.kind == "shapley" or not shared_out):
                verdict = "no claim"
        verdicts.append(verdict)
        notes.append(note)
        needed.append(seeds)
        stated.append(claim)
    return pd.DataFrame(
        {
            "name": [contrast.name for contrast in contrasts],
            "kind": kinds,
            "estimate": estimates.value,
            "se": estimates.se,
            "df": estimates.df,
            "low": low,
            "high": high,
            "p": estimates.p,
            "p_holm": p_holm,
            "verdict": verdicts,
            "at": [contrast.at for contrast in contrasts],
            "claim_low": [claim.low if claim else math.nan for claim in stated],
            "claim_high": [claim.high if claim else math.nan for claim in stated],
            "claim_source": [claim.source if claim else "" for claim in stated],
            "seeds_needed": needed,
            "note": notes,
        }
    )


def _cells(data: Scores, scored: Sequence[int], estimates: Estimates, confidence: float) -> pd.DataFrame:
    low, high = estimates.interval(confidence)
    rows = []
    for position, index in enumerate(scored):
        cell = data.cells[index]
        means = data.values[index][data.present[index]].mean(-1)
        rows.append(
            {
                "cell": cell,
                **{factor: data.cell_levels[cell].get(factor, "") for factor in data.levels},
                "runs": len(means),
                "mean": estimates.value[position],
                "sd": means.std(ddof=1) if len(means) > 1 else math.nan,
                "se": estimates.se[position],
                "df": estimates.df[position],
                "low": low[position],
                "high": high[position],
            }
        )
    return pd.DataFrame(rows)


def _divergence(data: Scores, confidence: float) -> pd.DataFrame:
    """Share of diverged runs per cell with Clopper and Pearson's (1934) exact binomial interval."""
    diverged = data.diverged.sum(1)
    runs = diverged + data.present.sum(1)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(diverged > 0, stats.beta.ppf(tail, diverged, runs - diverged + 1), 0.0)
        high = np.where(diverged < runs, stats.beta.isf(tail, diverged + 1, runs - diverged), 1.0)
        rate = diverged / runs
    return pd.DataFrame(
        {"cell": data.cells, "runs": runs, "diverged": diverged, "rate": rate, "low": low, "high": high}
    )


def _notes(
    data: Scores,
    effects: pd.DataFrame,
    divergence: pd.DataFrame,
    metric: str,
    design: Sequence[str],
    has_factors: bool,
) -> list[str]:
    notes = []
    if effects["se"].notna().any():
        known = [
            f"{count} {column}{'' if count == 1 else 's'}"
            for column in ("speaker", "noise")
            if column in data.utterance_info and (count := data.utterance_info[column].nunique())
        ]
        among = f" ({' and '.join(known)})" if known else ""
        what = "other trainings" if len(data.utterances) == 1 else "other trainings and other utterances"
        notes.append(
            f"Intervals speak of {what} of these test speakers and noises{among}, "
            "not of other speakers, noises or corpora."
        )
    if len(data.utterances) == 1:
        notes.append("One utterance: its choice is not part of the intervals.")
    if effects["se"].isna().any():
        runs = data.present.sum(1)
        few = [cell for cell, count in zip(data.cells, runs, strict=True) if count == 1]
        if few:
            notes.append(
                f"One seed in {_listed(few)}: contrasts that use it have no interval, because nothing tells "
                "how much two trainings of one configuration differ."
            )
    diverged = divergence[divergence["diverged"] > 0]
    if len(diverged):
        which = [f"{row.cell} ({row.diverged} of {row.runs})" for row in diverged.itertuples()]
        notes.append(f"Diverged runs: {_listed(which)}. Effects are given convergence.")
    if any(len(group) > 1 for group in data.groups):
        notes.append("Cells that share trainings are compared seed by seed on the same checkpoints.")
    if has_factors and any(len(order) > 2 for order in data.levels.values()):
        notes.append("Shapley values, one-in and one-out compare each factor's first level with its last.")
    return [*notes, *design, *data.notes]


def _claims(
    claims: Mapping[str, Sequence[Any] | FactorClaim] | None,
    metric: str,
    levels: Mapping[str, tuple[str, ...]],
) -> dict[str, FactorClaim]:
    if claims is None:
        if metric != "pesq_wb":
            return {}
        from ..factors import FACTORS

        return {
            name: FactorClaim(known.claim.low, known.claim.high, known.claim.source)
            for name, order in levels.items()
            if (known := FACTORS.get(name)) and known.claim and tuple(known.levels)[:2] == order
        }
    names = {*levels, *(f"{factor}={level}" for factor, order in levels.items() for level in order[1:])}
    stated = {}
    for name, claim in claims.items():
        if len(levels.get(name, ())) > 2:
            raise ValueError(f"claim for {name!r}: say which level, e.g. {name}={levels[name][1]}")
        if name not in names:
            raise ValueError(
                f"claim for {name!r}: no such factor; there are {_listed(list(levels)) or 'none'}"
            )
        if not isinstance(claim, FactorClaim):
            if len(claim) not in (2, 3):
                raise ValueError(f"claim for {name!r} is {claim!r}; give (low, high) or (low, high, source)")
            claim = FactorClaim(float(claim[0]), float(claim[1]), str(claim[2]) if len(claim) == 3 else "")
        if not claim.low <= claim.high:
            raise ValueError(f"claim for {name!r}: low {claim.low} is above high {claim.high}")
        stated[name] = claim
    return stated


# ------------------------------------------------------------------------------------------ reading


def _read(
    scores: pd.DataFrame,
    base: str | Mapping[str, Any] | None,
    baseline: str | None,
    metric: str,
    factors: Sequence[str] | None,
    levels: Mapping[str, Sequence[str]] | None,
) -> Scores:
    needed = ["cell", "seed", "utterance", metric, *(factors or ())]
    lacking = [name for name in needed if name not in scores.columns]
    if lacking:
        raise ValueError(f"the scores lack {_listed(lacking)}; they have {_listed(list(scores.columns))}")
    if not len(scores):
        raise ValueError("the scores are empty")
    cell_codes, cell_index = pd.factorize(scores["cell"])
    seed_codes, seed_index = pd.factorize(scores["seed"], sort=True)
    if (cell_codes < 0).any() or (seed_codes < 0).any():
        column = "cell" if (cell_codes < 0).any() else "seed"
        row = int(np.argmax((cell_codes if column == "cell" else seed_codes) < 0))
        raise ValueError(f"row {row} of the scores has no {column}")
    names = [str(name) for name in cell_index]
    seed_names = [_plain(seed) for seed in seed_index]
    if baseline is not None and baseline not in names:
        raise ValueError(f"no cell {baseline!r} (the baseline); cells: {_listed(names)}")
    first_row = np.unique(cell_codes, return_index=True)[1]
    notes: list[str] = []
    table = _factor_table(scores, cell_codes, first_row, names, baseline, metric, factors, base, notes)
    _drop_fixed_levels(table, names, baseline, base, notes)
    _clear_own_levels(table, names, baseline)
    base_levels = _base_levels(base, table, names, levels)
    order: dict[str, tuple[str, ...]] = {}
    for factor, level in base_levels.items():
        declared = [str(name) for name in (levels or {}).get(factor, ())]
        extra = [name for name in _level_order(scores[factor], table[factor]) if name not in declared]
        found = [level, *(name for name in [*declared, *extra] if name != level)]
        if len(found) > 1:
            order[factor] = tuple(found)
        else:
            notes.append(f"{factor} has one level ({level}) only: it is left out.")
    cell_levels = {}
    for position, name in enumerate(names):
        at = {factor: table[factor][position] for factor in order}
        cell_levels[name] = at if order and all(at.values()) else {}
    if baseline is not None and list(cell_levels.values()).count(cell_levels[baseline]) > 1:
        cell_levels[baseline] = {}
    at_base = [
        name
        for position, name in enumerate(names)
        if name != baseline and all(table[f][position] == level for f, level in base_levels.items())
    ]
    named = isinstance(base, str) and base in names
    base_cell = str(base) if named else at_base[0] if len(at_base) == 1 else None
    outside = [name for name in names if order and not cell_levels[name] and name != baseline]
    if outside:
        notes.append(f"{_listed(outside)} has no level of some factors: it stands outside the factorial.")
    rank = {
        factor: {level: index for index, level in enumerate(order_of)} for factor, order_of in order.items()
    }

    def position_of(name: str) -> tuple[Any, ...]:
        at = cell_levels[name]
        return (name == baseline and not at, not at, *(rank[f][at[f]] for f in at))

    cells = sorted(names, key=position_of)
    renumber = np.array([cells.index(name) for name in names])
    cell_codes = renumber[cell_codes]

    diverged = np.zeros((len(cells), len(seed_names)), dtype=bool)
    keep = np.ones(len(scores), dtype=bool)
    if "status" in scores.columns:
        status_codes, kinds = pd.factorize(scores["status"])
        unknown = sorted({str(kind) for kind in kinds} - {"done", "diverged", ""})
        if unknown:
            raise ValueError(f"status {unknown[0]!r} is neither 'done' nor 'diverged'")
        code = {str(kind): index for index, kind in enumerate(kinds)}.get("diverged")
        if code is not None:
            gone = status_codes == code
            diverged[cell_codes[gone], seed_codes[gone]] = True
            keep = ~diverged[cell_codes, seed_codes]
    values = pd.to_numeric(scores[metric], errors="raise").to_numpy(dtype=float, na_value=np.nan)
    keep &= np.isfinite(values)
    if not keep.any():
        raise ValueError(f"no run has a value of {metric}")
    utterance_codes, utterance_index = pd.factorize(scores["utterance"])
    if (utterance_codes[keep] < 0).any():
        raise ValueError(f"row {int(np.flatnonzero(keep & (utterance_codes < 0))[0])} has no utterance")
    utterance_names = [str(name) for name in utterance_index]
    shape = (len(cells), len(seed_names), len(utterance_names))
    flat = np.ravel_multi_index((cell_codes[keep], seed_codes[keep], utterance_codes[keep]), shape)
    filled = np.full(int(np.prod(shape)), np.nan)
    filled[flat] = values[keep]
    if int(np.isfinite(filled).sum()) < len(flat):
        ordered = np.sort(flat)
        doubled = ordered[1:][ordered[1:] == ordered[:-1]][0]
        c, s, u = (int(i) for i in np.unravel_index(doubled, shape))
        raise ValueError(
            f"cell {cells[c]!r}, seed {seed_names[s]}, utterance {utterance_names[u]!r} has more than one row"
        )
    array = filled.reshape(shape)
    finite = np.isfinite(array)

    def run_names(runs: Array) -> list[str]:
        return [f"{cells[c]} seed {seed_names[s]}" for c, s in np.argwhere(runs).tolist()]

    present = finite.any(-1)
    seen = np.zeros_like(present)
    seen[cell_codes, seed_codes] = True
    silent = run_names(seen & ~present & ~diverged)
    if silent:
        notes.append(f"Runs without any value of {metric}, left out: {_listed(silent)}.")
    complete = finite[present].all(0)
    heard = finite[present].any(0)
    if not complete.any():
        counts = np.where(present, finite.sum(-1), len(utterance_names) + 1)
        c, s = (int(i) for i in np.unravel_index(int(counts.argmin()), counts.shape))
        raise ValueError(
            f"no utterance is scored in every run; {cells[c]!r} seed {seed_names[s]} has {counts[c, s]} of "
            f"{int(heard.sum())}"
        )
    dropped = [utterance_names[u] for u in np.flatnonzero(heard & ~complete)]
    if dropped:
        holes = present & ~finite[..., heard].all(-1)
        notes.append(
            f"{len(dropped)} of {int(heard.sum())} utterances are left out, as they have no {metric} in "
            f"{_listed(run_names(holes))}: {_listed(dropped)}."
        )
    rows_of = np.full(len(utterance_names), -1)
    indices = np.flatnonzero(keep)[::-1]
    rows_of[utterance_codes[indices]] = indices
    kept = [utterance_names[u] for u in np.flatnonzero(complete)]
    info = pd.DataFrame(index=pd.Index(kept, name="utterance"))
    for column in DESCRIPTIONS:
        if column in scores.columns:
            found_values = scores[column].iloc[rows_of[complete]]
            if found_values.notna().any():
                info[column] = found_values.to_numpy()
    return Scores(
        cells=cells,
        seeds=seed_names,
        utterances=list(info.index),
        values=np.ascontiguousarray(array[..., complete]),
        present=present,
        diverged=diverged,
        groups=_training_groups(scores, cell_codes, len(cells)),
        cell_levels={name: cell_levels[name] for name in cells},
        levels=order,
        base=base_cell,
        utterance_info=info,
        notes=notes,
    )


def _factor_table(
    scores: pd.DataFrame,
    cell_codes: Array,
    first_row: Array,
    names: Sequence[str],
    baseline: str | None,
    metric: str,
    factors: Sequence[str] | None,
    base: str | Mapping[str, Any] | None,
    notes: list[str],
) -> dict[str, list[str]]:
    """The factor columns: factor -> level of each cell ("" where it has none)."""
    stated = list(factors) if factors is not None else None
    asked = [] if isinstance(base, str) and base in names else list(_parse_base(base))
    for name in asked:
        if name not in scores.columns:
            raise ValueError(f"base names {name!r}, no column of {_listed(list(scores.columns), 20)}")
    reserved = {*RESERVED, metric}
    candidates = stated or [
        str(c) for c in scores.columns if c not in reserved and not str(c).startswith("noisy_")
    ]
    candidates = list(dict.fromkeys([*candidates, *asked]))
    table: dict[str, list[str]] = {}
    for name in candidates:
        codes, kinds = pd.factorize(scores[name])
        texts = [_level_text(kind) for kind in kinds]
        texts.append("")
        canonical = np.array([texts.index(text) for text in texts])
        codes = np.where(codes < 0, len(texts) - 1, codes)
        codes = canonical[codes]
        own = codes[first_row]
        wrong = codes != own[cell_codes]
        if wrong.any():
            if name in asked or stated:
                cell = names[int(cell_codes[int(wrong.argmax())])]
                raise ValueError(f"cell {cell!r} has rows with different levels of {name!r}")
            continue
        table[name] = [texts[code] for code in own]
    if stated is not None:
        return table

    def inside(columns: Iterable[str]) -> list[tuple[str, ...]]:
        keys = zip(*(table[column] for column in columns), strict=True)
        return [key for key, name in zip(keys, names, strict=True) if name != baseline]

    def enough(columns: list[str]) -> bool:
        keys = [key for key in inside(columns) if all(key)]
        return bool(columns) and len(set(keys)) == len(keys)

    ignored: list[str] = []
    if asked and enough(asked):
        ignored = [name for name in table if name not in asked]
    else:
        if baseline is not None:
            at = names.index(baseline)
            empty = [name for name in table if not table[name][at]]
            if empty:
                ignored = [name for name in table if name not in empty and name not in asked]
        for name in [name for name in table if name not in ignored and name not in asked]:
            found = {key[0] for key in inside([name])} - {""}
            numeric = pd.api.types.is_numeric_dtype(scores[name]) and not found <= {"0", "1", "True", "False"}
            rest = [other for other in table if other != name and other not in ignored]
            if (numeric or len(found) == len(names) - (baseline is not None) > 2) and enough(rest):
                ignored.append(name)
    varied = [name for name in ignored if len(set(table[name])) > 1]
    if varied:
        notes.append(f"Columns not taken as factors: {_listed(varied)}.")
    return {name: column for name, column in table.items() if name not in ignored}


def _drop_fixed_levels(
    table: dict[str, list[str]],
    names: Sequence[str],
    baseline: str | None,
    base: str | Mapping[str, Any] | None,
    notes: list[str],
) -> None:
    """Drop the columns in which the baseline alone differs: no cell of the grid shows what they cost."""
    if baseline is None or len(names) < 3:
        return
    at = names.index(baseline)
    given = {} if isinstance(base, str) and base in names else _parse_base(base)
    for factor, column in list(table.items()):
        others = {*column[:at], *column[at + 1 :]}
        level = min(others)
        if len(others) == 1 and level and column[at] not in others and given.get(factor, level) == level:
            del table[factor]
            if column[at]:
                notes.append(
                    f"{factor} is {level} in every cell but the baseline ({column[at]}): "
                    "it is part of what was not toggled."
                )


def _clear_own_levels(table: dict[str, list[str]], names: Sequence[str], baseline: str | None) -> None:
    """Empty the baseline's levels where every factor varies without it and none of them is another cell's.

    It then stands outside the factorial, whatever its columns say ("-", "baseline").
    """
    if baseline is None:
        return
    at = names.index(baseline)
    others = [{*column[:at], *column[at + 1 :]} - {""} for column in table.values()]
    own = [column[at] for column in table.values()]
    if all(len(levels) > 1 and level not in levels for levels, level in zip(others, own, strict=True)):
        for column in table.values():
            column[at] = ""


_OFF = ("off", "false", "0", "no")


def _off_level(found: Iterable[str]) -> str | None:
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
    return _off_level(known) if level.lower() in _OFF else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_base(base: str | Mapping[str, Any] | None) -> dict[str, str]:
    if base is None:
        return {}
    if not isinstance(base, str):
        return {str(name): _level_text(level) for name, level in base.items()}
    pairs = {}
    for item in filter(None, (part.strip() for part in base.split(","))):
        name, equals, level = (part.strip() for part in item.partition("="))
        if not (equals and name and level):
            raise ValueError(
                f"base {base!r} is neither a cell nor levels such as 'bidirectional=off,core=lstm'"
            )
        pairs[name] = level
    return pairs


def _base_levels(
    base: str | Mapping[str, Any] | None,
    table: Mapping[str, list[str]],
    names: Sequence[str],
    levels: Mapping[str, Sequence[str]] | None,
) -> dict[str, str]:
    """The off level of every factor."""
    if isinstance(base, str) and base in names:
        found = {factor: column[names.index(base)] for factor, column in table.items()}
        empty = [factor for factor, level in found.items() if not level]
        if empty and len(empty) < len(found):
            raise ValueError(f"the base cell {base!r} has no level of {_listed(empty)}")
        return {} if empty else found
    given = _parse_base(base)
    resolved = {}
    for factor, column in table.items():
        known = [level for level in dict.fromkeys(column) if level]
        declared = [str(level) for level in (levels or {}).get(factor, ())]
        level = given.get(factor)
        if level is None:
            level = declared[0] if declared else _off_level(known)
            if level is None:
                raise ValueError(
                    f"which level of {factor!r} is off? base names none; levels: {_listed(known)}"
                )
        elif level not in declared:
            same = same_level(level, known)
            if same is None:
                raise ValueError(f"base has {factor}={level}, but the levels are {_listed(known)}")
            level = same
        resolved[factor] = level
    return resolved


def _level_order(column: pd.Series, found: Sequence[str]) -> list[str]:
    """Levels in the order of a categorical column, else as they appear."""
    there = [level for level in dict.fromkeys(found) if level]
    if isinstance(column.dtype, pd.CategoricalDtype):
        ranked = [_level_text(level) for level in column.dtype.categories]
        return sorted(there, key=ranked.index)
    return there


def _level_text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:g}"
    return "" if value is None or value is pd.NA else str(value)


def _training_groups(scores: pd.DataFrame, cell_codes: Array, count: int) -> list[list[int]]:
    """Cells connected by a common value of `training`."""
    if "training" not in scores.columns:
        return [[index] for index in range(count)]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes, kinds = pd.factorize(scores["training"])
    known = codes >= 0
    if len(kinds):
        known &= np.array([str(kind) != "" for kind in kinds])[codes]
    links = coo_array(
        (np.ones(int(known.sum())), (cell_codes[known], count + codes[known])),
        shape=(count + len(kinds), count + len(kinds)),
    )
    component = connected_components(links, directed=False)[1][:count]
    return [np.flatnonzero(component == c).tolist() for c in dict.fromkeys(component.tolist())]


# ------------------------------------------------------------------------------------------ small parts


def _matrix(contrasts: Sequence[Contrast], names: Sequence[str]) -> Array:
    column = {name: index for index, name in enumerate(names)}
    weights = np.zeros((len(contrasts), len(names)))
    for row, contrast in enumerate(contrasts):
        for cell, weight in contrast.weights.items():
            weights[row, column[cell]] = weight
    return weights


def _subgroups(groups: Iterable[Iterable[int]], kept: Sequence[int]) -> list[list[int]]:
    """Groups of cell indices after leaving out all cells but `kept`."""
    position = {index: new for new, index in enumerate(kept)}
    reduced = [[position[index] for index in group if index in position] for group in groups]
    return [group for group in reduced if group]


def _rows(estimates: Estimates, rows: slice) -> Estimates:
    return replace(
        estimates,
        value=estimates.value[..., rows],
        seed_parts=estimates.seed_parts[..., rows, :],
        seeds=estimates.seeds[rows],
        utterance_part=estimates.utterance_part[..., rows],
        utterance_df=estimates.utterance_df[..., rows],
        estimable=estimates.estimable[rows],
    )


def _listed(items: Sequence[Any], most: int = 6) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
