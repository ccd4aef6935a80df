"""`ablate report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ablate.models.console import ROOT, Format, Root, formats, options_from
from ablate.models.errors import InputError
from ablate.studies.commands.options import studies_of_root

from .elsewhere import Elsewhere
from .renderers import FORMS, write, write_document


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    app.command()(report)
    app.command()(compare)
    app.command("import-runs")(import_runs)


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Elsewhere):
    """The options of `ablate report`."""

    study: Annotated[
        list[str] | None,
        typer.Argument(
            help="Study to report. [default: the most recent] After --logs: more log files.",
            autocompletion=studies_of_root,
        ),
    ] = None
    logs: Annotated[list[Path] | None, typer.Option(help="Compare old training logs.")] = None
    margin: Annotated[
        float | None,
        typer.Option(help="Smallest difference that matters. [default: the study's, or the metric's]"),
    ] = None
    claim: Annotated[
        list[str],
        typer.Option(
            help="Claimed effect, on - off: FACTOR=LOW..HIGH or FACTOR=LEVEL=LOW..HIGH (repeatable)."
        ),
    ] = field(default_factory=list)
    claims: Annotated[str | None, typer.Option(help="Further claims: published, or a YAML file.")] = None
    format: Annotated[str, formats(*FORMS)] = "table"
    template: Annotated[
        str | None,
        typer.Option(
            help="Fill a template from the report's JSON: neurips-2026, reforms, urgent-2026, or a file."
        ),
    ] = None
    open_page: Annotated[
        bool, typer.Option("--open", help="Write the study's HTML report and open it in the browser.")
    ] = False
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. [default: standard output]")
    ] = None

    def check(self) -> None:
        """Raise InputError if options cannot be combined."""
        judging = ("scores", "base", "baseline", "metric", "guardrail", "margin", "claim", "claims")
        others = [*judging, "tracking_uri", "template"]
        if self.logs and (given := [name for name in others if getattr(self, name) not in (None, [])]):
            shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"--logs only compares old logs; leave out {shown}")
        names, elsewhere = list(self.study or []), self.scores or self.enhanced
        if len(names) > 1 and not self.logs:
            raise InputError(f"give one study at a time, not {', '.join(names)}")
        if elsewhere is None and (self.base or self.baseline or self.direction):
            raise InputError(
                "--base, --baseline and --direction are only for --scores; leave them out, a study "
                "already defines them"
            )
        if elsewhere is None and (self.clean or self.noisy):
            raise InputError("--clean and --noisy are folders for --enhanced")
        if self.scores is not None and self.claims is not None:
            raise InputError("--claims needs a study, whose networks are known; with --scores use --claim")
        if elsewhere is not None and names:
            raise InputError(f"give either a study ({names[0]}) or --scores, not both")
        if self.scores is not None and self.enhanced is not None:
            raise InputError("give either --scores or --enhanced, not both")
        if self.open_page and (elsewhere or self.tracking_uri is not None or self.output is not None):
            raise InputError("--open is for a study's folder; leave out --scores, --tracking-uri and -o")
        if self.tracking_uri is not None and not names and not (self.scores or "").startswith("mlflow:"):
            raise InputError("--tracking-uri needs the name of a study, or --scores mlflow:EXPERIMENT")


@options_from(ReportOptions)
def report(options: ReportOptions) -> None:
    """Report where the gap comes from: effects with intervals, verdicts on claims, and caveats."""
    options.check()
    names, output, format, root = list(options.study or []), options.output, options.format, options.root
    if options.logs:
        _report_logs([*options.logs, *map(Path, names)], format, output)
        return
    from ablate.studies.tracking.store import TrackingError

    from . import build
    from .sources import scores_from_mlflow, scores_from_study

    name = names[0] if names else None
    elsewhere = options.scores or options.enhanced
    try:
        if elsewhere is not None:
            found = options.read()
        elif options.tracking_uri is not None:
            found = scores_from_mlflow(options.tracking_uri, str(name), str(name))
        else:
            found = scores_from_study(root, name)
        result = build.report_of(
            *found,
            options.metric,
            options.margin,
            options.claim,
            options.guardrails,
            options.claims,
            direction=options.better,
        )
    except (build.NoScoresError, TrackingError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
    if options.template is not None:
        from .checklist import fill
        from .fields import json_fields

        text = fill(options.template, json_fields(result))
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")
            typer.echo(f"wrote {output}", err=True)
    elif output is not None:
        write(result, format, output)
        if format == "html":
            from .figures import save_all

            save_all(result, output.with_name(f"{output.stem}-figures"))
        typer.echo(f"wrote {output}", err=True)
    elif options.open_page or (
        format == "html" and sys.stdout.isatty() and elsewhere is None and options.tracking_uri is None
    ):
        page = build.write_folder(result, build.study_folder(root, result.info.name))
        typer.echo(str(page))
        if options.open_page:
            typer.launch(str(page))
    else:
        write(result, format, sys.stdout)


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Elsewhere):
    """The options of `ablate import-runs`."""

    file: Annotated[
        Path | None,
        typer.Argument(help="A study file whose train.command can train further runs. [default: none]"),
    ] = None
    study: Annotated[
        str | None, typer.Option(help="Name of the study. [default: the name of the source]")
    ] = None


@options_from(ImportOptions)
def import_runs(options: ImportOptions) -> None:
    """Import runs trained elsewhere as a study that you can report, plan from and extend."""
    from ablate.studies.tracking.store import TrackingError

    from .imports import NO_TRAINING, requested
    from .imports import import_runs as write_study

    if (options.scores is None) == (options.enhanced is None):
        raise InputError("no results given; use --scores or --enhanced")
    request = None
    if options.file is not None:
        request, options = requested(options.file, options)
    try:
        found = options.read()
    except TrackingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
    plan = write_study(
        *found,
        options.root,
        name=options.study,
        metric=options.metric or "pesq_wb",
        direction=options.better,
        study=request,
    )
    write_report(options.root, plan.name)
    further = f"to train further runs: ablate run {options.file} --study {plan.name}"
    for line in (*plan.corpus.notes, NO_TRAINING) if request is None else (further,):
        typer.echo(line, err=True)
    typer.echo(plan.name)


def write_report(root: Path, study: str) -> None:
    """Write a study's report to the study's folder. If it does not have scores yet, print that to stderr."""
    from .build import NoScoresError, report_of_study, study_folder, write_folder

    try:
        write_folder(report_of_study(root, study), study_folder(root, study))
    except NoScoresError as error:
        typer.echo(f"no report yet: {error}", err=True)


def _report_logs(paths: list[Path], format: str, output: Path | None) -> None:
    from .sources.logs import logs_document, read_logs

    if format == "checklist":
        raise InputError("--format checklist is not available for --logs; choose another --format")
    write_document(logs_document(read_logs(paths), format), format, output or sys.stdout)
    if output is not None:
        typer.echo(f"wrote {output}", err=True)


def compare(
    ours: Annotated[list[float], typer.Argument(help="Test scores of your runs, one or more.")],
    theirs: Annotated[
        list[float], typer.Option("--with", help="Score to compare with, e.g. from a paper (repeatable).")
    ],
    sd: Annotated[
        str | None, typer.Option(metavar="SD|LOW..HIGH", help="SD between runs, if you know it.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Study of this network and recipe to take the SD from.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Cell of that study. [default: all]")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Show what changes if their score is the best of N runs.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric of the scores.")] = "pesq_wb",
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """Compare single runs: does a retrained score differ from a published one, or is it chance?"""
    from dataclasses import asdict

    from ablate.ablations.inference import compare as engine
    from ablate.models.console import print_json

    from .comparison import lines, parse_spread, spread_of, study_spread

    if sd is not None and (study or cell):
        raise InputError("--sd and --study both set the SD between runs; give only one")
    if cell and not study:
        raise InputError(f"--cell {cell} needs --study, to know whose cell it is")
    if metric != "pesq_wb" and sd is None and study is None and len(ours) + len(theirs) < 6:
        raise InputError(f"no SD between runs is published for {metric}; give --sd or --study")
    given = parse_spread(sd) if sd is not None else None
    if study is not None:
        given = study_spread(root.resolve(), study, cell, metric)
    found = engine.compare(ours, theirs, spread_of(ours, theirs, given), best_of=best_of)
    if format == "json":
        print_json(asdict(found))
    else:
        for line in lines(found, best_of):
            typer.echo(line)
