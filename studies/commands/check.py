"""`ablate check`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.models.console import ROOT, Root
from ablate.models.errors import InputError, duration, listed

from .options import Gpus

if TYPE_CHECKING:
    from ablate.training.rundir import RunDir

    from ..plan import Plan


def check(
    file: Annotated[Path, typer.Argument(help="A YAML study file with train.command.")],
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Corpus. [default: the file's]")] = None,
    gpus: Gpus = None,
    root: Root = ROOT,
) -> None:
    """Run a study's training command once, with the overrides of `check:`, and show what it leaves.

    Exits with 3 if the command fails, or if its scores or its curve cannot be read.
    """
    from rich.console import Console

    from .. import train_command
    from ..driver import Driver, plan_jobs
    from ..launchers.local import LocalLauncher
    from ..plan import cache_path, make, run_dirs, save, study_path
    from ..progress import ConsoleProgress
    from ..study_file import asked
    from ..trials import open_storage, plan_book
    from .dry_run import literal

    study = asked(file, data=data, compute={} if gpus is None else {"gpus": gpus})
    if study.train is None:
        raise InputError(f"{file} has no train.command; see what would be trained with ablate run --dry-run")
    root = root.resolve()
    place = root / "check"
    shutil.rmtree(place, ignore_errors=True)
    cache_path(root).mkdir(parents=True, exist_ok=True)
    place.mkdir()
    cache_path(place).symlink_to(cache_path(root))
    settings = {"set": study.set | study.check, "seeds": study.seeds[:1], "name": "check"}
    study = study.model_copy(update=settings)
    plan, _ = make(study, place)
    assert plan.train is not None
    train_command.keep_code(plan.train, study.file, place)
    save(plan, place)
    cell, seed = plan.cells[0], study.seeds[0]
    run = run_dirs(plan, place)[cell.name, seed]
    for line in literal(plan, cell, seed, place, run.path):
        print(line)
    given = {"jobs": 1, "retries": 0, "gpus_each": plan.program.gpus}
    compute = study.compute.model_copy(update=given)
    launcher = LocalLauncher.open(study_path(place, plan.name), compute)
    book = plan_book(open_storage(study_path(place, plan.name)), plan)
    try:
        driver = Driver(launcher, compute, ConsoleProgress(Console(stderr=True)))
        outcome = driver.run(plan_jobs(plan, place, book, {(cell.name, seed)}))
    finally:
        launcher.close()
    if outcome.interrupted:
        raise typer.Exit(130)
    fits = _tell(plan, run, cell.evaluations[seed])
    print(f"output kept in {run.path}", file=sys.stderr)
    if outcome.failed or not fits:
        raise typer.Exit(3)


def _tell(plan: Plan, run: RunDir, evaluation: str) -> bool:
    """Print the outputs of a run. Returns whether all expected ones exist."""
    import pandas as pd

    state = run.state
    print(f"command: {state.state}" + (f": {state.cause}: {state.message}" if state.message else ""))
    scored, metric = run.has_scores(evaluation), plan.endpoint.metric
    if scored:
        table = pd.read_parquet(run.scores_path(evaluation))
        print(f"scores: {len(table)} test files, mean {metric} {table[metric].mean():.3f}")
    elif state.state == "done":
        print(f"scores: {run.evaluation(evaluation).message}")
    if not plan.program.has_curve:
        print("curve: none declared")
    elif state.curve_problem:
        print(f"curve: {state.curve_problem}")
    elif lines := run.metrics():
        columns = sorted({name for line in lines for name in line} - {"time", "step"})
        print(f"curve: {len(lines)} steps up to {lines[-1]['step']}: {listed(columns, 12)}")
    if seconds := run.summary.get("seconds"):
        print(f"the command took {duration(seconds)}")
    return scored and state.curve_problem is None
