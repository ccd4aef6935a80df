"""How quiet recipes are: what schedules and averages of the weights make of the noise between seeds.

One trajectory for each network, cell, schedule, length and seed, trained by the training package's own code;
from it several ways of taking the weights are scored on the same test utterances. Every training is one file,
so that the measurement can be stopped and continued, by several processes at once; seeds come one after
another, so that it can be cut at any time.

    python benchmarks/quiet_recipes.py --folder RAW --corpus CORPUS   # train, as long as you like
    python benchmarks/quiet_recipes.py --folder RAW --gather          # into results/quiet_recipes.csv
    python benchmarks/quiet_recipes.py --table                        # what the documentation shows
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import re
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    network: {
        "base": {},
        "decoder": {"model.decoder_expansion": expansion},
        "fault": {"recipe.learning_rate": 1e-4},
        "bidirectional": {"model.direction": "bi"},
        "crossband": {"model.crossband": crossband, "model.crossband_layers": 1},
    }
    for network, expansion, crossband in (("mbsnet", 4, "bilstm"), ("bsrnn", 2, "pointwise"))
}
"""Cells of each network: as it is, a planted fault (a tenth of the rate), and one part toggled."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "step": {},
    "cosine": {"recipe.schedule": "cosine"},
    "warm cosine": {"recipe.schedule": "cosine", "recipe.warmup": 0.1},
}
HORIZONS = {"ema .05": 0.05, "ema .1": 0.1}
TAIL = 0.25
VALIDATED = (8, 16)
"""Utterances that the best weights are selected by; `quick` has 8."""
UTTERANCES = 32
RESULTS = Path(__file__).parent / "results" / "quiet_recipes.csv"
KEYS = ["network", "cell", "schedule", "steps", "seed", "way"]
TODAY = ("step", "best of 8")
"""Schedule and choice of weights that the others are compared with."""


class Training(NamedTuple):
    network: str
    cell: str
    schedule: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return "-".join(map(str, self)).replace(" ", "_")


def planned(seeds: range, lengths: list[int], schedules: list[str]) -> Iterator[Training]:
    """Every training, seed by seed."""
    for seed in seeds:
        for steps in lengths:
            for network, cells in NETWORKS.items():
                for cell in cells:
                    for schedule in schedules:
                        yield Training(network, cell, schedule, steps, seed)


def measure(training: Training, corpus: Any) -> dict[str, Any]:
    """Train once; score every way of taking the weights."""
    import torch

    from ablate.models import build_model
    from ablate.training import seeds
    from ablate.training.config import RunConfig
    from ablate.training.data.batches import Batches
    from ablate.training.failures import DivergedError
    from ablate.training.optimisation import update_ema
    from ablate.training.trainer import Trainer

    changes = NETWORKS[training.network][training.cell] | SCHEDULES[training.schedule]
    config = RunConfig.of(training.network, "quick").with_changes({"recipe.steps": training.steps, **changes})
    recipe, device = config.recipe, torch.device("cpu")
    seeds.set_global(training.seed, "init")
    model = build_model(config.model)
    batches = Batches(corpus.train, batch_size=recipe.batch_size, crop=16000, seed=training.seed)
    trainer = Trainer(model, recipe, batches, seed=training.seed, device=device)
    averages = {way: deepcopy(model) for way in (*HORIZONS, "tail")}
    tail = round((1 - TAIL) * training.steps)
    interval = recipe.validation_interval(training.steps)
    checked: dict[int, Any] = {}
    validations: dict[int, list[float]] = {}
    began = time.process_time()
    try:
        while trainer.step < training.steps:
            step = trainer.step
            trainer.train_step()
            for way, share in HORIZONS.items():
                update_ema(averages[way], model, step, share * training.steps)
            if step >= tail:
                update_ema(averages["tail"], model, step - tail, math.inf)
            if trainer.step % interval == 0 or trainer.step == training.steps:
                checked[trainer.step] = {k: value.clone() for k, value in model.state_dict().items()}
                scores = score(model, corpus.select_validation(max(VALIDATED)))
                validations[trainer.step] = list(scores.values())
    except DivergedError as error:
        return {**training._asdict(), "status": "diverged", "message": str(error)}
    trained = time.process_time() - began
    ways = {"last": model.state_dict()} | {way: average.state_dict() for way, average in averages.items()}
    rows = {}
    for way, weights in ways.items():
        model.load_state_dict({name: value.clone() for name, value in weights.items()})
        rows[way] = score(model, test_utterances(corpus))
    selected, known = {}, {training.steps: rows["last"]}
    for count in VALIDATED:
        every = max(VALIDATED) // count
        step = max(checked, key=lambda at, every=every: float(np.mean(validations[at][::every])))
        if step not in known:
            model.load_state_dict(checked[step])
            known[step] = score(model, test_utterances(corpus))
        selected[f"best of {count}"], rows[f"best of {count}"] = step, known[step]
    return {
        **training._asdict(),
        "status": "done",
        "train_seconds": trained,
        "score_seconds": time.process_time() - began - trained,
        "selected": selected,
        "validations": validations,
        "pesq_wb": rows,
    }


def test_utterances(corpus: Any) -> list[Any]:
    """Some of the shorter half of the test utterances, spread over the names."""
    from ablate.training.data.corpus import spread

    middle = sorted(pair.seconds for pair in corpus.test)[len(corpus.test) // 2]
    return list(spread([pair for pair in corpus.test if pair.seconds <= middle], UTTERANCES))


def score(model: Any, pairs: Any) -> dict[str, float]:
    """PESQ-WB by utterance, in the order of the pairs."""
    from ablate.training.evaluate import enhance_utterances
    from ablate.training.metrics.pool import measure as measure_pair

    found = {}
    for index, enhanced in enhance_utterances(model, [pair.noisy for pair in pairs]):
        scored = measure_pair(pairs[index].clean, enhanced, 16000, ("pesq_wb",))
        found[pairs[index].name] = round(scored.with_floors()["pesq_wb"], 5)
    return {pair.name: found[pair.name] for pair in pairs}


def collect(folder: Path, corpus: Path, trainings: list[Training]) -> None:
    """Train what is not there yet; another process that works on the same list takes the next one."""
    import torch

    from ablate.training.data.corpus import Corpus

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    opened = Corpus.open(corpus, cache=folder / "cache")
    for training in trainings:
        path = folder / f"{training.name}.json"
        with (folder / f"{training.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if path.exists():
                continue
            found = measure(training, opened)
            path.with_suffix(".part").write_text(json.dumps(found))
            path.with_suffix(".part").rename(path)
            seconds = found.get("train_seconds", 0), found.get("score_seconds", 0)
            print(training.name, found["status"], *(f"{value:.1f}" for value in seconds), flush=True)


def gather(folder: Path) -> pd.DataFrame:
    """A row per training and way of taking its weights, a column of PESQ-WB per utterance."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        if found["status"] != "done":
            raise SystemExit(f"{path.name}: {found['message']}")
        for way, scores in found["pesq_wb"].items():
            step = found["selected"].get(way, found["steps"])
            keys = {key: found[key] for key in KEYS[:-1]}
            rows.append({**keys, "way": way, "step": step, "seconds": found["train_seconds"], **scores})
    return pd.DataFrame(rows).sort_values(KEYS).round(3)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean PESQ-WB by network, steps, cell and seed (rows) and by schedule and way (columns)."""
    utterances = table.columns.difference([*KEYS, "step", "seconds"])
    flat = table[KEYS].assign(pesq_wb=table[utterances].mean(axis=1))
    return flat.pivot(
        index=["network", "steps", "cell", "seed"], columns=["schedule", "way"], values="pesq_wb"
    )


def deviations(found: pd.DataFrame) -> pd.DataFrame:
    """From the mean over the seeds of each network, length and cell; those of one seed are left out."""
    cells = found.groupby(level=["network", "steps", "cell"])
    return (found - cells.transform("mean"))[cells.transform("count") > 1]


def compared(one: pd.Series, other: pd.Series) -> tuple[float, float, float, int]:
    """The ratio of two variances between the same seeds, its 95 % interval and degrees of freedom.

    Each network and length is scaled by its own noise, so that none rules the others. The interval is that of
    Pitman (1939) and Morgan (1939) for variances of paired values; cells of a seed count as one, since they
    vary together.
    """
    both = pd.DataFrame({"one": one, "other": other}).dropna()
    seeds = both.groupby(level=["network", "steps", "seed"]).ngroups
    df = seeds - both.groupby(level=["network", "steps"]).ngroups
    if df < 1:
        return (math.nan,) * 3 + (df,)
    squares = (both**2).groupby(level=["network", "steps"]).transform("sum")
    scaled = both.div(np.sqrt(squares["one"] * squares["other"]) ** 0.5, axis=0)
    x, y = (scaled**2).sum()
    correlation = float((scaled["one"] * scaled["other"]).sum()) / math.sqrt(x * y)
    if df < 2 or correlation > 1 - 1e-12:
        return x / y, math.nan, math.nan, df
    k = 1 + 2 * (1 - correlation**2) * stats.t.isf(0.025, df - 1) ** 2 / (df - 1)
    spread = k + math.sqrt(k**2 - 1)
    return x / y, x / y / spread, x / y * spread, df


def effects(found: pd.DataFrame, cell: str) -> pd.DataFrame:
    """Of a cell over the base, by network, length and seed; bsrnn's decoder is narrowed: its sign turns."""
    by_cell = found.unstack("cell").reorder_levels(["cell", "schedule", "way"], axis=1)
    if cell not in by_cell:
        return found.iloc[:0]
    effect = by_cell[cell] - by_cell["base"]
    if cell == "decoder":
        effect = effect.mul(np.where(effect.index.get_level_values("network") == "bsrnn", -1, 1), axis=0)
    return effect.dropna(how="all")


WAYS = ["best of 8", "best of 16", "last", "ema .05", "ema .1", "tail"]


HEAD = [
    *("steps", "schedule", "weights", *NETWORKS),
    *("variance", "to last", "level", "decoder4x", "fault", "noise"),
]


def printed(table: pd.DataFrame) -> str:
    """The tables of the documentation.

    SD over seeds (df) by network; the variance over that of the best of eight, and of the last weights under
    the same schedule (95 % interval); PESQ-WB above the best of eight, of base and decoder4x; effects
    (standard error over seeds); and noise: (SD / effect)^2 of decoder4x and of the fault.
    """
    found = means(table)
    off = deviations(found)
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for steps, at in found.groupby(level="steps"):
        here = off[off.index.get_level_values("steps") == steps]
        sound = at[at.index.get_level_values("cell").isin(["base", "decoder"])]
        for schedule, way in product(SCHEDULES, WAYS):
            if (schedule, way) not in at or not at[schedule, way].notna().any():
                continue
            column = schedule, way
            spreads = [_spread(here[column], network) for network in NETWORKS]
            known = [variance for variance, df in spreads if df]
            noise = sum(known) / len(known) if known else math.nan
            toggled = [effects(at, cell)[column].dropna() for cell in ("decoder", "fault")]
            cells = [
                *(str(steps), schedule, way),
                *(f"{math.sqrt(variance):.3f} ({df})" if df else "" for variance, df in spreads),
                *(_ratio(here, column, other) for other in (TODAY, ("step", "last"))),
                f"{(sound[column] - sound[TODAY]).mean():+.3f}",
                *(f"{e.mean():+.3f} ({e.sem():.3f})" if len(e) > 1 else "" for e in toggled),
                ", ".join(f"{noise / e.mean() ** 2:.2g}" for e in toggled if len(e) > 1 and known),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *pairing(off)])


def _ratio(here: pd.DataFrame, column: tuple[str, str], other: tuple[str, str]) -> str:
    if column == other:
        return "1"
    value, low, high, df = compared(here[column], here[other])
    if df < 1:
        return ""
    return f"{value:.2g}" + ("" if math.isnan(low) else f" ({low:.2g} to {float(f'{high:.2g}'):g})")


def _spread(off: pd.Series, network: str) -> tuple[float, int]:
    """Variance over seeds, pooled over cells, and its degrees of freedom."""
    own = off[off.index.get_level_values("network") == network].dropna()
    df = len(own) - own.groupby(level="cell").ngroups
    return (float((own**2).sum()) / df if df else math.nan), df


TOGGLED = ("decoder", "crossband", "bidirectional", "fault")


def pairing(off: pd.DataFrame) -> list[str]:
    """Correlation over seeds between the base and the other cells, by kind of toggle."""
    lines = [f"| steps | schedule | weights | {' | '.join(TOGGLED)} |", "|---" * (3 + len(TOGGLED)) + "|"]
    for steps in off.index.get_level_values("steps").unique():
        for column in off.columns:
            here = off[column].xs(steps, level="steps").unstack("cell")
            shown = [_correlation(here, cell) for cell in TOGGLED]
            if any(shown):
                lines.append(f"| {steps} | {' | '.join([*column, *shown])} |")
    return lines


def _correlation(here: pd.DataFrame, cell: str) -> str:
    """Pooled over networks, with the interval of Fisher's z."""
    if cell not in here:
        return ""
    pairs = here[["base", cell]].dropna()
    pairs = pairs - pairs.groupby(level="network").transform("mean")
    own = pairs / np.sqrt((pairs**2).groupby(level="network").transform("sum"))
    df = len(pairs) - pairs.groupby(level="network").ngroups
    if df < 2:
        return ""
    r = float((own["base"] * own[cell]).sum()) / pairs.groupby(level="network").ngroups
    if df == 2:
        return f"{r:.2f}"
    z, spread = np.arctanh(r), 1.96 / math.sqrt(df - 2)
    return f"{r:.2f} ({np.tanh(z - spread):.2f} to {np.tanh(z + spread):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of the raw results")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--gather", action="store_true", help=f"write {RESULTS.name} from the raw results")
    parser.add_argument("--table", action="store_true", help=f"print the tables of {RESULTS.name}")
    parser.add_argument("--seeds", type=int, nargs=2, default=(1, 20), help="first and last")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=["step", "cosine"])
    parser.add_argument("--only", default="", help="trainings whose name matches this expression")
    options = parser.parse_args()
    if options.gather:
        RESULTS.parent.mkdir(exist_ok=True)
        gather(options.folder).to_csv(RESULTS, index=False)
    if options.table:
        print(printed(pd.read_csv(RESULTS)))
    if options.gather or options.table:
        return
    listed = planned(range(options.seeds[0], options.seeds[1] + 1), options.steps, options.schedules)
    collect(options.folder, options.corpus, [t for t in listed if re.search(options.only, t.name)])


if __name__ == "__main__":
    main()
