"""Resolve a study to a plan: open the corpus, build and count the cells, sign every run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.ablations.grid import BASE, BASELINE, Cell, Config, safe_name
from ablate.models import plugins
from ablate.models.distribution import version_of
from ablate.models.errors import InputError
from ablate.training.audio import SAMPLE_RATE
from ablate.training.config import RunConfig
from ablate.training.environment import git_commit, host
from ablate.training.metrics.registry import check_available, facts_of_plugins, usual
from ablate.training.rundir import file_digest

from .. import train_command
from ..study import Study
from . import store
from .model import CorpusNote, ExtraTestSet, Plan, steps_at
from .sizes import Sizes

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus


WIDEBAND = frozenset(
    {"pesq_wb", "pesq_wb_c2", "csig", "cbak", "covl", "csig_ports", "cbak_ports", "covl_ports"}
)
"""Metrics that need the band up to 8 kHz."""


def make(study: Study, root: Path) -> tuple[Plan, Corpus]:
    """Resolve a study: open its corpus, build its cells, count their parameters, sign every run.

    Raises:
        InputError: the grid, a setting or the data is not valid; nothing is written then.
    """
    grid = study.grid
    cells = grid.cells()
    _check_networks(cell.config for cell in cells)
    from ablate.training.data.corpus import Corpus

    first, *further = study.test_data or (None,)
    corpus = Corpus.open(
        study.data,
        cache=cache_path(root),
        test_data=first,
        further=further,
        pairs=study.pairs,
        rate=_rate(study, [cell.config for cell in cells]),
    )
    name = safe_name(study.name or default_name(study, corpus.name), "study")
    if name in store.names(root):
        former = store.load(root, name)
        tests = [former.corpus.test_digest, *(test.digest for test in former.extra_test_sets)]
        corpus = corpus.as_planned(former.corpus.digest, tests)
    note = CorpusNote(
        path=_absolute(study.data),
        name=corpus.name,
        digest=corpus.digest,
        test_path=first and _absolute(first),
        test_digest=corpus.test_digest,
        pairs=_pairs(study.pairs),
        kind=corpus.kind,
        is_demo=corpus.is_demo,
        notes=tuple(corpus.notes),
        train=len(corpus.train),
        validation=len(corpus.validation),
        test=len(corpus.test),
    )
    count = _counting(study)
    planned = []
    for cell in cells:
        config = _measuring(cell.config, study.endpoint.metric, study.program.is_table).in_steps(
            len(corpus.train)
        )
        planned.append(cell.model_copy(update={"config": config, "parameters": count(config)}))
    plan = Plan(
        name=name,
        base=study.base if study.train is None else BASE,
        baseline=BASELINE if isinstance(study.baseline, dict) else study.preset_baseline,
        factors=study.factors,
        design=study.design,
        aliases=tuple(grid.crossed().chains),
        constraints=study.constraints,
        cells=tuple(planned),
        seeds=(),
        recipe=study.recipe if study.train is None else "own",
        corpus=note,
        extra_test_sets=tuple(
            ExtraTestSet(name=t.name, path=_absolute(t.path), digest=t.digest, files=len(t.pairs))
            for t in corpus.extra_test_sets
        ),
        endpoint=study.endpoint,
        tune=study.tune,
        start_from=study.start_from,
        plugins=plugins.digests(study.plugins),
        measures=facts_of_plugins() if study.plugins else {},
        train=study.train and train_command.planned(study.train, study.file, root),
        git_commit=git_commit(Path.cwd()),
        machine=host(),
        versions={name: version_of(name) for name in ("ablate", "torch", "numpy", "optuna", "mlflow")},
        created=time.time(),
    )
    return extend(plan, study.seeds, root, study.step_fractions), corpus


def _rate(study: Study, configs: Sequence[Config]) -> int:
    """The sample rate of all networks of a study.

    Raises:
        InputError: they differ, or the endpoint is not defined at their rate.
    """
    rates = {study.program.rate_of(config) for config in configs}
    if len(rates) > 1:
        its = ", ".join(map(str, sorted(rates)))
        raise InputError(
            f"the networks run at {its} Hz, and scores are comparable only at one sample rate; use "
            "--baseline none, or cells of one rate"
        )
    (rate,) = rates
    if rate < SAMPLE_RATE and study.endpoint.metric in WIDEBAND:
        raise InputError(
            f"{study.endpoint.metric} is defined at {SAMPLE_RATE} Hz, but the networks run at {rate} Hz; "
            "use --metric pesq_nb"
        )
    return rate


def _check_networks(configs: Iterable[Config]) -> None:
    """Trust the folders of the networks. Raise InputError if a recipe gives a weight to an unknown loss."""
    for config in configs:
        if isinstance(config, RunConfig):
            config.model.trust_folders()
            if config.recipe.losses:
                from ablate.training.losses import WeightedLoss

                WeightedLoss.of(config.recipe)


def _counting(study: Study) -> Callable[[Config], int | None]:
    """A function that counts the parameters of a cell, or returns None if a command trains it."""
    from ablate.models.summary import parameters

    count = parameters if study.plugins else Sizes().of
    return lambda config: count(config.model) if isinstance(config, RunConfig) else None


def _measuring(config: Config, metric: str, told: bool) -> Config:
    """A configuration whose evaluation includes a metric. `told`: the command reports the metrics itself.

    Raises:
        InputError: something that a metric needs is not installed.
    """
    asked = config.evaluation.metrics
    if metric not in ((*usual(), *asked) if not told else asked):
        asked = (*asked, metric)
        config = config.model_copy(
            update={"evaluation": config.evaluation.model_copy(update={"metrics": asked})}
        )
    if not told:
        check_available(asked)
    return config


def extend(plan: Plan, seeds: Iterable[int], root: Path, fractions: tuple[float, ...] = ()) -> Plan:
    """A plan with more seeds in every cell, and more step budgets.

    Raises:
        InputError: a checkpoint that the new seeds start from is missing, no number of steps fits a budget,
            or two budgets have the same number.
    """
    plan = plan.model_copy(update={"step_fractions": tuple(sorted({*plan.step_fractions, *fractions}))})
    for cell in plan.cells:
        steps = [steps_at(cell.config.steps or 0, fraction) for fraction in plan.step_fractions]
        if len(set(steps)) < len(steps):
            raise InputError(
                f"step fractions {', '.join(f'{fraction:g}' for fraction in plan.step_fractions)} of "
                f"{cell.config.steps:,} steps are {', '.join(map(str, steps))}: two of them give the "
                "same number of steps"
            )
    return add(plan, {cell.name: list(seeds) for cell in plan.cells}, root)


def add(plan: Plan, seeds: Mapping[str, Collection[int]], root: Path) -> Plan:
    """A plan with more seeds for some cells.

    Raises:
        InputError: a checkpoint that the new seeds start from is missing.
    """
    if plan.start_from is not None:
        starts = Starts(plan, root)
        cells = []
        for cell in plan.networks:
            more = [seed for seed in seeds.get(cell.name, ()) if seed not in cell.starts]
            found = {seed: starts.find(cell, seed) for seed in more}
            cells.append(cell.model_copy(update={"starts": cell.starts | found}))
        plan = plan.model_copy(update={"cells": tuple(cells)})
    return plan.signed(seeds)


class Starts:
    """Finds the checkpoints that `start_from` means: a file, or the `best` or `latest` of the same cell,
    network and seed in the most recent other study that has it."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan = plan
        self._root = root
        self._known: dict[Path, dict[str, str]] = {}
        self._others: list[dict[tuple[str, str], Cell]] = []
        self._unread = iter(store.names(root))

    def find(self, cell: Cell, seed: int) -> dict[str, str]:
        """The path of the checkpoint for a run, and the digest of its content.

        Raises:
            InputError: the checkpoint does not exist.
        """
        source = str(self._plan.start_from)
        if source not in ("best", "latest"):
            if not Path(source).is_file():
                raise InputError(f"start_from: {source}: no such checkpoint file")
            return self._note(Path(source))
        for other in self._studies():
            found = other.get(_network(cell))
            if found is not None and seed in found.signatures:
                path = store.run_of(self._root, found, seed).checkpoints / f"{source}.pt"
                if path.is_file():
                    return self._note(path)
        raise InputError(
            f"start_from: {source}: no other study under {self._root} has a checkpoint "
            f"of cell {cell.name!r}, seed {seed}"
        )

    def _note(self, path: Path) -> dict[str, str]:
        path = path.resolve()
        if path not in self._known:
            self._known[path] = {"path": str(path), "digest": file_digest(path)}
        return self._known[path]

    def _studies(self) -> Iterator[dict[tuple[str, str], Cell]]:
        """The cells of every other study by name and network; plans are read when needed."""
        yield from self._others
        for name in self._unread:
            if name == self._plan.name:
                continue
            try:
                cells = store.load(self._root, name).networks
            except InputError:  # of a version or a plug-in that is not there
                continue
            self._others.append({_network(cell): cell for cell in cells})
            yield self._others[-1]


def _network(cell: Cell) -> tuple[str, str]:
    return cell.name, cell.config.model.model_dump_json()


def default_name(study: Study, corpus: str) -> str:
    """A study's name from base, grid, recipe and corpus. A long name is cut and ends with a digest."""
    base = study.base if study.train is None else Path(study.train.folder).name.lstrip("._-+=,") or "own"
    recipe = [study.recipe] if study.train is None else []
    factors = [
        f.name if set(f.levels) == {"off", "on"} else f"{f.name}={'.'.join(f.levels)}" for f in study.factors
    ]
    name = "-".join([base, "+".join(factors), *recipe, corpus])
    name = "".join(c if c.isalnum() or c in "_.+=,-" else "_" for c in name)
    return name if len(name) <= 120 else f"{name[:110]}-{sha256(name.encode()).hexdigest()[:8]}"


def cache_path(root: Path) -> Path:
    """The folder for resampled corpora and the demo corpus."""
    return root / "cache"


def _pairs(pairs: str | None) -> str | None:
    """A list file of pairs as an absolute path, for workers; a pattern unchanged."""
    return str(Path(pairs).resolve()) if pairs is not None and Path(pairs).exists() else pairs


def _absolute(path: str) -> str:
    return path if path == "demo" else str(Path(path).resolve())
