"""Seed ensembles: the outputs of a cell's networks, averaged and scored as one system.

Their score is an upper bound for one run of the cell, without an interval. An ensemble is not a level of a
factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.ablations.grid import AnyCell
from ablate.models.errors import InputError
from ablate.models.plugins import load_planned
from ablate.training.config import digest

from .plan import Plan, cache_path, run_of, study_path

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ensemble:
    """The scores of a cell's averaged outputs: a row per utterance, as for a run."""

    seeds: int
    scores: pd.DataFrame


def stored(plan: Plan, root: Path) -> dict[str, Ensemble]:
    """Cell -> its ensemble of all current seeds, for cells whose ensemble is scored."""
    import pandas as pd

    return {
        cell.name: Ensemble(len(seeds), pd.read_parquet(path))
        for cell in plan.cells
        if (path := _path(plan, cell, seeds := _seeds(cell, root), root)).exists()
    }


def score(
    plan: Plan,
    root: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    processes: int = 1,
    say: Callable[[str], None],
) -> dict[str, Ensemble]:
    """Score the seed ensemble of every cell with at least two runs; existing scores are kept.

    Args:
        processes: number of processes that compute metrics; 0 computes them in this process.

    Raises:
        InputError: no cell has two trained seeds, a checkpoint is missing (imported studies have none), or
            a training command trains the study.
    """
    from torch import nn

    from ablate.training.checkpoint import load_model
    from ablate.training.data.corpus import find_test
    from ablate.training.environment import choose_device, prepared
    from ablate.training.evaluate import Averaged, score_test
    from ablate.training.files import atomic_write
    from ablate.training.metrics import MetricPool

    if not plan.networks:
        raise InputError(
            f"study {plan.name} uses a training command; ablate can only average the outputs of "
            "networks that it trains itself"
        )

    def network(cell: AnyCell, seed: int) -> nn.Module:
        path = run_of(root, cell, seed).checkpoints / "best.pt"
        if not path.exists():
            raise InputError(f"cell {cell.name!r}, seed {seed}: an ensemble needs the weights {path}")
        return load_model(path)

    seeds = {cell.name: _seeds(cell, root) for cell in plan.cells}
    if max(map(len, seeds.values())) < 2:
        raise InputError(f"no cell of {plan.name} has two trained seeds; an ensemble needs at least two")
    load_planned(plan.plugins)
    cache = cache_path(root)
    pairs = find_test(
        plan.corpus.test_path or plan.corpus.path,
        plan.corpus.test_digest,
        cache=cache,
        pairs=plan.corpus.pairs,
    )
    place = choose_device(device)
    with MetricPool(processes, plugins=plan.plugins) as pool:
        for cell in plan.networks:
            path = _path(plan, cell, seeds[cell.name], root)
            if len(seeds[cell.name]) < 2 or path.exists():
                continue
            say(f"{cell.name}: {len(seeds[cell.name])} seed ensemble on {len(pairs)} utterances")
            with prepared(place, cell.config.recipe.precision, threads):
                average = Averaged([network(cell, seed) for seed in seeds[cell.name]]).to(place)
                scores = score_test(average, pairs, cell.config.evaluation, pool, cache=cache, device=place)
            with atomic_write(path) as temporary:
                scores.to_parquet(temporary, index=False)
    return stored(plan, root)


def _seeds(cell: AnyCell, root: Path) -> tuple[int, ...]:
    """The seeds of a cell whose training is done."""
    return tuple(seed for seed in cell.seeds if run_of(root, cell, seed).state.state == "done")


def _path(plan: Plan, cell: AnyCell, seeds: tuple[int, ...], root: Path) -> Path:
    name = digest(sorted(cell.evaluations[seed] for seed in seeds))
    return study_path(root, plan.name) / "averages" / f"{name}.parquet"
