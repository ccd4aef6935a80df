"""Does the 95 % interval hold what it says? Planted effects, known variances, the engine of the reports.

    python benchmarks/interval_coverage.py --repetitions 4000 --json coverage.json

Each repetition draws scores (cell, seed, utterance) of a 2 x 2 x 2 grid and a baseline, or of a grid whose
third factor acts at evaluation only, and asks the engine of the reports for the gap, the main effects and the
Shapley values. Printed: the share of intervals that hold the truth (the lowest and the highest over the
factors), the share of null families in which Holm's procedure finds something, and the bounds to keep. Two
Monte-Carlo standard errors are allowed on every bound. Exit code 1 if one is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from ablate.ablations.design import Design
from ablate.ablations.inference.allocation import FIRST, Targets
from ablate.ablations.inference.contrasts import ContrastSet, build
from ablate.ablations.inference.engine import Estimates, estimate, holm

FACTORS = ("a", "b", "c")
LEVELS = dict.fromkeys(FACTORS, ("off", "on"))
EFFECTS = {"a": 0.25, "b": 0.15, "c": 0.05}
UTTERANCES = 100
BATCH = 250


@dataclass(frozen=True)
class Scenario:
    """What is planted, as standard deviations.

    Attributes:
        seed: between trainings of a cell; `unstable` in the base and the baseline.
        shared_seed: of a seed's effect on all cells.
        utterance_cell: of the utterance x cell effect.
        residual: of one utterance of one run.
        evaluation: of what each training adds to the effect of a factor that acts at evaluation only.
        lowest, highest: the coverage to keep.
    """

    name: str
    seeds: int
    seed: float = 0.03
    unstable: float | None = None
    shared_seed: float = 0.0
    utterance_cell: float = 0.08
    residual: float = 0.2
    evaluation_only: bool = False
    evaluation: float = 0.01
    missing: bool = False
    null: bool = False
    lowest: float = 0.93
    highest: float | None = 0.985


def scenarios() -> Iterator[Scenario]:
    for seeds in (3, 5, 10):
        plain = Scenario("equal seed SD", seeds)
        yield plain
        unequal = replace(plain, name="seed SD .09 in base and baseline, .03 elsewhere", unstable=0.09)
        yield unequal
        yield replace(plain, name="third factor at evaluation only", evaluation_only=True)
        yield replace(unequal, name="missing seeds, unequal seed SD", missing=True, lowest=0.92)
        yield replace(plain, name="seed effect shared by all cells", shared_seed=0.03, highest=None)
        yield replace(plain, name="no effects", null=True)
        yield replace(unequal, name="no effects, unequal seed SD", null=True)


def contrasts() -> tuple[list[str], ContrastSet]:
    """The cells of the grid and its baseline (last), and their contrasts."""
    cells = {
        "".join(level[1] for level in at): dict(zip(FACTORS, at, strict=True))
        for at in product(("off", "on"), repeat=len(FACTORS))
    }
    cells["baseline"] = {}
    return list(cells), build(Design.of(LEVELS), cells, baseline="baseline")


def groups_of(scenario: Scenario) -> list[list[int]]:
    """Cells that share trainings: pairs along the third factor if it acts at evaluation only."""
    if scenario.evaluation_only:
        return [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    return [[index] for index in range(9)]


def presence(scenario: Scenario) -> np.ndarray:
    """Which runs there are (cell, seed): with missing seeds every third cell lacks one, the base too."""
    present = np.ones((9, scenario.seeds), dtype=bool)
    if scenario.missing:
        for cell in (0, 3, 6):
            present[cell, cell % scenario.seeds] = False
        if scenario.seeds > 3:
            present[8, :2] = False
    return present


def draw(scenario: Scenario, rng: np.random.Generator, repetitions: int) -> np.ndarray:
    """Scores (repetition, cell, seed, utterance)."""
    s, u = scenario.seeds, UTTERANCES
    spread = np.full(9, scenario.seed)
    if scenario.unstable is not None:
        spread[[0, 8]] = scenario.unstable
    training = rng.normal(size=(repetitions, 9, s, 1)) * spread[:, None, None]
    if scenario.evaluation_only:
        training[:, 1:8:2] = training[:, 0:8:2]
        training = training + rng.normal(size=(repetitions, 9, s, 1)) * scenario.evaluation
    scores = rng.normal(size=(repetitions, 9, s, u)) * scenario.residual
    scores += training
    scores += rng.normal(size=(repetitions, 1, s, 1)) * scenario.shared_seed
    scores += rng.normal(size=(repetitions, 9, 1, u)) * scenario.utterance_cell
    scores += rng.normal(size=(repetitions, 1, 1, u)) * 0.15
    return scores + true_means(scenario)[:, None, None]


def true_means(scenario: Scenario) -> np.ndarray:
    if scenario.null:
        return np.full(9, 2.8)
    factorial = [
        2.6 + sum(EFFECTS[f] for f, level in zip(FACTORS, at, strict=True) if level == "on")
        for at in product(("off", "on"), repeat=3)
    ]
    return np.array([*factorial, 3.1])


def estimates(scenario: Scenario, rng: np.random.Generator, repetitions: int) -> Iterator[Estimates]:
    cells, found = contrasts()
    weights = found.matrix(cells)
    for start in range(0, repetitions, BATCH):
        scores = draw(scenario, rng, min(BATCH, repetitions - start))
        yield estimate(scores, weights, groups_of(scenario), presence(scenario))


@dataclass(frozen=True)
class Row:
    """One line of the table; `low` and `high` are the extremes over the contrasts of a kind."""

    scenario: str
    seeds: str
    quantity: str
    low: float
    high: float
    at_least: float | None
    at_most: float | None
    repetitions: int

    def slack(self, bound: float) -> float:
        return 2 * math.sqrt(bound * (1 - bound) / self.repetitions)

    @property
    def kept(self) -> bool:
        enough = self.at_least is None or self.low >= self.at_least - self.slack(self.at_least)
        return enough and (self.at_most is None or self.high <= self.at_most + self.slack(self.at_most))


def run(scenario: Scenario, repetitions: int, seed: int) -> list[Row]:
    """Coverage of one scenario, and of the Holm family where there are no effects."""
    cells, found = contrasts()
    truth = found.matrix(cells) @ true_means(scenario)
    kinds = np.array([contrast.kind for contrast in found.rows])
    rng = np.random.default_rng(seed)
    holds, alarms = [], []
    for batch in estimates(scenario, rng, repetitions):
        low, high = batch.interval(0.95)
        holds.append((low <= truth) & (truth <= high))
        alarms.append((holm(batch.p[:, kinds == "main"]) < 0.05).any(-1))
    share = np.concatenate(holds).mean(0)
    rows = []
    if scenario.null:
        rate = float(np.concatenate(alarms).mean())
        rows.append(
            Row(scenario.name, str(scenario.seeds), "Holm family error", rate, rate, None, 0.05, repetitions)
        )
    else:
        for kind in ("gap", "main", "shapley"):
            of_kind = share[kinds == kind]
            bounds = (scenario.lowest, scenario.highest)
            rows.append(
                Row(
                    scenario.name,
                    str(scenario.seeds),
                    kind,
                    float(of_kind.min()),
                    float(of_kind.max()),
                    *bounds,
                    repetitions,
                )
            )
    return rows


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
        "| planted | seeds | quantity | lowest | highest | bound | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bounds = [f"at least {row.at_least:.3f}"] if row.at_least is not None else []
        bounds += [f"at most {row.at_most:.3f}"] if row.at_most is not None else []
        lines.append(
            f"| {row.scenario} | {row.seeds} | {row.quantity} | {row.low:.3f} | {row.high:.3f} | "
            f"{', '.join(bounds)} | {'yes' if row.kept else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    started = time.perf_counter()
    rows: list[Row] = []
    for index, scenario in enumerate(scenarios()):
        rows += run(scenario, options.repetitions, options.seed + index)
    costs = {}
    for rule in races():
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
