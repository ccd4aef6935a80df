"""What `interval_coverage.py` plants: scenarios, and draws of scores (repetition, cell, seed, utterance)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ablate.ablations.design import Design
from ablate.ablations.inference.contrasts import ContrastSet, build
from ablate.ablations.inference.holes import filled

FACTORS = ("a", "b", "c")
LEVELS = dict.fromkeys(FACTORS, ("off", "on"))
EFFECTS = {"a": 0.25, "b": 0.15, "c": 0.05}
ON = np.array([[level == "on" for level in at] for at in product(("off", "on"), repeat=3)])
"""(cell, factor) of the grid's cells."""


@dataclass(frozen=True)
class Scenario:
    """What is planted, as standard deviations.

    Attributes:
        seed: between trainings of a cell; `unstable` in the base and the baseline.
        shared_seed: of a seed's effect on all cells.
        utterance_cell: of the utterance x cell effect.
        residual: of one utterance of one run.
        evaluation: of what each training adds to the effect of a factor that acts at evaluation only.
        tails: which trainings fall .15 short, one in twenty: `everywhere`, or where the first factor is `on`.
        luck: of what the trainings of one seed share within each level of the first factor.
        nested: cells have 2 to `seeds` seeds, the first ones.
        worst: the worst training of half the cells with the first factor on diverges.
        lost: share of the scores that are missing.
        decimals: of run means, where the table has one row a run.
        speakers: the test set's, with `speaker_cell` the SD of speaker x cell; truth is that of others too.
        effect: of the first factor, in place of .25.
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
    tails: str = ""
    luck: float = 0.0
    nested: bool = False
    worst: bool = False
    lost: float = 0.0
    decimals: int | None = None
    speakers: int = 0
    speaker_cell: float = 0.03
    effect: float = EFFECTS["a"]
    lowest: float | None = 0.93
    highest: float | None = 0.985

    @property
    def utterances(self) -> int:
        return 1 if self.decimals is not None else 100


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


def hard_scenarios() -> Iterator[Scenario]:
    """At the variances of the findings' studies; without a bound where an interval is known to fail."""
    for seeds in (2, 3, 5):
        quiet = Scenario("two seeds", seeds, seed=0.015, utterance_cell=0.05, residual=0.025, highest=None)
        if seeds == 2:
            yield replace(quiet, lowest=0.89)
        else:
            shared = replace(quiet, shared_seed=0.015)
            free = replace(quiet, lowest=None)
            yield replace(shared, name="seed effect as the cells' SD")
            yield replace(shared, name="seed effect, third factor at evaluation only", evaluation_only=True)
            yield replace(shared, name="seed effect, 2 seeds and more", nested=True, lowest=0.92)
            yield replace(free, name="one training in twenty .15 short", tails="everywhere")
            yield replace(free, name="one in twenty .15 short where a factor is on", tails="on")
            yield replace(free, name="the worst seed diverges in half the on-cells", worst=True)
            for luck, times in ((0.5, 2.0), (0.612, 2.5), (0.975, 4.8)):
                name = f"seed x factor {times} times, luck within levels {luck:.2f} of the cells' SD"
                yield replace(free, name=name, luck=0.015 * luck)
            yield replace(quiet, name="no effects, findings' variances", null=True)
            yield replace(quiet, name="no effects but .03 in one factor", null=True, effect=0.03)
        for lost in (0.01, 0.1, 0.3) if seeds == 3 else ():
            yield replace(quiet, name=f"{lost:.0%} of the scores missing", lost=lost)
        for spread in (0.003, 0.005, 0.01, 0.02):
            name = f"run means of two decimals, seed SD {spread}"
            yield replace(quiet, name=name, seed=spread, decimals=2, lowest=0.94)


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
    if scenario.nested:
        present &= np.arange(scenario.seeds) < (2 + np.arange(9) % (scenario.seeds - 1))[:, None]
    if scenario.worst:
        present[[4, 6], -1] = False
    return present


def draw(scenario: Scenario, rng: np.random.Generator, repetitions: int) -> np.ndarray:
    """Scores (repetition, cell, seed, utterance)."""
    s, u = scenario.seeds, scenario.utterances
    spread = np.full(9, scenario.seed)
    if scenario.unstable is not None:
        spread[[0, 8]] = scenario.unstable
    training = rng.normal(size=(repetitions, 9, s, 1)) * spread[:, None, None]
    if scenario.worst:
        training[:, [4, 6]] = -np.sort(-training[:, [4, 6]], axis=2)
    if scenario.tails:
        short = rng.random(size=training.shape) < 0.05
        training -= 0.15 * short * _falls_short(scenario)[:, None, None]
    if scenario.luck:
        levels = rng.normal(size=(repetitions, 2, s, 1)) * scenario.luck
        training[:, :8] += levels[:, ON[:, 0].astype(int)]
    if scenario.evaluation_only:
        training[:, 1:8:2] = training[:, 0:8:2]
        training = training + rng.normal(size=(repetitions, 9, s, 1)) * scenario.evaluation
    scores = rng.normal(size=(repetitions, 9, s, u)) * (scenario.residual if u > 1 else 0.0)
    scores += training
    scores += rng.normal(size=(repetitions, 1, s, 1)) * scenario.shared_seed
    if u > 1:
        scores += rng.normal(size=(repetitions, 9, 1, u)) * scenario.utterance_cell
        scores += rng.normal(size=(repetitions, 1, 1, u)) * 0.15
    if scenario.speakers:
        voices = rng.normal(size=(repetitions, 9, 1, scenario.speakers)) * scenario.speaker_cell
        scores += voices[..., speaker_of(scenario)]
    scores += true_means(scenario)[:, None, None]
    if scenario.tails:
        scores += 0.15 / 20 * _falls_short(scenario)[:, None, None]
    if scenario.lost:
        scores[rng.random(scores.shape) < scenario.lost] = np.nan
        for each in scores:
            each[:] = filled(each.reshape(-1, u)).reshape(each.shape)
    if scenario.decimals is not None:
        scores = (scores + rng.uniform(0, 1, size=(repetitions, 1, 1, 1))).round(scenario.decimals)
    return scores


def speaker_of(scenario: Scenario) -> np.ndarray:
    """(utterance,) which speaker says it."""
    return np.arange(scenario.utterances) % max(scenario.speakers, 1)


def _falls_short(scenario: Scenario) -> np.ndarray:
    """(cell,) whether trainings fall short there; the draws' means are the true ones all the same."""
    return np.append(ON[:, 0], False) if scenario.tails == "on" else np.ones(9, dtype=bool)


def true_means(scenario: Scenario) -> np.ndarray:
    effects = EFFECTS | {"a": scenario.effect}
    if scenario.null:
        grid = 2.8 + (scenario.effect * ON[:, 0] if scenario.effect != EFFECTS["a"] else np.zeros(8))
        return np.append(grid, 2.8)
    return np.append(2.6 + ON @ np.array(list(effects.values())), 3.1)
