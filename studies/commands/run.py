"""`ablate run` and `ablate retry`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.models.console import ROOT, formats
from ablate.models.errors import storage_problem

from .options import (
    Gpus,
    Jobs,
    Launcher,
    RunsPerGpu,
    Slurm,
    Storage,
    StudyName,
    TrackingUri,
    compute_of,
    option,
)

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus

    from ..compute import Compute
    from ..driver import Outcome
    from ..launchers.slots import Slot
    from ..plan import AuditRecord, Plan
    from ..session import Session

Echo = Callable[[str], None]
STUDY, AUDIT, OUTPUT = "Study", "Audit", "Output"
Root = Annotated[
    Path, option(OUTPUT, metavar="DIR", envvar="ABLATE_ROOT", help="Folder of studies, runs and caches.")
]
UseImported = Annotated[bool, option(AUDIT, "--use-imported", help="Accept scores of imported runs.")]


def command(write_report: Callable[[Path, str], None]) -> Callable[..., None]:
    """The command `ablate run`, which calls `write_report(root, study)` at its end."""

    def run(
        ctx: typer.Context,
        file: Annotated[Path | None, typer.Argument(help="A YAML study file. Options override it.")] = None,
        grid: Annotated[
            str | None,
            option(STUDY, metavar="FACTORS", help="Factors to cross, e.g. bidirectional,core=lstm,mamba."),
        ] = None,
        base: Annotated[
            str | None,
            option(STUDY, metavar="PRESET", help="System that the factors change. [default: mbsnet]"),
        ] = None,
        baseline: Annotated[
            str | None,
            option(STUDY, metavar="PRESET", help="System to compare with, or none. [default: bsrnn]"),
        ] = None,
        design: Annotated[
            str | None,
            option(STUDY, metavar="KIND", help="Design: full, fractional, leave-one-out or add-one."),
        ] = None,
        data: Annotated[
            str | None, option(STUDY, metavar="DIR", help="Corpus folder. [default: the demo corpus]")
        ] = None,
        test_data: Annotated[
            list[str],
            option(STUDY, metavar="DIR", help="Test set to score on (repeatable; the first is primary)."),
        ] = [],  # noqa: B006
        pairs: Annotated[
            str | None,
            option(STUDY, metavar="PATTERN", help="How files are paired: 'fileid_(\\d+)', or a list."),
        ] = None,
        recipe: Annotated[
            str | None,
            option(STUDY, metavar="NAME", help="Recipe: quick, small or reference. [default: quick]"),
        ] = None,
        settings: Annotated[
            list[str],
            option(
                STUDY,
                "--set",
                metavar="PATH=VALUE",
                help="Change a setting, e.g. recipe.steps=400 (repeatable).",
            ),
        ] = [],  # noqa: B006
        seeds: Annotated[
            str | None, option(STUDY, metavar="N", help="Seeds: N for 1..N, or a:b inclusive. [default: 3]")
        ] = None,
        step_fractions: Annotated[
            str | None, option(STUDY, metavar="0.5,1", help="Also train with these fractions of the steps.")
        ] = None,
        target_half_width: Annotated[
            float | None,
            option(STUDY, metavar="WIDTH", help="Add seeds until every interval is this narrow."),
        ] = None,
        metric: Annotated[
            str | None, option(STUDY, metavar="NAME", help="Endpoint, measured on test. [default: pesq_wb]")
        ] = None,
        claim: Annotated[
            list[str],
            option(STUDY, metavar="FACTOR=LOW..HIGH", help="Claimed effect, on - off (repeatable)."),
        ] = [],  # noqa: B006
        claims: Annotated[
            str | None, option(STUDY, metavar="FILE", help="Further claims: a YAML file, or published.")
        ] = None,
        study: Annotated[str | None, option(STUDY, metavar="NAME", help="Name of the study.")] = None,
        plugin: Annotated[
            list[Path], option(STUDY, metavar="FILE", help="Python file that registers parts (repeatable).")
        ] = [],  # noqa: B006
        launcher: Launcher = None,
        jobs: Jobs = None,
        gpus: Gpus = None,
        runs_per_gpu: RunsPerGpu = None,
        slurm: Slurm = [],  # noqa: B006
        storage: Storage = None,
        tracking_uri: TrackingUri = None,
        waive: Annotated[
            str, option(AUDIT, metavar="CODES", help="Errors to ignore, e.g. A101; all skips the audit.")
        ] = "",
        param_budget: Annotated[
            str | None,
            option(AUDIT, metavar="SIZE", help='Parameters every network should have: "2.3M+-5%".'),
        ] = None,
        use_imported: UseImported = False,
        dry_run: Annotated[bool, option(OUTPUT, "--dry-run", help="Show the plan without training.")] = False,
        root: Root = ROOT,
        format: Annotated[str, formats("table", "json", panel=OUTPUT)] = "table",
    ) -> None:
        """Train every cell of the grid, plus the baseline, with each seed. Completed runs are skipped."""
        from ..study import Study
        from ..study_file import asked

        fields = NO_FIELDS | (Study.model_fields.keys() - {"file"})
        given = {name: value for name, value in ctx.params.items() if name in fields}
        found = asked(file, plugin, name=study, set=settings, compute=compute_of(ctx.params), **given)
        root = root.resolve()
        if dry_run:
            from .dry_run import show_plan

            slot = _slots(found.compute)[0]
            show_plan(found, root, format, slot)
            return
        session, say = _session(root, write_report, waive, param_budget, found.compute, use_imported)
        with _carried_out(session, say) as end:
            end(*session.run(found))

    return run


NO_FIELDS = frozenset({"grid", "metric", "claim", "claims"})
"""Options of `ablate run` that `study_file.asked` accepts but that are not fields of a `Study`."""


def retry_command(write_report: Callable[[Path, str], None]) -> Callable[..., None]:
    """The command `ablate retry`, which calls `write_report(root, study)` at its end."""

    def retry(
        ctx: typer.Context,
        study: StudyName = None,
        cell: Annotated[
            list[str], typer.Option(metavar="NAME", help="Train all runs of this cell again (repeatable).")
        ] = [],  # noqa: B006
        retrain: Annotated[
            bool, typer.Option("--retrain", help="Train again all runs of an incompatible results version.")
        ] = False,
        use_imported: UseImported = False,
        launcher: Launcher = None,
        jobs: Jobs = None,
        gpus: Gpus = None,
        runs_per_gpu: RunsPerGpu = None,
        slurm: Slurm = [],  # noqa: B006
        storage: Storage = None,
        tracking_uri: TrackingUri = None,
        root: Root = ROOT,
    ) -> None:
        """Train or score the runs of a study that failed, diverged or have not run yet."""
        from ..compute import Compute
        from ..plan import find

        root = root.resolve()
        name, compute = find(root, study), Compute(**compute_of(ctx.params))
        session, say = _session(root, write_report, "all", None, compute, use_imported)
        with _carried_out(session, say) as end:
            end(*session.retry(name, compute, cell, retrain))

    return retry


def _slots(compute: Compute) -> list[Slot]:
    """The slots of this machine; a single one if another machine trains."""
    from ..launchers.slots import find_slots

    if compute.launcher != "local":
        return find_slots(jobs=1)
    return find_slots(compute.jobs, compute.gpus, compute.runs_per_gpu)


@contextmanager
def _carried_out(session: Session, say: Echo) -> Iterator[Callable[[Plan, Outcome], None]]:
    """Yield a function that reports the end of a study, and set the exit code from the outcome or error."""
    from ..lease import StudyHeldError
    from ..plan import PlanChangedError
    from ..session import RefusedError

    started = time.time()
    try:
        yield lambda plan, outcome: _end(plan, outcome, session.root, say, time.time() - started)
    except (PlanChangedError, StudyHeldError, RefusedError) as error:
        say(f"refused: {error}")
        raise typer.Exit(5) from None
    except OSError as error:
        if not (kept := session.kept) or not (problem := storage_problem(error)):
            raise
        say(f"{problem}, then run the same command again; {kept}")
        raise typer.Exit(4) from None


def _end(plan: Plan, outcome: Outcome, root: Path, say: Echo, seconds: float) -> None:
    from ablate.ablations.inference.reach import CODE

    from ..plan import study_path

    say(
        f"{plan.name}: {len(outcome.done)} runs done ({outcome.trained} trained or scored now), "
        f"{len(outcome.failed)} failed or diverged, {len(outcome.left)} left; {seconds:.0f} s"
    )
    if outcome.interrupted:
        say("interrupted; the same command continues from the last checkpoints")
        raise typer.Exit(130)
    if outcome.failed:
        say(f"to see why: ablate status {plan.name} --root {root}; ablate logs CELL")
        say(f"to train or score them again: ablate retry {plan.name} --root {root}")
        raise typer.Exit(3)
    nothing = [f["where"] for f in plan.audit.findings if f["code"] == CODE]
    if outcome.left and nothing and CODE not in plan.audit.waived:
        say(
            f"refused: {', '.join(nothing)} reaches nothing, and its cells were stopped; fix it, or "
            f"train them anyway with --waive {CODE}"
        )
        raise typer.Exit(5)
    if outcome.left:
        raise typer.Exit(4)
    for alias in plan.aliases:
        say(f"aliased in this design: {alias}")
    page = study_path(root, plan.name) / "report" / "report.html"
    if page.exists():
        say(f"report: {page}")
        if plan.baseline is not None:
            say('start with the gap and "unexplained", then compare each interval with the claim')
    if plan.corpus.is_demo:
        say("the demo corpus shows how this works; its numbers say nothing about real speech")
    say(f"table: ablate report {plan.name}; curves and audio: ablate ui {plan.name}")


def _session(
    root: Path,
    write_report: Callable[[Path, str], None],
    waive: str,
    budget: str | None,
    compute: Compute,
    use_imported: bool,
) -> tuple[Session, Echo]:
    from rich.console import Console

    from ablate.ablations.audit import parse_waivers

    from ..archive import command_line
    from ..progress import ConsoleProgress
    from ..session import Session

    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    skipped = waive == "all"
    waived = () if skipped else tuple(sorted(parse_waivers(waive)))

    def audit(plan: Plan, corpus: Corpus) -> AuditRecord:
        return _audit(plan, corpus, _slots(compute), waived, budget, say, compute.launcher != "slurm")

    session = Session(
        root=root,
        audit=None if skipped else audit,
        report=lambda plan: write_report(root, plan.name),
        say=say,
        progress=ConsoleProgress(console),
        command=command_line(),
        use_imported=use_imported,
    )
    return session, say


def _audit(
    plan: Plan,
    corpus: Corpus,
    slots: list[Slot],
    waived: tuple[str, ...],
    budget: str | None,
    say: Echo,
    trains_here: bool,
) -> AuditRecord:
    import torch

    from ..plan import AuditRecord
    from .audit import of_plan

    torch.set_num_threads(slots[0].threads)
    say(f"auditing {len(plan.cells)} cells (--waive all skips the audit; the report notes it)")
    found = of_plan(
        plan,
        corpus,
        budget=budget,
        slots=len(slots),
        beside=slots[0].beside,
        memory=min((slot.gpu.memory for slot in slots if slot.gpu and slot.gpu.memory), default=None),
        trains_here=trains_here,
    )
    for finding in found:
        mark = "waived" if finding.code in waived else finding.severity
        say(f"  {finding.code} {finding.name} [{mark}] {finding.where}: {finding.evidence}")
        say(f"    -> {finding.remedy}")
    return AuditRecord(findings=tuple(f.model_dump(mode="json") for f in found), waived=waived)
