"""`ablate run`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Plugins, Root, options_from
from ablate.models.errors import InputError, readable, storage_problem

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus

    from ..launchers import Resources
    from ..launchers.slots import Slot
    from ..plan import AuditRecord, Plan
    from ..request import Request
    from ..session import Session

Echo = Callable[[str], None]

START = """no grid; three ways to start:
  ablate run --grid bidirectional,decoder4x,crossband             # the demo corpus; no data needed
  ablate run --grid bidirectional,decoder4x,crossband --data DIR --recipe small --seeds 5   # yours
  ablate run study.yaml                                           # all of it in a file: docs/studies.md"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of `ablate run`: what the study is, how it is carried out, where, and what is shown."""

    file: Annotated[Path | None, typer.Argument(help="A YAML study file; options override it.")] = None
    grid: Annotated[str | None, typer.Option(help="Factors, e.g. bidirectional,core=lstm,mamba.")] = None
    base: Annotated[str | None, typer.Option(help="Preset the deltas apply to. [default: mbsnet]")] = None
    baseline: Annotated[str | None, typer.Option(help="Reference system. [default: bsrnn]")] = None
    data: Annotated[str | None, typer.Option(help="Corpus folder. [default: the demo corpus]")] = None
    test_data: Annotated[
        list[str], typer.Option(help="Score on this corpus' test split; repeat: on each, the first decides.")
    ] = field(default_factory=list)
    pairs: Annotated[
        str | None, typer.Option(help="How files pair: a pattern, e.g. 'fileid_(\\d+)', or a list.")
    ] = None
    seeds: Annotated[str | None, typer.Option(help="N for 1..N, or a:b inclusive. [default: 3]")] = None
    step_fractions: Annotated[
        str | None, typer.Option(help="Train at these shares of the steps too, e.g. 0.5,1.")
    ] = None
    split_seed: Annotated[
        bool, typer.Option("--split-seed", help="Draw what is held out for validation by the seed.")
    ] = False
    recipe: Annotated[str | None, typer.Option(help="quick, small or reference. [default: quick]")] = None
    settings: Annotated[list[str], typer.Option("--set", help="e.g. recipe.steps=400; repeat.")] = field(
        default_factory=list
    )
    design: Annotated[str | None, typer.Option(help="full, fractional, leave-one-out or add-one.")] = None
    metric: Annotated[str | None, typer.Option(help="Endpoint on test. [default: pesq_wb]")] = None
    margin: Annotated[
        float | None, typer.Option(help="Smallest difference that matters. [default: the metric's own]")
    ] = None
    claim: Annotated[
        list[str], typer.Option(help="FACTOR=LOW..HIGH or FACTOR=LEVEL=LOW..HIGH, on - off; repeat.")
    ] = field(default_factory=list)
    claims: Annotated[
        str | None, typer.Option(help="Claims of others, judged too: published, or a YAML file.")
    ] = None
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None
    root: Root = ROOT
    launcher: Annotated[str | None, typer.Option(help="inline, local or slurm. [default: local]")] = None
    jobs: Annotated[int | None, typer.Option(help="Runs at once.")] = None
    gpus: Annotated[str | None, typer.Option(help="GPUs to use, e.g. 0,2; '' for none.")] = None
    runs_per_gpu: Annotated[int, typer.Option(help="Runs on one GPU at once.")] = 1
    partition: Annotated[str | None, typer.Option(help="SLURM partition.")] = None
    slurm: Annotated[list[str], typer.Option(help="SLURM setting, e.g. time=60; repeat.")] = field(
        default_factory=list
    )
    storage: Annotated[
        str | None, typer.Option(envvar="ABLATE_STORAGE", help="Optuna storage, postgresql://...")
    ] = None
    tracking_uri: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow.")] = None
    tune: Annotated[list[str], typer.Option(help="recipe.learning_rate=1e-4..3e-3; repeat.")] = field(
        default_factory=list
    )
    tune_trials: Annotated[int, typer.Option(help="Tuning trials of each cell.")] = 8
    target_half_width: Annotated[
        float | None, typer.Option(help="Train on until intervals are this narrow.")
    ] = None
    max_seeds: Annotated[int, typer.Option(help="The most seeds that --target-half-width may reach.")] = 12
    start_from: Annotated[str | None, typer.Option("--from", help="Start weights: best, latest or FILE.")] = (
        None
    )
    keep: Annotated[int | None, typer.Option(help="Keep a checkpoint every N steps.")] = None
    waive: Annotated[str, typer.Option(help="Audit errors to accept, e.g. A101,A102.")] = ""
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Skip the audit; recorded.")] = False
    param_budget: Annotated[str | None, typer.Option(help='Declared parameters, e.g. "2.3M+-5%".')] = None
    plugin: Plugins = field(default_factory=list)
    retry_failed: Annotated[bool, typer.Option(help="Train failed and diverged runs again.")] = False
    rerun: Annotated[list[str], typer.Option(help="Train this cell again; repeat.")] = field(
        default_factory=list
    )
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again what a version of other results trained.")
    ] = False
    use_imported: Annotated[
        bool, typer.Option("--use-imported", help="Use runs that another study imported.")
    ] = False
    max_failures: Annotated[int | None, typer.Option(help="Start nothing after N failures.")] = None
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Same as --max-failures 1.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; train nothing.")] = False
    check: Annotated[
        bool,
        typer.Option("--check", help="Try a training command on one cell, with the overrides of check:."),
    ] = False
    no_timing: Annotated[
        bool, typer.Option("--no-timing", help="--dry-run of many cells: time no steps.")
    ] = False
    format: Format = "table"

    def request(self) -> Request:
        """What is asked for: the study file, overridden by the options. Imports the plug-ins of both.

        Raises:
            InputError: an option, the file or a plug-in is wrong, or there is no grid.
        """
        from ablate.ablations.claim_files import claims_from
        from ablate.ablations.claims import Endpoint, parse_claim
        from ablate.ablations.factors import with_claims, with_further
        from ablate.ablations.grid import parse_factors, parse_settings
        from ablate.models.plugins import load

        from ..request import Request, parse_overrides, parse_seeds, parse_tuning, read_file

        load(self.plugin)
        fields: dict[str, Any] = {}
        if self.file is not None:
            if not self.file.is_file():
                raise InputError(f"{self.file}: no such study file; write --grid {self.file} for a grid")
            fields = read_file(self.file)
        if self.grid is not None:
            fields["factors"] = parse_factors(self.grid)
        if not fields.get("factors"):
            raise InputError(START)
        named = ("base", "data", "pairs", "recipe", "design", "study", "launcher", "start_from")
        given = {name: getattr(self, name) for name in named} | {
            "step_fractions": self.step_fractions,
            "seeds": parse_seeds(self.seeds) if self.seeds is not None else None,
            "tune": parse_tuning(self.tune, self.tune_trials),
            "test_data": tuple(self.test_data) or None,
        }
        fields |= {key: value for key, value in given.items() if value is not None}
        if self.baseline is not None:
            fields["baseline"] = None if self.baseline in ("", "none") else self.baseline
        parse = parse_overrides if "train" in fields else parse_settings
        fields["set"] = fields.get("set", {}) | parse(self.settings)
        if self.keep is not None:
            fields["set"]["recipe.keep_every"] = self.keep
        if self.split_seed:
            if "train" in fields:
                raise InputError("--split-seed: what a training command holds out is its own affair")
            fields["set"]["recipe.split"] = "seed"
        endpoint = fields.get("endpoint") or {}
        if self.metric is not None and endpoint.get("metric") != self.metric:
            endpoint = {"metric": self.metric}
        fields["endpoint"] = endpoint | ({} if self.margin is None else {"margin": self.margin})
        with readable():
            metric = Endpoint.model_validate(fields["endpoint"]).metric
        claims = [parse_claim(text, metric) for text in self.claim]
        fields["factors"] = with_claims(fields["factors"], claims)
        if self.claims is not None:
            others = claims_from(self.claims, fields["factors"], metric)
            fields["factors"] = with_further(fields["factors"], others)
        fields["plugins"] = (*fields.get("plugins", ()), *map(str, self.plugin))
        load(map(Path, fields["plugins"]))
        with readable():
            request = Request.model_validate(fields)
        if request.launcher in ("inline", "local") and (self.slurm or self.partition):
            raise InputError(f"--slurm and --partition are not for the launcher {request.launcher!r}")
        return request

    def resources(self, request: Request) -> Resources:
        """Where runs may go."""
        from ..launchers import Resources

        gpus = 1 if request.train is None else request.train.gpus
        if gpus > 1 and self.runs_per_gpu > 1:
            raise InputError(f"train.gpus is {gpus}, so --runs-per-gpu {self.runs_per_gpu} does not fit")
        return Resources(
            gpus_each=gpus,
            jobs=self.jobs,
            gpus=self.gpus,
            runs_per_gpu=self.runs_per_gpu,
            partition=self.partition,
            settings=tuple(self.slurm),
        )

    def slots(self, launcher: str) -> list[Slot]:
        """Where runs go on this machine; one slot where another machine trains."""
        from ..launchers.slots import find_slots

        if launcher != "local":
            return find_slots(jobs=1)
        return find_slots(self.jobs, self.gpus, self.runs_per_gpu)


def command(write_report: Callable[[Path, str], None]) -> Callable[..., None]:
    """`ablate run`, which ends by `write_report(root, study)`."""

    @options_from(RunOptions)
    def run(options: RunOptions) -> None:
        """Train every cell of a grid, and the baseline, at every seed; what is done is not done again."""
        request = options.request()
        root = options.root.resolve()
        if options.dry_run:
            from ..sequential import HalfWidthTarget, check_half_width
            from .dry_run import show_plan

            if options.target_half_width is not None:
                check_half_width(options.target_half_width, options.max_seeds)
                rule = HalfWidthTarget(options.target_half_width, options.max_seeds, at_once=1)
            else:
                rule = None
            slot = None if options.no_timing else options.slots(request.launcher)[0]
            show_plan(request, root, options.format, slot, rule)
        elif options.check:
            from .check import check_study

            check_study(request, root, options.resources(request))
        else:
            _run_study(options, request, root, write_report)

    return run


def _run_study(
    options: RunOptions, request: Request, root: Path, write_report: Callable[[Path, str], None]
) -> None:
    """Run the study to its end; the exit code says how it ended."""
    from rich.console import Console

    from ablate.ablations.inference.reach import CODE

    from ..lease import StudyHeldError
    from ..plan import PlanChangedError, study_path
    from ..session import RefusedError

    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    session = _session(options, request, root, write_report, say, console)
    started = time.time()
    try:
        plan, outcome = session.run(request)
    except (PlanChangedError, StudyHeldError, RefusedError) as error:
        say(f"refused: {error}")
        raise typer.Exit(5) from None
    except OSError as error:
        if not (kept := session.kept) or not (problem := storage_problem(error)):
            raise
        say(f"{problem}, then run the same command again; {kept}")
        raise typer.Exit(4) from None
    say(
        f"{plan.name}: {len(outcome.done)} runs done ({outcome.trained} trained or scored now), "
        f"{len(outcome.failed)} failed or diverged, {len(outcome.left)} left; {time.time() - started:.0f} s"
    )
    if outcome.interrupted:
        say("interrupted; the same command goes on from the last checkpoints")
        raise typer.Exit(130)
    if outcome.failed:
        say(f"see why: ablate status {plan.name} --root {root}; ablate logs CELL; again: --retry-failed")
        raise typer.Exit(3)
    nothing = [f["where"] for f in plan.audit.findings if f["code"] == CODE]
    if outcome.left and nothing and CODE not in plan.audit.waived:
        say(
            f"refused: {', '.join(nothing)} reaches nothing, and its cells stopped; correct it, or train "
            f"them all the same with --waive {CODE}"
        )
        raise typer.Exit(5)
    if outcome.left:
        raise typer.Exit(4)
    for alias in plan.aliases:
        say(f"not told apart by this design: {alias}")
    page = study_path(root, plan.name) / "report" / "report.html"
    if page.exists():
        say(f"the report: {page}")
        if plan.baseline is not None:
            say('look first at the gap and at "unexplained", then at each interval beside what was claimed')
    if plan.corpus.is_demo:
        say("the demo corpus shows how this works; its numbers say nothing of real speech")
    say(f"the table: ablate report {plan.name}; curves and sound: ablate ui {plan.name}")


def _session(
    options: RunOptions,
    request: Request,
    root: Path,
    write_report: Callable[[Path, str], None],
    say: Echo,
    console: Any,
) -> Session:
    from ablate.ablations.audit import parse_waivers

    from ..archive import command_line
    from ..launchers import LAUNCHERS
    from ..progress import ConsoleProgress
    from ..retry_policy import Policy
    from ..session import Session

    waived = tuple(sorted(parse_waivers(options.waive)))
    launcher, resources = request.launcher, options.resources(request)

    def audit(plan: Plan, corpus: Corpus) -> AuditRecord:
        return _audit(
            plan, corpus, options.slots(launcher), waived, options.param_budget, say, launcher != "slurm"
        )

    return Session(
        root=root,
        launcher=lambda folder: LAUNCHERS[launcher].open(folder, resources),
        audit=None if options.no_audit else audit,
        report=lambda plan: write_report(root, plan.name),
        say=say,
        progress=ConsoleProgress(console),
        policy=Policy(
            max_failures=1 if options.fail_fast else options.max_failures, retry_failed=options.retry_failed
        ),
        storage_url=options.storage,
        tracking_uri=options.tracking_uri,
        command=command_line(),
        rerun=tuple(options.rerun),
        retrain=options.retrain,
        use_imported=options.use_imported,
        target_half_width=options.target_half_width,
        max_seeds=options.max_seeds,
    )


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

    from ablate.ablations.audit import audit_cells

    from ..plan import AuditRecord
    from .audit import own_findings

    torch.set_num_threads(slots[0].threads)
    say(f"auditing {len(plan.cells)} cells (--no-audit skips this, and the report says so)")
    if plan.train is not None:
        found = own_findings(plan, corpus)
    else:
        found = audit_cells(
            plan.networks,
            plan.factors,
            corpus=corpus,
            budget=budget,
            slots=len(slots),
            beside=slots[0].beside,
            memory=min((slot.gpu.memory for slot in slots if slot.gpu and slot.gpu.memory), default=None),
            runs=[at.spec(cell, seed) for at in plan.every_step_fraction() for cell, seed in at.runs],
            tuned=plan.tune.space if plan.tune else (),
            trains_here=trains_here,
        )
    for finding in found:
        mark = "waived" if finding.code in waived else finding.severity
        say(f"  {finding.code} {finding.name} [{mark}] {finding.where}: {finding.evidence}")
        say(f"    -> {finding.remedy}")
    return AuditRecord(findings=tuple(f.model_dump(mode="json") for f in found), waived=waived)
