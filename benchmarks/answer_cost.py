"""What an answer costs: trainings and hours until the main effects of a 2 x 2 x 2 grid are known to +-.03.

    python benchmarks/answer_cost.py --repetitions 1000

Before: the weights of the best of eight validation utterances, one more seed in every cell until the widest
main effect is narrow enough. After: another recipe, and the training that narrows most per hour. Variances
between seeds, of utterance x cell and of the residual, and the seconds of a training, are those that
`quiet_recipes.py` measured (results/quiet_recipes.csv); each repetition draws scores (cell, seed, utterance)
of nine cells and asks the engine of the reports, utterances included.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.ablations.inference.allocation import FIRST, Targets
from ablate.ablations.inference.engine import estimate

sys.path.append(str(Path(__file__).parent))
from interval_coverage import contrasts
from quiet_recipes import KEYS, RESULTS


@dataclass(frozen=True)
class Noise:
    """Standard deviations of PESQ-WB, and hours of a training.

    Attributes:
        seed: between trainings of a cell.
        utterance_cell: of what an utterance adds to one cell and not to the others.
        residual: of one utterance of one training.
        hours: of a training of a grid's cell and of the baseline.
    """

    seed: float
    utterance_cell: float
    residual: float
    hours: tuple[float, float]

    @classmethod
    def of(cls, table: pd.DataFrame, schedule: str, way: str, steps: int) -> Noise:
        """Of a recipe, over both networks and the cells without a fault, from the analysis of variance."""
        rows = table[(table["schedule"] == schedule) & (table["way"] == way) & (table["steps"] == steps)]
        rows = rows[rows["cell"].isin(["base", "decoder"])]
        utterances = table.columns.difference([*KEYS, "step", "seconds"])
        squares = {"seed": 0.0, "residual": 0.0, "cell": 0.0}
        df = {"seed": 0, "residual": 0, "cell": 0}
        for _, network in rows.groupby("network"):
            blocks = [cell[utterances].to_numpy() for _, cell in network.groupby("cell")]
            blocks = [block for block in blocks if len(block) > 1]
            for block in blocks:
                means = block.mean(1, keepdims=True)
                rest = block - means - block.mean(0) + block.mean()
                squares["seed"] += float(((means - means.mean()) ** 2).sum())
                squares["residual"] += float((rest**2).sum())
                df["seed"] += len(block) - 1
                df["residual"] += (len(block) - 1) * (len(utterances) - 1)
            if len(blocks) > 1:
                profile = np.array([block.mean(0) for block in blocks])
                rest = profile - profile.mean(1, keepdims=True) - profile.mean(0) + profile.mean()
                seeds = min(len(block) for block in blocks)
                squares["cell"] += seeds * float((rest**2).sum())
                df["cell"] += (len(blocks) - 1) * (len(utterances) - 1)
        mean = {part: squares[part] / df[part] for part in squares}
        seeds = rows.groupby(["network", "cell"]).size().min()
        hours = rows.groupby("network")["seconds"].mean() / 3600
        return cls(
            seed=max(mean["seed"] - mean["residual"] / len(utterances), 0.0) ** 0.5,
            utterance_cell=max((mean["cell"] - mean["residual"]) / seeds, 0.0) ** 0.5,
            residual=mean["residual"] ** 0.5,
            hours=(float(hours["mbsnet"]), float(hours["bsrnn"])),
        )


@dataclass(frozen=True)
class Rule:
    """How seeds are added until the half-widths of some kinds of contrasts are small enough.

    Attributes:
        first: seeds of every cell before the first look.
        allocated: the training that narrows most per hour is added, instead of one in every cell.
    """

    name: str
    first: int
    allocated: bool
    kinds: tuple[str, ...] = ("main",)
    most: int = 200


def cost(rule: Rule, noise: Noise, width: float, utterances: int, repetitions: int, seed: int) -> np.ndarray:
    """(repetition, 2) trainings and hours until the width is reached."""
    cells, found = contrasts()
    weights = found.matrix(cells)[[i for i, c in enumerate(found.rows) if c.kind in rule.kinds]]
    groups = [[index] for index in range(len(cells))]
    hours = np.array([noise.hours[0]] * (len(cells) - 1) + [noise.hours[1]])
    rng = np.random.default_rng(seed)
    spent = []
    for _ in range(repetitions):
        fixed = rng.normal(size=(len(cells), 1, utterances)) * noise.utterance_cell
        scores = np.empty((len(cells), 0, utterances))
        seeds = np.full(len(cells), rule.first)
        while True:
            if (lacking := int(seeds.max()) - scores.shape[1]) > 0:
                training = rng.normal(size=(len(cells), lacking, 1)) * noise.seed
                residual = rng.normal(size=(len(cells), lacking, utterances)) * noise.residual
                scores = np.concatenate([scores, fixed + training + residual], axis=1)
            present = np.arange(scores.shape[1]) < seeds[:, None]
            look = estimate(scores, weights, groups, present)
            if look.half_width(0.95).max() <= width or seeds.max() >= rule.most:
                break
            if rule.allocated:
                _, group, gain = Targets.of(look, weights**2, 0.95).best(hours, np.ones(len(cells), bool))
                if not gain > 0:
                    break
                seeds[group] += 1
            else:
                seeds += 1
        spent.append((seeds.sum(), seeds @ hours))
    return np.array(spent, dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--width", type=float, default=0.03)
    parser.add_argument("--utterances", type=int, default=167, help="of the test set")
    parser.add_argument("--steps", type=int, default=100, help="length whose noise is taken")
    parser.add_argument("--after", nargs=2, default=("step", "last"), help="schedule and weights")
    parser.add_argument("--table", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    table = pd.read_csv(options.table)
    before = Noise.of(table, "step", "best of 8", options.steps)
    after = Noise.of(table, *options.after, options.steps)
    after = replace(after, hours=before.hours)
    everywhere, allocated = Rule("one more everywhere", 3, False), Rule("what narrows most", FIRST, True)
    judged = ("gap", "shapley")
    lines = []
    for wanted, kinds in (("main effects", ("main",)), ("Shapley values and gap", judged)):
        first = None
        for recipe, noise in (("today", before), ("quiet", after)):
            for rule in (everywhere, allocated):
                spent = cost(
                    replace(rule, kinds=kinds),
                    noise,
                    options.width,
                    options.utterances,
                    options.repetitions,
                    options.seed,
                ).mean(0)
                first = spent if first is None else first
                ratio = spent / first
                lines.append(
                    f"| {wanted} | {recipe} | {rule.name} | {spent[0]:.0f} | {spent[1]:.2f} | "
                    f"{ratio[0]:.2f} | {ratio[1]:.2f} |"
                )
    for name, noise in (("today", before), ("quiet", after)):
        print(
            f"{name}: SD {noise.seed:.3f} between seeds, {noise.utterance_cell:.3f} of utterance x cell, "
            f"{noise.residual:.3f} residual; {options.utterances} utterances"
        )
    print(f"| until +-{options.width} | recipe | rule | trainings | hours | of trainings | of hours |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
