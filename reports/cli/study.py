"""`ablate run`, `status` and `logs`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ablate.studies.plan import AuditRecord, Plan
    from ablate.studies.request import Request
    from ablate.training.data.corpus import Corpus

Root = Annotated[Path, typer.Option("--root", envvar="ABLATE_ROOT", help="Folder for all that is written.")]
ROOT = Path("ablate-runs")


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(status)
    app.command()(logs)


def run(
    file: Annotated[Path | None, typer.Argument(help="A YAML study file; options override it.")] = None,
    grid: Annotated[str | None, typer.Option(help="Factors, e.g. bidirectional,core=lstm,mamba.")] = None,
    base: Annotated[str | None, typer.Option(help="Preset the deltas apply to. [default: mbsnet]")] = None,
    baseline: Annotated[str | None, typer.Option(help="Reference system. [default: bsrnn]")] = None,
    data: Annotated[str | None, typer.Option(help="Corpus folder. [default: the demo corpus]")] = None,
    test_data: Annotated[str | None, typer.Option(help="Score on this corpus' test split.")] = None,
    seeds: Annotated[str | None, typer.Option(help="N for 1..N, or a:b inclusive. [default: 3]")] = None,
    recipe: Annotated[str | None, typer.Option(help="quick, small or reference. [default: quick]")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="e.g. recipe.steps=400; repeat.")] = [],  # noqa: B006
    design: Annotated[str | None, typer.Option(help="full, fractional, one-out or one-in.")] = None,
    metric: Annotated[str | None, typer.Option(help="Endpoint on test. [default: pesq_wb]")] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    root: Root = ROOT,
    launcher: Annotated[str | None, typer.Option(help="inline, local or slurm. [default: local]")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at once on the cores.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs to use, e.g. 0,2; '' for none.")] = None,
    runs_per_gpu: Annotated[int, typer.Option(help="Runs on one GPU at once.")] = 1,
    partition: Annotated[str | None, typer.Option(help="SLURM partition.")] = None,
    slurm: Annotated[list[str], typer.Option(help="SLURM setting, e.g. time=60; repeat.")] = [],  # noqa: B006
    storage: Annotated[str | None, typer.Option(help="Optuna storage, postgresql://...")] = None,
    tracking_uri: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow.")] = None,
    tune: Annotated[list[str], typer.Option(help="recipe.learning_rate=1e-4..3e-3; repeat.")] = [],  # noqa: B006
    tune_trials: Annotated[int, typer.Option(help="Tuning trials of each cell.")] = 8,
    until_width: Annotated[
        float | None, typer.Option(help="Add seeds until intervals are this narrow.")
    ] = None,
    max_seeds: Annotated[int, typer.Option(help="The most seeds --until-width may reach.")] = 12,
    from_: Annotated[str | None, typer.Option("--from", help="Start weights: best, latest or FILE.")] = None,
    keep: Annotated[int | None, typer.Option(help="Keep a checkpoint every N steps.")] = None,
    waive: Annotated[str, typer.Option(help="Audit errors to accept, e.g. A101,A102.")] = "",
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Skip the audit; recorded.")] = False,
    budget: Annotated[str | None, typer.Option(help='Declared parameters, e.g. "2.3M+-5%".')] = None,
    plugin: Annotated[list[Path], typer.Option(help="Python file that registers parts; repeat.")] = [],  # noqa: B006
    retry_failed: Annotated[bool, typer.Option(help="Train failed and diverged runs again.")] = False,
    rerun: Annotated[list[str], typer.Option(help="Train this cell again; repeat.")] = [],  # noqa: B006
    max_failures: Annotated[int | None, typer.Option(help="Start nothing after N failures.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Same as --max-failures 1.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; train nothing.")] = False,
    format: Annotated[str, typer.Option(help="Of --dry-run: table or json.")] = "table",
) -> None:
    """Train every cell of a grid, and the baseline, at every seed; what is done already is not done again."""
    from rich.console import Console

    from ablate.ablations.grid import parse_factors
    from ablate.models.plugins import load as load_plugins
    from ablate.studies.request import Request, parse_seeds, parse_settings, parse_tuning, read_file

    _check_format(format)
    load_plugins(plugin)
    fields: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such study file; write --grid {file} for a grid")
        fields = read_file(file)
    if grid is not None:
        fields["factors"] = parse_factors(grid)
    if not fields.get("factors"):
        raise ValueError(
            "no grid: give --grid, e.g. --grid bidirectional,decoder4x,crossband, or a study file"
        )
    given = {
        "base": base,
        "data": data,
        "test_data": test_data,
        "recipe": recipe,
        "design": design,
        "study": study,
        "launcher": launcher,
        "start_from": from_,
        "seeds": parse_seeds(seeds) if seeds is not None else None,
        "tune": parse_tuning(tune, tune_trials),
    }
    fields |= {key: value for key, value in given.items() if value is not None}
    if baseline is not None:
        fields["baseline"] = None if baseline in ("", "none") else baseline
    fields["set"] = fields.get("set", {}) | parse_settings(settings)
    if keep is not None:
        fields["set"]["recipe.keep_every"] = keep
    if metric is not None:
        fields["endpoint"] = fields.get("endpoint", {}) | {"metric": metric}
    fields["plugins"] = (*fields.get("plugins", ()), *map(str, plugin))
    load_plugins([Path(p) for p in fields["plugins"]])
    request = Request.model_validate(fields)

    console = Console(stderr=True)
    root = root.resolve()
    if dry_run:
        _dry_run(request, root, format)
        return
    from ablate.ablations.audit import parse_waivers

    waived = tuple(sorted(parse_waivers(waive)))
    options = {"partition": partition, "settings": slurm}
    _carry_out(
        request,
        root,
        console,
        slots={"jobs": jobs, "gpus": gpus, "per_gpu": runs_per_gpu},
        slurm=options,
        audit=None if no_audit else {"waived": waived, "budget": budget},
        policy={
            "max_failures": 1 if fail_fast else max_failures,
            "retry_failed": retry_failed,
        },
        session={
            "storage_url": storage,
            "tracking_uri": tracking_uri,
            "rerun": tuple(rerun),
            "until_width": until_width,
            "max_seeds": max_seeds,
        },
    )


def _check_format(format: str) -> None:
    if format not in ("table", "json"):
        raise ValueError(f"unknown format {format!r}; known: table, json")


def _carry_out(
    request: Request,
    root: Path,
    console: Any,
    *,
    slots: dict[str, Any],
    slurm: dict[str, Any],
    audit: dict[str, Any] | None,
    policy: dict[str, Any],
    session: dict[str, Any],
) -> None:
    from ablate.studies.driver import Policy
    from ablate.studies.launchers import LAUNCHERS, Launcher
    from ablate.studies.lease import StudyHeldError
    from ablate.studies.plan import PlanChangedError
    from ablate.studies.progress import ConsoleProgress
    from ablate.studies.session import RefusedError, Session

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def make_launcher(folder: Path) -> Launcher:
        if request.launcher == "local":
            from ablate.studies.launchers.local import LocalLauncher, find_slots

            return LocalLauncher(find_slots(**slots), folder / "workers.log")
        return LAUNCHERS[request.launcher](folder=folder, **slurm)

    def audited(plan: Plan, corpus: Corpus) -> AuditRecord:
        import torch

        from ablate.studies.launchers.local import find_slots

        found = find_slots(**slots) if request.launcher == "local" else find_slots(jobs=1)
        torch.set_num_threads(found[0].threads)
        return _audit(plan, corpus, say, len(found), **audit)  # type: ignore[arg-type]

    carried = Session(
        root=root,
        launcher=make_launcher,
        audit=None if audit is None else audited,
        report=lambda plan: _report(plan, root, say),
        width=lambda plan: _width(plan, root),
        say=say,
        progress=ConsoleProgress(console),
        policy=Policy(**policy),
        **session,
    )
    started = time.time()
    try:
        plan, outcome = carried.run(request)
    except (PlanChangedError, StudyHeldError, RefusedError) as error:
        say(f"refused: {error}")
        raise typer.Exit(5) from None
    say(
        f"{plan.name}: {len(outcome.done)} runs done ({outcome.trained} trained now), "
        f"{len(outcome.failed)} failed or diverged, {len(outcome.left)} left; {time.time() - started:.0f} s"
    )
    if outcome.interrupted:
        say("interrupted; the same command goes on from the last checkpoints")
        raise typer.Exit(130)
    if outcome.failed:
        say(f"see why: ablate status {plan.name} --root {root}; ablate logs CELL; again: --retry-failed")
        raise typer.Exit(3)
    if outcome.left:
        raise typer.Exit(4)
    for alias in plan.aliases:
        say(f"not told apart by this design: {alias}")
    say(f"the answer: ablate report {plan.name}; the runs: ablate ui {plan.name}")


def _audit(
    plan: Plan, corpus: Corpus, say: Any, slots: int, waived: tuple[str, ...], budget: str | None
) -> AuditRecord:
    from ablate.ablations.audit import audit_cells
    from ablate.studies.plan import AuditRecord

    say(f"auditing {len(plan.cells)} cells (--no-audit skips this, and the report says so)")
    found = audit_cells(
        plan.cells,
        plan.factors,
        corpus=corpus,
        budget=budget,
        slots=slots,
        runs=[plan.spec(cell, seed) for cell in plan.cells for seed in plan.seeds],
        tuned=plan.tune.space if plan.tune else (),
    )
    for finding in found:
        mark = "waived" if finding.code in waived else finding.severity
        say(f"  {finding.code} {finding.name} [{mark}] {finding.where}: {finding.evidence}")
        say(f"    -> {finding.remedy}")
    return AuditRecord(findings=tuple(f.model_dump(mode="json") for f in found), waived=waived)


def _report(plan: Plan, root: Path, say: Any) -> None:
    """Write the study's report beside it, for MLflow's note; a study without scores has none yet."""
    from ..build import NoScoresError, report_of_study, study_folder, write_folder

    try:
        write_folder(report_of_study(root, plan.name), study_folder(root, plan.name))
    except NoScoresError as error:
        say(f"no report yet: {error}")


def _width(plan: Plan, root: Path) -> float | None:
    """The widest half-width among the main effects; none where one has no interval yet."""
    import math

    from ablate.ablations.inference.power import widths

    from ..build import report_of_study

    found = widths(report_of_study(root, plan.name).analysis).values()
    return None if not found or any(math.isnan(width) for width in found) else max(found)


def _dry_run(request: Request, root: Path, format: str) -> None:
    from ablate.studies.plan import PlanChangedError, is_done, load, make, merge, study_path

    plan, _ = make(request, root)
    if (study_path(root, plan.name) / "plan.json").exists():
        try:
            plan = merge(load(root, plan.name), plan, root)
        except PlanChangedError as error:
            print(f"refused: {error}", file=sys.stderr)
            raise typer.Exit(5) from None
    estimates = _estimates(plan)
    document = {
        "study": plan.name,
        "seeds": list(plan.seeds),
        "aliases": list(plan.aliases),
        "corpus": plan.corpus.model_dump(mode="json"),
        "cells": [
            {
                "name": cell.name,
                "levels": cell.levels,
                "config": cell.config.model_dump(mode="json"),
                "parameters": cell.parameters,
                "signatures": {str(seed): signature for seed, signature in cell.signatures.items()},
                "estimate": estimates[cell.name],
                "done": [seed for seed in plan.seeds if is_done(plan, root, cell, seed)],
            }
            for cell in plan.cells
        ],
    }
    if format == "json":
        json.dump(document, sys.stdout, indent=1)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    from ablate.studies.progress import duration

    table = Table(title=f"{plan.name} on {plan.corpus.name}", box=None)
    for heading in ("cell", "parameters", "steps", "a run", "memory", "done", "training signatures"):
        table.add_column(heading, no_wrap=heading == "cell")
    for cell, row in zip(plan.cells, document["cells"], strict=True):
        table.add_row(
            cell.name,
            f"{cell.parameters:,}",
            str(cell.config.recipe.steps),
            duration(estimates[cell.name]["seconds"]),
            f"{estimates[cell.name]['memory_bytes'] / 2**30:.2f} GiB",
            f"{len(row['done'])} of {len(plan.seeds)}",  # type: ignore[index]
            " ".join(signature[:8] for signature in cell.signatures.values()),
        )
    console = Console()
    console.print(table)
    distinct = {signature for cell in plan.cells for signature in cell.signatures.values()}
    console.print(f"{len(distinct)} distinct trainings for {len(plan.cells)} cells x {len(plan.seeds)} seeds")
    console.print("time and memory of a run: from measured steps, without validation and scoring")
    for alias in plan.aliases:
        console.print(f"not told apart by this design: {alias}")


def _estimates(plan: Plan) -> dict[str, dict[str, float]]:
    """Seconds and bytes of a run of each cell, from steps measured at the threads of one slot."""
    import torch

    from ablate.ablations.audit.budget import step_bytes, step_seconds
    from ablate.studies.launchers.local import find_slots

    torch.set_num_threads(find_slots()[0].threads)
    found = {}
    for cell in plan.cells:
        step = step_seconds(cell) or float("nan")
        found[cell.name] = {
            "seconds_per_step": step,
            "seconds": step * (cell.config.recipe.steps or 0),
            "memory_bytes": step_bytes(cell),
        }
    return found


def status(
    study: Annotated[str | None, typer.Argument(help="The study. [default: the last one]")] = None,
    root: Root = ROOT,
    format: Annotated[str, typer.Option(help="table or json")] = "table",
    watch: Annotated[bool, typer.Option("--watch", help="Renew every two seconds.")] = False,
) -> None:
    """Where a study stands: every cell x seed with its state, step, validation PESQ and failures' causes."""
    from ablate.studies import plan as plans
    from ablate.studies.status import status as read

    _check_format(format)
    root = root.resolve()
    plan = plans.load(root, study or plans.latest(root))
    if format == "json":
        json.dump(read(plan, root), sys.stdout, indent=1)
        print()
        return
    from rich.console import Console
    from rich.live import Live

    if not watch:
        Console().print(_status_view(read(plan, root)))
        return
    with Live(_status_view(read(plan, root)), refresh_per_second=1) as live:
        while True:
            time.sleep(2)
            plan = plans.load(root, plan.name)
            live.update(_status_view(read(plan, root)))


def _status_view(read: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ablate.studies.progress import duration

    counts = ", ".join(f"{count} {state}" for state, count in sorted(read["counts"].items()))
    left = read["seconds_left"]
    table = Table(title=read["study"], caption=counts + (f"; about {duration(left)} left" if left else ""))
    for heading in ("cell", "seed", "state", "step", "val PESQ", "s/step", "attempts"):
        table.add_column(heading, no_wrap=True)
    for run in read["runs"]:
        table.add_row(
            run["cell"],
            str(run["seed"]),
            run["state"],
            f"{run['step']}/{run['steps']}",
            "" if run["val_pesq_wb"] is None else f"{run['val_pesq_wb']:.2f}",
            "" if run["seconds_per_step"] is None else f"{run['seconds_per_step']:.2f}",
            str(run["attempts"]),
        )
    failures = [
        Text(f"{run['cell']} seed {run['seed']}: {run['cause']}: {run['message'] or 'see ablate logs'}")
        for run in read["runs"]
        if run["cause"]
    ]
    return Group(table, *failures)


def logs(
    cell: Annotated[str, typer.Argument(help="Name of the cell.")],
    study: Annotated[str | None, typer.Option(help="The study. [default: the last one]")] = None,
    seed: Annotated[int | None, typer.Option(help="One seed. [default: all]")] = None,
    root: Root = ROOT,
) -> None:
    """What the runs of a cell wrote while they trained."""
    from ablate.studies import plan as plans

    root = root.resolve()
    plan = plans.load(root, study or plans.latest(root))
    chosen = plan.cell(cell)
    if seed is not None and seed not in plan.seeds:
        raise ValueError(
            f"study {plan.name!r} has no seed {seed}; its seeds: {', '.join(map(str, plan.seeds))}"
        )
    for (name, number), run in plans.run_dirs(plan, root).items():
        if name == chosen.name and seed in (None, number):
            print(f"== {name} seed {number}: {run.log}", file=sys.stderr)
            if run.log.exists():
                sys.stdout.write(run.log.read_text())
