"""Does the 95 % interval hold what it says? Planted effects, known variances, the engine of the reports.

    python benchmarks/interval_coverage.py --repetitions 4000 --json coverage.json [--only plain|hard|...]

Each repetition draws scores (cell, seed, utterance) of a 2 x 2 x 2 grid and a baseline, or of a grid whose
third factor acts at evaluation only, and asks the engine of the reports for the gap, the main effects and the
Shapley values. Printed, for the headline's interval and the one centred by seed: the share of intervals that
hold the truth (the lowest and the highest over the factors), and the mean width of the second over the first;
the share of null families in which Holm's procedure finds something; how often verdicts are wrong where the
truth lies on the border; and the bounds to keep. Two Monte-Carlo standard errors are allowed on every bound.
Exit code 1 if one is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from coverage_draws import (
    Scenario,
    contrasts,
    draw,
    groups_of,
    hard_scenarios,
    presence,
    scenarios,
    speaker_of,
    true_means,
)

from ablate.ablations.inference.allocation import FIRST, Targets
from ablate.ablations.inference.blocked import Blocked, blocked
from ablate.ablations.inference.engine import Estimates, estimate, holm
from ablate.ablations.inference.units import others
from ablate.ablations.inference.verdicts import decide

BATCH = 250
KINDS = ("gap", "unexplained", "main", "shapley", "interaction")


def estimates(
    scenario: Scenario, rng: np.random.Generator, repetitions: int
) -> Iterator[tuple[Estimates, Blocked]]:
    cells, found = contrasts()
    weights, groups, present = found.matrix(cells), groups_of(scenario), presence(scenario)
    rounding = 0.0 if scenario.decimals is None else 100.0**-scenario.decimals / 12
    observed = np.full(9, 1 - scenario.lost) if scenario.lost else None
    for start in range(0, repetitions, BATCH):
        scores = draw(scenario, rng, min(BATCH, repetitions - start))
        headline = estimate(scores, weights, groups, present, rounding=rounding, observed=observed)
        yield headline, blocked(headline, scores, weights, groups, present, range(8), observed)


@dataclass(frozen=True)
class Row:
    """One line of the table; `low` and `high` are the extremes over the contrasts of a kind.

    `centred` has the same of the secondary interval, and its mean width over the headline's; none: it is the
    headline's.
    """

    scenario: str
    seeds: str
    quantity: str
    low: float
    high: float
    at_least: float | None
    at_most: float | None
    repetitions: int
    centred: tuple[float, float, float] | None = None

    def slack(self, bound: float) -> float:
        return 2 * math.sqrt(bound * (1 - bound) / self.repetitions)

    @property
    def kept(self) -> bool:
        enough = self.at_least is None or self.low >= self.at_least - self.slack(self.at_least)
        return enough and (self.at_most is None or self.high <= self.at_most + self.slack(self.at_most))


def run(scenario: Scenario, repetitions: int, seed: int) -> list[Row]:
    """Coverage of one scenario; without effects, how often Holm's families find some all the same."""
    cells, found = contrasts()
    truth = found.matrix(cells) @ true_means(scenario)
    kinds = np.array([contrast.kind for contrast in found.rows])
    families = {"Holm family error": ("main",), "headline's family error": ("gap", "shapley", "unexplained")}
    rng = np.random.default_rng(seed)
    holds, centred, widths = [], [], []
    alarms: dict[str, list[np.ndarray]] = {name: [] for name in families}
    for batch, beside in estimates(scenario, rng, repetitions):
        half, narrow = batch.half_width(0.95), beside.half_width(0.95)
        holds.append(np.abs(batch.value - truth) <= half)
        centred.append(np.abs(batch.value - truth) <= narrow)
        with np.errstate(invalid="ignore"):
            widths.append(np.nan_to_num(narrow / half, nan=1.0))
        wrong = np.isclose(truth, 0)
        for name, family in families.items():
            mine = np.isin(kinds, family)
            alarms[name].append((holm(batch.p[:, mine]) < 0.05)[:, wrong[mine]].any(-1))
    share, beside_share, width = (np.concatenate(each).mean(0) for each in (holds, centred, widths))
    if scenario.null:
        rates = {name: float(np.concatenate(each).mean()) for name, each in alarms.items()}
        return [
            Row(scenario.name, str(scenario.seeds), name, rate, rate, None, 0.05, repetitions)
            for name, rate in rates.items()
        ]
    rows = []
    for kind in KINDS:
        mine = kinds == kind
        second = None
        if not np.allclose(width[mine], 1):
            second = (
                float(beside_share[mine].min()),
                float(beside_share[mine].max()),
                float(width[mine].mean()),
            )
        rows.append(
            Row(
                scenario.name,
                str(scenario.seeds),
                kind,
                float(share[mine].min()),
                float(share[mine].max()),
                scenario.lowest,
                scenario.highest,
                repetitions,
                second,
            )
        )
    return rows


def other_speakers(repetitions: int, seed: int) -> Iterator[Row]:
    """The interval for other speakers, where speaker x cell has an SD of .03. As `centred` stands the share
    of headline intervals that hold what others would give, and the width of the first over them."""
    cells, found = contrasts()
    weights = found.matrix(cells)
    kinds = np.array([contrast.kind for contrast in found.rows])
    for seeds in (3, 5):
        for speakers in (4, 6, 10, 25):
            quiet = Scenario("", seeds, seed=0.015, utterance_cell=0.05, residual=0.025, speakers=speakers)
            truth, held, single, width = weights @ true_means(quiet), [], [], []
            who, rng = speaker_of(quiet), np.random.default_rng(seed)
            for start in range(0, repetitions, BATCH):
                scores = draw(quiet, rng, min(BATCH, repetitions - start))
                whole = estimate(scores, weights, groups_of(quiet))
                within = np.stack([scores[..., who == s].mean((-2, -1)) @ weights.T for s in range(speakers)])
                half = others(whole.seed_parts, whole.seeds - 1, within, np.bincount(who), 0.95)
                held.append(np.abs(whole.value - truth) <= half)
                single.append(np.abs(whole.value - truth) <= whole.half_width(0.95))
                width.append(half / whole.half_width(0.95))
            share, beside, wide = (np.concatenate(each).mean(0) for each in (held, single, width))
            for kind in KINDS:
                mine = kinds == kind
                second = float(beside[mine].min()), float(beside[mine].max()), float(wide[mine].mean())
                ends = float(share[mine].min()), float(share[mine].max())
                name = f"{speakers} speakers stand for others (headline beside it)"
                yield Row(name, str(seeds), kind, *ends, 0.92, None, repetitions, second)


CLAIM, MARGIN = 0.10, 0.05
WORDS = {"contradicted": 0.025, "supported": 0.025, "negligible": 0.05}


def verdict_errors(repetitions: int, seed: int) -> Iterator[Row]:
    """How often a word is said of a main effect on its border: a point claim of .10, a margin of .05, and a
    truth of .05, where none of the three words is true, but only just; beside it a truth of .08, well within.
    """
    quiet = Scenario("", 3, seed=0.015, utterance_cell=0.05, residual=0.025)
    _, found = contrasts()
    (row,) = [i for i, c in enumerate(found.rows) if (c.kind, c.name) == ("main", "a")]
    for seeds in (2, 3, 5, 10):
        for tails in ("", "everywhere", "on"):
            for truth in (0.05, 0.08):
                scenario = replace(quiet, seeds=seeds, tails=tails, effect=truth)
                said: dict[str, list[np.ndarray]] = {word: [] for word in WORDS}
                for batch, _ in estimates(scenario, np.random.default_rng(seed), repetitions):
                    mine = batch.rows([row])
                    half, narrow = mine.half_width(0.95), mine.half_width(0.9)
                    flags = decide(mine.value, half, narrow, (CLAIM, CLAIM), MARGIN)
                    for word in WORDS:
                        said[word].append(getattr(flags, word))
                for word, bound in WORDS.items():
                    rate = float(np.concatenate(said[word]).mean())
                    known = bound if truth == 0.05 and not tails and seeds > 2 else None
                    name = f"claim {CLAIM}, truth {truth}" + (f", tails {tails}" if tails else "")
                    yield Row(name, str(seeds), word, rate, rate, None, known, repetitions)


@dataclass(frozen=True)
class Race:
    """A rule that adds seeds until every Shapley value's and the gap's half-width is `width`.

    Attributes:
        unstable: seed SD of base and baseline (others: .03).
        unequal_hours: whether a training costs 1 to 2.5 by the factors that are on, instead of 1.
        everywhere: one more seed in every cell at each look, instead of the training that narrows most.
    """

    unstable: float | None
    unequal_hours: bool
    width: float
    everywhere: bool
    first: int = FIRST
    most: int = 40

    @property
    def name(self) -> str:
        rule = "one more everywhere" if self.everywhere else "what narrows most"
        spread = f"seed SD {self.unstable} in base and baseline" if self.unstable else "equal seed SD"
        cost = "unequal" if self.unequal_hours else "equal"
        return f"{rule} until {self.width} from {self.first} seeds, {spread}, {cost} hours"


def race(rule: Race, repetitions: int, seed: int) -> tuple[list[Row], dict[str, float]]:
    """Coverage under a rule that adds seeds; and its mean trainings, hours and half-width of the gap."""
    scenario = Scenario("", rule.most, unstable=rule.unstable)
    cells, found = contrasts()
    rows = [i for i, c in enumerate(found.rows) if c.kind in ("gap", "main", "shapley")]
    kinds = np.array([found.rows[i].kind for i in rows])
    weights = found.matrix(cells)[rows]
    judged = np.flatnonzero(kinds != "main")
    truth = weights @ true_means(scenario)
    groups = groups_of(scenario)
    sizes = weights[judged] ** 2
    on = np.array([name.count("n") for name in cells[:-1]] + [3.0])
    hours = 1 + 0.5 * on * rule.unequal_hours
    rng = np.random.default_rng(seed)
    held, spent, gaps, counts = [], [], [], []
    for start in range(0, repetitions, BATCH):
        for scores in draw(scenario, rng, min(BATCH, repetitions - start)):
            seeds = np.full(9, rule.first)
            while True:
                present = np.arange(seeds.max()) < seeds[:, None]
                look = estimate(scores[:, : seeds.max()], weights, groups, present)
                half = look.half_width(0.95)
                room = seeds < rule.most
                if half[judged].max() <= rule.width or not room.any():
                    break
                if rule.everywhere:
                    seeds += room
                    continue
                state = Targets.of(look.rows(judged.tolist()), sizes, 0.95)
                _, group, gain = state.best(hours, room)
                if not gain > 0:
                    break
                seeds[group] += 1
            held.append(np.abs(look.value - truth) <= half)
            spent.append(float(seeds @ hours))
            counts.append(int(seeds.sum()))
            gaps.append(float(half[0]))
    share = np.mean(held, axis=0)
    cost = {"trainings": float(np.mean(counts)), "hours": float(np.mean(spent)), "gap": float(np.mean(gaps))}
    covered = [
        Row(
            rule.name,
            f"mean {cost['trainings'] / 9:.1f}",
            kind,
            float(share[kinds == kind].min()),
            float(share[kinds == kind].max()),
            0.93,
            None,
            repetitions,
        )
        for kind in ("gap", "main", "shapley")
    ]
    return covered, cost


def races() -> Iterator[Race]:
    for unstable, width in ((None, 0.035), (0.09, 0.06)):
        for unequal_hours in (False, True):
            for everywhere in (False, True):
                yield Race(unstable, unequal_hours, width, everywhere)


def table(rows: list[Row]) -> str:
    lines = [
        "| planted | seeds | quantity | lowest | highest | centred by seed | width | bound | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bounds = [f"at least {row.at_least:.3f}"] if row.at_least is not None else []
        beside = "{:.3f} to {:.3f} | {:.2f}".format(*row.centred) if row.centred else "|"
        bounds += [f"at most {row.at_most:.3f}"] if row.at_most is not None else []
        lines.append(
            f"| {row.scenario} | {row.seeds} | {row.quantity} | {row.low:.3f} | {row.high:.3f} | {beside} | "
            f"{', '.join(bounds)} | {'yes' if row.kept else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", choices=["plain", "hard", "verdicts", "speakers", "races"], action="append")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    started = time.perf_counter()
    rows: list[Row] = []
    asked = options.only or ["plain", "hard", "verdicts", "speakers", "races"]
    planted = {"plain": scenarios(), "hard": hard_scenarios()}
    for part in [part for part in planted if part in asked]:
        for index, scenario in enumerate(planted[part]):
            rows += run(scenario, options.repetitions, options.seed + index)
    if "verdicts" in asked:
        rows += verdict_errors(options.repetitions, options.seed)
    if "speakers" in asked:
        rows += other_speakers(options.repetitions, options.seed)
    costs = {}
    for rule in races() if "races" in asked else ():
        covered, costs[rule.name] = race(rule, options.repetitions, options.seed + 2000)
        rows += covered
    print(table(rows))
    for name, cost in costs.items():
        print(
            f"{name}: {cost['trainings']:.1f} trainings, {cost['hours']:.1f} hours, gap +-{cost['gap']:.4f}"
        )
    print(f"{options.repetitions} repetitions, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.json:
        records = [{**vars(row), "kept": row.kept} for row in rows]
        options.json.write_text(json.dumps({"repetitions": options.repetitions, "rows": records}, indent=2))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
