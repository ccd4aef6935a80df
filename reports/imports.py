"""`ablate import-runs`: writes results trained elsewhere as a study."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ablate.ablations.claims import Endpoint
from ablate.ablations.design import COLUMNS
from ablate.ablations.factors import Factor
from ablate.ablations.grid import BASE, BASELINE, AnyCell, Config, Grid
from ablate.models.console import plain
from ablate.models.errors import InputError, listed
from ablate.studies import plan as plans
from ablate.studies.imported import accept
from ablate.studies.plan import CorpusNote, Plan, run_of
from ablate.studies.study import FIRST_TUNING_SEED, Study
from ablate.studies.study_file import asked
from ablate.training.config import Evaluation
from ablate.training.files import locked
from ablate.training.metrics.passport import KEY
from ablate.training.metrics.registry import METRICS, expect
from ablate.training.train_command.config import CommandConfig, TrainingCommand

from .convergence import CURVE
from .elsewhere import Elsewhere
from .formatting import known
from .ingest import same_level
from .sources import StudyInfo
from .sources.columns import ALL

NO_TRAINING = (
    "You can report and compare it, plan from it and send it to MLflow, but not train more. To add seeds "
    "and cells with `ablate run`, import it again with a study file whose train.command trains such runs."
)


Options = TypeVar("Options", bound=Elsewhere)
Curve = Sequence[Mapping[str, Any]]


def requested(file: Path, options: Options) -> tuple[Study, Options]:
    """The study of a study file, and the options with its factors, off levels and endpoint filled in.

    Raises:
        InputError: the file does not have a training command, or an option repeats what the file defines.
    """
    request = asked(file)
    if request.train is None:
        raise InputError(f"{file} has no train.command; add the command that trained these runs")
    if options.base or options.metric:
        raise InputError("leave out --base and --metric: the study file has first levels and an endpoint")
    factors = options.factors or ",".join(factor.name for factor in request.factors)
    base = ",".join(f"{factor.name}={factor.off}" for factor in request.factors)
    return request, replace(options, factors=factors, base=base, metric=request.endpoint.metric)


def import_runs(
    scores: pd.DataFrame,
    info: StudyInfo,
    root: Path,
    *,
    name: str | None = None,
    metric: str = "pesq_wb",
    direction: Mapping[str, str],
    study: Study | None = None,
) -> Plan:
    """Write results trained elsewhere as a study with a run directory for each run.

    If a study of that name was imported before, the missing runs are added to it.

    Args:
        scores, info: as from `sources.scores_from_elsewhere`.
        name: name of the study. Default: the name of the source.
        direction: metric -> `higher` or `lower` (is better), for a metric that the registry does not know.
        study: the study of a study file whose command trains such runs. It defines the cells, and its test
            files must be those of the scores.

    Returns:
        The plan, with the imported seeds of each cell.

    Raises:
        InputError: a level or test file is not the study file's, a metric does not have a direction, a run
            exists with other scores, or a study of that name differs in more than its seeds.
    """
    if "training" in scores.columns:
        raise InputError("runs that cells share (column 'training') cannot be imported; use report --scores")
    if metric not in METRICS:
        if metric not in direction:
            raise InputError(
                f"it is not known whether higher or lower {metric} is better; give --direction "
                f"{metric}=higher or =lower"
            )
        facts = {"label": metric, "floor": 0.0, "unit": "", "margin": None}
        measures: dict[str, Any] = {metric: facts | {"higher_is_better": direction[metric] == "higher"}}
        expect(measures)
    else:
        measures = {}
    scores, info, notes = _small_seeds(scores, info)
    if study is None:
        plan = _planned(scores, info, name or info.name, metric, measures, notes)
    else:
        plan, corpus = plans.make(study.model_copy(update={"name": name or study.name, "seeds": ()}), root)
        _check_test_files(scores, {pair.name for pair in corpus.test})
    by_run = dict(_runs_of(scores, info, plan))
    seeds: dict[str, list[int]] = {}
    for cell, seed in by_run:
        seeds.setdefault(cell, []).append(seed)
    with locked(root / "import.lock"):
        if plan.name in plans.names(root):
            try:
                plan = plans.merge(plans.load(root, plan.name), plan, root)
            except plans.PlanChangedError as error:
                raise InputError(str(error)) from None
        plan = plans.add(plan, seeds, root)
        found = [(plan.cell(cell), seed, table) for (cell, seed), (table, _) in by_run.items()]
        _check_known(plan, root, found, metric)
        for (cell, seed), (table, curve) in by_run.items():
            _write_run(plan, root, plan.cell(cell), seed, table, curve, info.source)
        plans.save(plan, root)
    return plan


def _planned(
    scores: pd.DataFrame,
    info: StudyInfo,
    name: str,
    metric: str,
    measures: dict[str, Any],
    notes: Sequence[str],
) -> Plan:
    """A plan with a table's cells. Constraints exclude the combinations that the table lacks."""
    levels = {
        factor: [off, *(str(level) for level in scores[factor].dropna().unique() if str(level) != off)]
        for factor, off in info.base.items()
    }
    there = {tuple(map(str, row)) for row in scores[list(levels)].dropna().itertuples(index=False)}
    factors = tuple(
        Factor(name=factor, own=True, levels={_word(level): {factor: level} for level in found})
        for factor, found in levels.items()
    )
    absent = [combination for combination in product(*levels.values()) if combination not in there]
    start = CommandConfig(evaluation=Evaluation(metrics=(metric,)))
    grid = Grid[Config](
        factors=factors,
        start=start,
        baseline=None if info.baseline is None else start,
        constraints=tuple(dict(zip(levels, map(_word, gone), strict=True)) for gone in absent),
    )
    utterances = sorted(map(str, scores["utterance"].dropna().unique()))
    digest = sha256("\n".join([name, *utterances]).encode()).hexdigest()
    return Plan(
        name=name,
        base=BASE,
        baseline=None if info.baseline is None else BASELINE,
        factors=factors,
        design="full",
        constraints=grid.constraints,
        cells=tuple(grid.cells()),
        seeds=(),
        recipe="own",
        corpus=CorpusNote(
            path=info.source,
            name=name,
            digest=digest,
            test_digest=digest,
            kind="imported",
            is_demo=False,
            notes=tuple(note.rstrip(".") for note in (*info.notes, *notes)),
            train=0,
            validation=0,
            test=0 if utterances == [ALL] else len(utterances),
        ),
        endpoint=Endpoint(metric=metric),
        measures=measures,
        train=TrainingCommand(folder=info.source, imported=info.source),
        created=time.time(),
    )


def _word(level: str) -> str:
    """A level, reduced to the characters that factors allow."""
    return re.sub(r"[^\w.:+-]", "_", level)


def _small_seeds(scores: pd.DataFrame, info: StudyInfo) -> tuple[pd.DataFrame, StudyInfo, list[str]]:
    """Scores with valid seeds: if some are negative or reserved for tuning, all are renumbered from 1."""
    seeds = sorted(map(int, scores["seed"].unique()))
    if seeds[0] >= 0 and seeds[-1] < FIRST_TUNING_SEED:
        return scores, info, []
    number = {seed: place for place, seed in enumerate(seeds, start=1)}
    runs = [replace(run, seed=number[run.seed]) for run in info.runs]
    told = [f"Seeds {listed(seeds)} are numbered from 1 in this order."]
    return scores.assign(seed=scores["seed"].map(number)), replace(info, runs=runs), told


def _check_test_files(scores: pd.DataFrame, known: set[str]) -> None:
    """Raise InputError if further runs would be tested on other files than the imported runs."""
    found = set(map(str, scores["utterance"].dropna()))
    if found == {ALL}:
        raise InputError(
            "these results have one value per run, but the study file's runs have one per test file, so "
            "they cannot be combined. Leave the study file out, or import a row for each run and file"
        )
    if found != known:
        raise InputError(
            "the results do not have the same test files as the study file's corpus: only in the "
            f"results: {listed(sorted(found - known)) or 'none'}; only in the corpus: "
            f"{listed(sorted(known - found)) or 'none'}"
        )


def _runs_of(
    scores: pd.DataFrame, info: StudyInfo, plan: Plan
) -> Iterator[tuple[tuple[str, int], tuple[pd.DataFrame, Curve]]]:
    """For each run of a table: (cell of the plan, seed), (scores, curve).

    Raises:
        InputError: a cell of the table is not in the plan.
    """
    known = {tuple(cell.levels.items()): cell.name for cell in plan.cells}
    levels = {factor.name: list(factor.levels) for factor in plan.factors}
    curves = {(run.cell, run.seed): run.metrics for run in info.runs}
    for (name, seed), table in scores.groupby(["cell", "seed"], observed=True, sort=False):
        if str(name) == info.baseline:
            at: dict[str, str | None] = {}
        else:
            row = table.iloc[0]
            at = {factor: same_level(_word(str(row[factor])), levels[factor]) for factor in levels}
            for factor, level in at.items():
                if level is None:
                    raise InputError(
                        f"{factor}={row[factor]} of cell {name!r} is not a level in the study file: "
                        f"{', '.join(levels[factor])}"
                    )
        if (cell := known.get(tuple(at.items()))) is None:  # type: ignore[arg-type]
            raise InputError(f"cell {name!r} is not in the study file: {', '.join(plan.cell_names)}")
        yield (cell, int(str(seed))), (table, curves[str(name), int(str(seed))])


def _check_known(
    plan: Plan, root: Path, found: Sequence[tuple[AnyCell, int, pd.DataFrame]], metric: str
) -> None:
    """Raise InputError if a run exists with other scores, or was trained here."""
    for cell, seed, table in found:
        run = run_of(root, cell, seed)
        path = run.scores_path(cell.evaluations[seed])
        if run.has_scores(cell.evaluations[seed]):
            there = pd.read_parquet(path)
            same = len(there) == len(table) and np.array_equal(there[metric], table[metric], equal_nan=True)
        else:
            same = not run.path.exists()
        if not same:
            raise InputError(
                f"{cell.name}, seed {seed} exists under {root} with other scores; give another --study"
            )


def _write_run(
    plan: Plan, root: Path, cell: AnyCell, seed: int, table: pd.DataFrame, curve: Curve, source: str
) -> None:
    run = run_of(root, cell, seed)
    if run.path.exists():
        return
    diverged = "status" in table.columns and (table["status"] == "diverged").all()
    run.write_spec(plan.spec(cell, seed).document())
    run.write_summary({"imported": source})
    if curve:
        run.write_metrics(plain([dict(line) for line in curve]))
    last = max((line["step"] for line in curve), default=0)
    rated = [line[CURVE] for line in curve if known(line.get(CURVE))]
    if not diverged:
        kept = [
            column
            for column in table.columns
            if column in METRICS or str(column).startswith("noisy_") or column in {*COLUMNS, "broken"}
        ]
        path = run.scores_path(cell.evaluations[seed])
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = table[kept].drop(columns=["cell", "seed", "status"], errors="ignore").reset_index(drop=True)
        frame = frame.astype(dict.fromkeys(frame.select_dtypes("category"), "str"))
        frame.attrs = {KEY: table.attrs.get(KEY, {})}
        frame.to_parquet(path)
    run.update_state(
        state="diverged" if diverged else "done",
        message=f"imported from {source}",
        finished=time.time(),
        step=last,
        steps=last or None,
        val_pesq_wb=max(rated, default=None),
    )
    accept(run, plan.name)
