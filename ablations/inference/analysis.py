"""The result of an analysis: every estimate with its interval; also as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ablate.models.errors import InputError
from ablate.models.notebook import ShownInNotebooks
from ablate.models.registry import suggestion

from ..claims import Claim
from .cells import best_cell
from .contrasts import Contrast, NotEstimable, build, weight_matrix
from .engine import Estimates
from .ranking import Ranked, ranking
from .reach import Unreached
from .scores import Scores, plain
from .units import ByUnit

SCHEMA = "ablate.analysis"
SCHEMA_VERSION = 1
POOLED_LABEL = "secondary: pooled crossed model (equal variances in all cells)"


@dataclass(frozen=True)
class Analysis(ShownInNotebooks):
    """Estimates of every contrast that the scores give.

    Attributes:
        effects: a row per contrast (simple effects only up to 128 cells; `simple` gives the others): name,
            kind, estimate, se, df, low, high, p, p_holm, verdict; then `at` (the other factors' levels of a
            simple effect), claim_low, claim_high, claim_source, seeds_needed, note, and the fields of
            `retraining.Higher`; blocked_low and blocked_high, the secondary interval centred by seed, and for
            a main effect seed_f and seed_p (see `blocked`); and p_headline, the p-value that decides what the
            report's summary says, Holm-adjusted over the credited effects, the gap and the unexplained part.
        cells: a row per cell with scores: cell, one column per factor, runs, mean, sd (over seeds), se,
            df, low, high.
        divergence: a row per cell: cell, runs, diverged, rate, low, high (exact binomial interval).
        guardrails: the credited effects (for levels without one, the main effects), `unexplained` and the gap
            in other metrics, outside the Holm family: metric, name, kind, estimate, se, df, low, high, p,
            change (`better` or `worse` if the interval excludes zero).
        guardrail_cells: `cells` in the guardrails' metrics, after the columns metric and best.
        pooled: the same contrasts under the pooled crossed model, a secondary analysis.
        contrasts: the weights, in the order of `effects`.
        not_estimable: contrasts that need cells without scores.
        aliases: effect -> the effects that a fractional design cannot separate from it.
        design: full, fractional, add-one, leave-one-out or incomplete.
        levels: factor -> its levels, off first.
        base: the all-off levels.
        base_cell: the cell at these levels; None if it does not have scores.
        baseline: the reference cell.
        margin: the smallest difference that matters. None if unknown; then there are no verdicts.
        claims: factor (or `factor=level`) -> the claim in this metric.
        by_unit: how much the credited effects, the unexplained part and the gap depend on each speaker and
            noise; see `units.ByUnit`.
        unreached: effect -> its level, if that did not change any score; then there is not a verdict.
        notes: sentences that a report prints under its tables.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    divergence: pd.DataFrame
    pooled: pd.DataFrame
    guardrails: pd.DataFrame
    guardrail_cells: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    not_estimable: tuple[NotEstimable, ...]
    aliases: Mapping[str, tuple[str, ...]]
    design: str
    metric: str
    margin: float | None
    confidence: float
    levels: Mapping[str, tuple[str, ...]]
    base: Mapping[str, str]
    base_cell: str | None
    baseline: str | None
    claims: Mapping[str, Claim]
    seeds: tuple[Any, ...]
    utterances: int
    by_unit: Sequence[ByUnit]
    unreached: Mapping[str, Unreached]
    notes: tuple[str, ...]
    scores: Scores = field(repr=False)
    estimates: Estimates = field(repr=False)
    guard_scores: Sequence[Scores] = field(default=(), repr=False)

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(self.levels)

    @cached_property
    def void(self) -> dict[str, str]:
        """Effect -> why it does not get a verdict: its level did not change any score."""
        return {name: str(found) for name, found in self.unreached.items() if found.certain}

    def kind(self, kind: str) -> pd.DataFrame:
        """The effects of one kind."""
        return self.effects[self.effects["kind"] == kind]

    @property
    def credit(self) -> pd.DataFrame:
        """The rows that claims are compared with: Shapley values, else main effects."""
        shapley = self.kind("shapley")
        return shapley if len(shapley) else self.kind("main")

    @cached_property
    def weights(self) -> pd.DataFrame:
        """The weight matrix: a row per contrast, a column per cell with scores."""
        names = [self.scores.cells[i] for i in self.scores.scored()]
        index = pd.MultiIndex.from_tuples(
            [(c.kind, c.name, c.at) for c in self.contrasts], names=["kind", "name", "at"]
        )
        return pd.DataFrame(weight_matrix(self.contrasts, names), index=index, columns=names)

    @cached_property
    def best(self) -> str | None:
        """The best cell, if its lead on the second best is established; see `cells.best_cell`."""
        return best_cell(self.scores, self.cells, self.confidence)

    @cached_property
    def ranking(self) -> list[Ranked]:
        """The cells ranked over the endpoint and the guardrails; see `ranking`."""
        return ranking([self.scores, *self.guard_scores])

    def simple(self, factor: str) -> pd.DataFrame:
        """A factor's effect at each combination of the others, with intervals; also if `effects` omits them.

        Raises InputError if the grid does not have the factor.
        """
        if factor not in self.levels:
            raise InputError(f"no factor {factor!r}{suggestion(factor, self.levels)}")
        scored = self.scores.scored()
        names = [self.scores.cells[i] for i in scored]
        layout = self.scores.layout
        found = build(layout.design, layout.cells, available=names, simple=[factor])
        rows = [contrast for contrast in found.rows if contrast.kind == "simple"]
        estimates = self.scores.estimate(weight_matrix(rows, names))
        named = pd.DataFrame([(c.name, c.kind, c.at) for c in rows], columns=["name", "kind", "at"])
        return named.assign(**estimates.columns(self.confidence))

    def within(self, factor: str) -> pd.DataFrame:
        """Every other factor's effect (last level - first) at each level of one factor.

        An effect is the mean over the pairs of scored cells that differ in nothing else. A row per effect: a
        column named like `factor` with its level, name, estimate, se, df, low, high, p.
        """
        names = [self.scores.cells[i] for i in self.scores.scored()]
        at = {tuple(self.scores.cell_levels[name].items()): i for i, name in enumerate(names)}
        labels, weights = [], []
        for level in self.levels[factor]:
            for other in (name for name in self.levels if name != factor):
                row = np.zeros(len(names))
                for key, off in at.items():
                    levels = dict(key)
                    on = at.get(tuple((levels | {other: self.levels[other][-1]}).items()))
                    if (
                        levels.get(factor) == level
                        and levels[other] == self.levels[other][0]
                        and on is not None
                    ):
                        row[[on, off]] += (1.0, -1.0)
                if row.any():
                    labels.append({factor: level, "name": other})
                    weights.append(row / row[row > 0].sum())
        if not labels:
            return pd.DataFrame()
        found = self.scores.estimate(np.array(weights)).columns(self.confidence)
        return pd.DataFrame(labels).assign(**found)

    def by(self, column: str) -> pd.DataFrame:
        """Cell means, the gap and the main effects within each speaker, snr or noise.

        Returns a row per subset and estimate: the subset (named like `column`), utterances, kind (`cell`,
        `gap`, `main`), name, estimate, se, df, low, high. Not corrected for multiple subsets.

        Raises InputError if the scores do not have the column.
        """
        info = self.scores.utterance_info
        if column not in info.columns:
            have = ", ".join(info.columns) or "none of speaker, snr, noise"
            raise InputError(f"the scores have no column {column!r} to split by (there: {have})")
        scored = self.scores.scored()
        names = [self.scores.cells[i] for i in scored]
        chosen = [c for c in self.contrasts if c.kind in ("gap", "main")]
        weights = np.vstack([np.eye(len(names)), weight_matrix(chosen, names)])
        labels = [("cell", name) for name in names] + [(c.kind, c.name) for c in chosen]
        parts = []
        for value, rows in info.groupby(column, sort=True, observed=True).indices.items():
            named = {column: value, "utterances": len(rows)}
            part = pd.DataFrame([named | {"kind": kind, "name": name} for kind, name in labels])
            found = self.scores.estimate(weights, np.asarray(rows)).columns(self.confidence)
            parts.append(part.assign(**found).drop(columns="p"))
        return pd.concat(parts, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """All but the scores, in plain types; missing numbers are None."""
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
            "seeds": [plain(seed) for seed in self.seeds],
            "utterances": self.utterances,
            "claims": {
                name: {"low": claim.low, "high": claim.high, "source": claim.source}
                for name, claim in self.claims.items()
            },
            "effects": [
                {**record, "weights": dict(contrast.weights)}
                for record, contrast in zip(records(self.effects), self.contrasts, strict=True)
            ],
            "cells": records(self.cells),
            "best": self.best,
            "divergence": records(self.divergence),
            "not_estimable": [
                {"kind": lost.kind, "name": lost.name, "at": lost.at, "missing": list(lost.missing)}
                for lost in self.not_estimable
            ],
            "aliases": {name: list(others) for name, others in self.aliases.items()},
            "guardrails": records(self.guardrails),
            "guardrail_cells": records(self.guardrail_cells),
            "pooled": {"label": POOLED_LABEL, "effects": records(self.pooled)},
            "by_unit": [{key: plain(value) for key, value in row._asdict().items()} for row in self.by_unit],
            "unreached": self.void,
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON; `schema` and `version` identify its format."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
