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

from ablations.contrasts import Contrast, NotEstimable, build, label

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
    utterance_info: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def scored(self) -> list[int]:
        """Indices of the cells with at least one scored run."""
        return np.flatnonzero(self.present.any(1)).tolist()


@dataclass(frozen=True)
class Analysis:
    """Estimates of every contrast the scores can give.

    Attributes:
        effects: a row per contrast: name, kind, estimate, se, df, low, high, p, p_holm, verdict; then `at` (the
            other factors' levels of a simple effect), claim_low, claim_high, claim_source, seeds_needed, note.
        cells: a row per cell with scores: cell, one column per factor, runs, mean, sd (over seeds), se, df,
            low, high.
        divergence: a row per cell: cell, runs, diverged, rate, low, high (exact binomial interval).
        pooled: the same contrasts under the pooled crossed model, a labelled secondary.
        contrasts: the weights, in the order of `effects`.
        not_estimable: contrasts that need cells without scores.
        aliases: what a fractional design mixes up with each effect.
        design: full, fractional, one-in, one-out or incomplete.
        levels: factor -> its levels, off first.
        base: the all-off levels; base_cell its cell (None where it has no scores); baseline the reference cell.
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

        Returns a row per subset and number: the subset (named like `column`), utterances, kind (`cell`, `gap`,
        `main`), name, estimate, se, df, low, high. These are subsets of one test set: descriptive, with no
        correction for looking at many.

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
        labels = [("cell", name) for name in names] + [(c.kind, c.name) for c in chosen]
        parts = []
        for value, rows in info.groupby(column, sort=True, observed=True).indices.items():
            values = self.scores.values[scored][..., rows]
            found = estimate(values, weights, _subgroups(self.scores.groups, scored), self.scores.present[scored])
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
) -> Analysis:
    """Estimate the gap and what each factor has to do with it.

    Args:
        scores: a row per cell, seed and utterance: cell, a column per factor (level names; empty for the
            baseline), seed, utterance, the metric; optional speaker, snr, noise, training (cells with a common
            value share a training), status (done or diverged).
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

    Raises:
        ValueError: a column is missing, base or baseline name no cell, rows are doubled, no common utterances.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if margin < 0:
        raise ValueError(f"margin {margin} is negative")
    data = _read(scores, base, baseline, metric, factors, levels)
    scored = data.scored()
    names = [data.cells[i] for i in scored]
    found = build(
        {cell: data.cell_levels[cell] for cell in data.cells},
        data.levels,
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
    base_cell = next((cell for cell in names if base_levels and data.cell_levels[cell] == base_levels), None)
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
        base_cell=base_cell,
        baseline=baseline,
        claims=stated,
        seeds=tuple(data.seeds),
        utterances=len(data.utterances),
        notes=tuple(notes),
        scores=data,
        estimates=estimates,
    )
