"""A report: an analysis, facts about its study, and the rows that all forms print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablate.ablations.inference.analysis import records
from ablate.ablations.match import SIZES, WORDS
from ablate.models.errors import plural
from ablate.models.notebook import ShownInNotebooks
from ablate.training.metrics.registry import METRICS, in_words, label_of

from .convergence import Convergence, Curve, convergence, curves
from .cost import Cost, ParetoPoint, costs, parameter_changes, pareto
from .formatting import interval, known, signed, span
from .slopes import Slope, slopes
from .sources import StudyInfo
from .step_budgets import AtStepBudget, by_step_budget
from .test_sets import OnTestSet, on_extra_test_sets
from .validation_rank import Agreement, agreement
from .verdict_table import Judged, judged

if TYPE_CHECKING:
    from ablate.ablations.claims import Claim
    from ablate.ablations.inference.analysis import Analysis

CREDIT = {
    "shapley": "Shapley value",
    "main": "main effect",
    "add-one": "add-one effect",
    "leave-one-out": "leave-one-out effect",
}


MANY = 4
"""If more factors than this are on in a cell, its short name lists those that are off, if they are fewer."""


@dataclass(frozen=True)
class EffectRow:
    """One row of the main table, ready to print.

    Attributes:
        data: the row of `Analysis.effects`.
        level: the significance level.
    """

    name: str
    kind: str
    estimate: str
    interval: str
    claimed: str
    verdict: str
    add_one: str
    leave_one_out: str
    p_higher: str
    parameters: str
    blocked: str
    data: Mapping[str, Any]
    level: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.data["low"], self.data["high"]
        return known(low) and known(high) and (low > 0 or high < 0)

    @property
    def shown(self) -> bool:
        """Whether this effect is significant under Holm's procedure over all effects in the summary."""
        return known(p := self.data.get("p_headline")) and p < self.level


@dataclass(frozen=True)
class EnsembleScores:
    """Scores of a cell's seed ensemble: an upper bound without an interval, not a level of a factor.

    Attributes:
        means: metric -> mean over the utterances of the analysis.
    """

    cell: str
    seeds: int
    means: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class AnalysisReport(ShownInNotebooks):
    """An analysis and facts about its study: everything that a form needs.

    Attributes:
        claims: all claims about its effects, including those of others.
        in_vain: source of additional claims, if it does not have claims on these factors in this metric; or
            empty.
    """

    analysis: Analysis
    info: StudyInfo
    scores: pd.DataFrame
    claims: Sequence[tuple[str, Claim]] = ()
    in_vain: str = ""

    @property
    def metric(self) -> str:
        """Label of the endpoint."""
        return label_of(self.analysis.metric)

    @property
    def direction(self) -> int:
        """1 if a higher endpoint is better, -1 if a lower one is."""
        return self.analysis.scores.direction

    @property
    def title(self) -> str:
        return f"{self.info.name}: where the {self.metric} goes"

    @property
    def percent(self) -> str:
        return f"{100 * self.analysis.confidence:g} %"

    @cached_property
    def base_name(self) -> str:
        return self.info.plan.base if self.info.plan else self.analysis.base_cell or "base"

    @cached_property
    def baseline_name(self) -> str | None:
        return (self.info.plan.baseline if self.info.plan else None) or self.analysis.baseline

    # ------------------------------------------------------------------------------- the main table

    @property
    def credit_kind(self) -> str:
        kinds = list(self._credit["kind"])
        return CREDIT[str(kinds[0])] if kinds else "main effect"

    @cached_property
    def _credit(self) -> pd.DataFrame:
        """Shapley values, else main effects, else the effects that the scored cells allow."""
        choices = (self.analysis.credit, self.analysis.kind("add-one"), self.analysis.kind("leave-one-out"))
        return next((rows for rows in choices if len(rows)), choices[0])

    @cached_property
    def equal_size(self) -> str:
        """`at equal parameters` or `at equal MACs a second` if all cells of the grid match; else empty."""
        cells = [cell for cell in self.info.cells.values() if cell.levels]
        found = {cell.config.match for cell in cells}
        measure = found.pop() if len(found) == 1 else "free"
        return f"at equal {WORDS[measure]}" if measure in WORDS else ""

    def named(self, effect: str) -> str:
        """An effect's name in a table, with the size at which its factor is compared."""
        paths = {name: factor.paths for factor in self.info.factors if (name := factor.name)}
        name = effect.split("=")[0].split(" ")[0]
        sized = name not in paths or paths[name] & SIZES or not self.equal_size
        return effect if sized else f"{effect}, {self.equal_size}"

    @cached_property
    def gap(self) -> EffectRow | None:
        return self._single("gap")

    @cached_property
    def unexplained(self) -> EffectRow | None:
        return self._single("unexplained")

    def _single(self, kind: str) -> EffectRow | None:
        rows = self.analysis.kind(kind)
        return self._row(records(rows)[0]) if len(rows) else None

    @cached_property
    def factors(self) -> list[EffectRow]:
        """A row per factor, or per level of a factor with several, in the order of the grid."""
        credit = [self._row(r) for r in records(self._credit)]
        have = {row.name for row in credit}
        others = [row for row in self.mains if row.name not in have]
        return credit + [replace(row, name=f"{row.name} (main effect)") for row in others]

    @cached_property
    def mains(self) -> list[EffectRow]:
        return [self._row(r) for r in records(self.analysis.kind("main"))]

    @cached_property
    def interactions(self) -> list[EffectRow]:
        return [self._row(r) for r in records(self.analysis.kind("interaction"))]

    def _row(self, data: Mapping[str, Any]) -> EffectRow:
        name, kind = str(data["name"]), str(data["kind"])
        return EffectRow(
            name=name,
            kind=kind,
            estimate=signed(data["estimate"]),
            interval=interval(data["low"], data["high"]),
            claimed=span(data.get("claim_low"), data.get("claim_high")),
            verdict=_verdict(data),
            add_one=self._beside("add-one", name),
            leave_one_out=self._beside("leave-one-out", name),
            p_higher=_pairs(data),
            parameters=self.parameter_text.get(name.split("=")[0], "")
            if kind in ("shapley", "main", "add-one", "leave-one-out")
            else "",
            blocked=""
            if data.get("blocked_low") == data["low"]
            else interval(data.get("blocked_low"), data.get("blocked_high")),
            data=data,
            level=1 - self.analysis.confidence,
        )

    def _beside(self, kind: str, name: str) -> str:
        rows = self.analysis.kind(kind)
        rows = rows[rows["name"] == name]
        return signed(rows["estimate"].iloc[0]) if len(rows) else ""

    @cached_property
    def parameter_text(self) -> dict[str, str]:
        """Factor -> change of the parameter count when it is on, as text; empty if it does not change."""
        texts = {}
        for name, change in parameter_changes(self.info).items():
            if change is None or change == (0, 0):
                texts[name] = ""
            elif change[0] == change[1]:
                texts[name] = f"{change[0]:+,}"
            else:
                texts[name] = f"{change[0]:+,} to {change[1]:+,}"
        return texts

    @property
    def headline(self) -> str:
        gap = self.gap
        if gap is None:
            plan = self.info.plan
            why = "no baseline" if plan is not None and plan.baseline is None else "no scores of a baseline"
            return f"{self.metric}: {why}, so no gap can be explained."
        if gap.interval == "":
            spread = "no interval"
        else:
            spread = f"{self.percent} interval {gap.interval}"
        count = plural(self.analysis.utterances, "test utterance")
        size = in_words(self.analysis.metric, gap.estimate)
        return f"Gap {self.baseline_name} - {self.base_name}: {size} ({spread}), {self.seed_count}, {count}"

    @cached_property
    def seeds(self) -> tuple[int, int]:
        """The smallest and largest number of seeds of a scored cell."""
        counts = [int(runs) for runs in self.analysis.cells["runs"]]
        return min(counts), max(counts)

    @property
    def seed_count(self) -> str:
        """Number of scored seeds as text, e.g. `5 to 9 seeds per cell` if cells differ."""
        fewest, most = self.seeds
        return plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds per cell"

    @cached_property
    def sum_line(self) -> str:
        if self.credit_kind != "Shapley value" or self.gap is None or self.unexplained is None:
            return ""
        return "The Shapley values and 'unexplained' add up to the gap."

    # --------------------------------------------------------------------------------- other tables

    @cached_property
    def cell_scores(self) -> dict[str, float]:
        cells = self.analysis.cells
        return dict(zip(cells["cell"].astype(str), cells["mean"].astype(float), strict=True))

    @cached_property
    def ensembles(self) -> list[EnsembleScores]:
        """The scored seed ensembles."""
        found = []
        for cell, average in self.info.ensembles.items():
            scores = average.scores.set_index("utterance").reindex(self.analysis.scores.utterances)
            means = {name: float(scores[name].mean()) for name in METRICS if name in scores}
            if known(means.get(self.analysis.metric)):
                found.append(EnsembleScores(cell, average.seeds, means))
        return found

    @cached_property
    def noisy_input(self) -> dict[str, float]:
        """Metric -> mean score of the noisy input, if every utterance of the analysis has one."""
        found = {}
        for name in METRICS:
            if (column := f"noisy_{name}") in self.scores:
                values = self.scores[["utterance", column]].dropna().drop_duplicates("utterance")
                mean = values.set_index("utterance")[column].reindex(self.analysis.scores.utterances)
                if known(value := float(mean.mean(skipna=False))):
                    found[name] = value
        return found

    @cached_property
    def costs(self) -> list[Cost]:
        return costs(self.info)

    @cached_property
    def convergence(self) -> list[Convergence]:
        return convergence(self.info)

    @cached_property
    def test_sets(self) -> list[OnTestSet]:
        """The effects `shown`, on the extra test sets."""
        return on_extra_test_sets(self.analysis, self.info, self.shown)

    @property
    def test_name(self) -> str:
        """The first test set, on which verdicts are based."""
        return self.info.plan.test_name if self.info.plan else self.info.name

    @cached_property
    def curves(self) -> list[Curve]:
        return curves(self.info)

    @cached_property
    def slopes(self) -> list[Slope]:
        """How fast the effects `shown` still change at the end of the training."""
        return slopes(self.analysis, self.info, self.shown)

    @cached_property
    def agreement(self) -> Agreement | None:
        """How well validation ranks the cells as the test set does; None if a command trained them."""
        if self.info.plan is not None and self.info.plan.train is not None:
            return None
        return agreement(self.scores, self.info.runs, self.analysis.metric)

    @cached_property
    def judged(self) -> list[Judged]:
        """The verdict on every claim."""
        return judged(self.analysis, self.info, self.claims)

    @cached_property
    def by_step_budget(self) -> list[AtStepBudget]:
        """The effects `shown`, at every step budget; empty with only one."""
        tables = {fraction: found.scores for fraction, found in self.info.step_fractions.items()}
        return by_step_budget(self.analysis, {1.0: self.scores} | tables, self.info.steps, self.shown)

    @property
    def rows(self) -> list[EffectRow]:
        """The rows of the main table: the factors, the unexplained part, and the gap."""
        return [*self.factors, *filter(None, (self.unexplained, self.gap))]

    @property
    def shown(self) -> set[tuple[str, str]]:
        """Kind and name of each factor's effect, of the gap and of the unexplained part."""
        return {
            (row.kind, row.data["name"])
            for row in self.rows
            if row is not self.unexplained or row.data["low"] != row.data["high"]
        }

    def pareto(self, against: str = "parameters") -> list[ParetoPoint]:
        return pareto(self.cell_scores, self.costs, against, self.direction)

    @cached_property
    def by(self) -> dict[str, pd.DataFrame]:
        """The analysis within each signal-to-noise ratio, noise and speaker that the scores name."""
        info = self.analysis.scores.utterance_info
        said = [name for name in ("snr", "noise", "speaker") if name in info and info[name].notna().any()]
        return {column: self.analysis.by(column) for column in said}

    def short(self, cell: str) -> str:
        """A cell's short name: the factors that are on (or off, if fewer), base or baseline."""
        if cell == self.analysis.baseline:
            return self.baseline_name or cell
        planned = self.info.cells.get(cell)
        levels = self.analysis.scores.cell_levels.get(cell) or (planned.levels if planned else {})
        if not levels:
            return cell
        on, off = [], []
        for factor, level in levels.items():
            order = self.analysis.levels.get(factor, ())
            if order and level != order[0]:
                on.append(factor if len(order) == 2 else f"{factor}={level}")
            if order and level != order[-1]:
                off.append(factor if level == order[0] else f"{factor}={level}")
        if len(on) > MANY and len(off) < len(on):
            return f"all but {', '.join(off)}" if off else "all on"
        return " + ".join(on) if on else "base"


def _pairs(data: Mapping[str, Any]) -> str:
    """Pairs of runs that were won: a count, or the probability with its interval if there is one."""
    won, pairs, low, high = (
        data.get(key) for key in ("pairs_higher", "pairs", "p_higher_low", "p_higher_high")
    )
    if known(low) and known(high):
        return f"{data['p_higher']:.2f} [{low:.2f}, {high:.2f}]"
    return f"{won:g} of {pairs:g} pairs" if known(won) and known(pairs) else ""


def _verdict(data: Mapping[str, Any]) -> str:
    verdict = data.get("verdict")
    words = "" if verdict is None or verdict is pd.NA or verdict != verdict else str(verdict)
    seeds = data.get("seeds_needed")
    if "undecided" in words and known(seeds):
        words += f" (about {int(float(seeds))} seeds would decide)"
    return words
