"""`ablate report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Root, formats
from ablate.models.errors import InputError
from ablate.studies.commands.study import studies_of_root

from .renderers import FORMS, write, write_document

if TYPE_CHECKING:
    from .elsewhere import Elsewhere


Scores = Annotated[
    str | None,
    typer.Option(help="Results trained elsewhere: a table, 'runs/{core}-{seed}.jsonl', mlflow:EXPERIMENT."),
]
Enhanced = Annotated[
    str | None,
    typer.Option(help="Folders of enhanced speech to measure, e.g. 'exp/{core}/seed{seed}/enhanced'."),
]
Clean = Annotated[Path | None, typer.Option(help="The folder of references for --enhanced.")]
Factors = Annotated[
    str | None, typer.Option(help="Columns of --scores, or fields of the pattern, that make the cells.")
]
Column = Annotated[list[str], typer.Option(help="Name of a column in --scores, e.g. pesq_wb=PESQ; repeat.")]
TakeOf = Annotated[str, typer.Option("--take", help="Which value of a curve counts: last, max or min.")]
Base = Annotated[
    str | None, typer.Option(help='The all-off levels of --scores, e.g. "bidirectional=off,core=lstm".')
]
Baseline = Annotated[str | None, typer.Option(help="The reference cell of --scores.")]
Directions = Annotated[
    list[str],
    typer.Option(
        metavar="METRIC=higher|lower",
        help="Say which way is better, of a metric of --scores that ablate does not know; repeat.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    app.command()(report)
    app.command()(compare)
    app.command("import-runs")(import_runs)


def report(
    study: Annotated[
        list[str] | None,
        typer.Argument(
            help="Study to report; default: the most recent one. After --logs: more log files.",
            autocompletion=studies_of_root,
        ),
    ] = None,
    scores: Scores = None,
    enhanced: Enhanced = None,
    clean: Clean = None,
    factors: Factors = None,
    column: Column = [],  # noqa: B006
    take: TakeOf = "last",
    base: Base = None,
    baseline: Baseline = None,
    logs: Annotated[list[Path] | None, typer.Option(help="Old training logs, side by side.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Score to compare, e.g. stoi; default: the study's endpoint.")
    ] = None,
    guardrail: Annotated[
        str | None, typer.Option(help="Other metrics beside it, to see what a gain costs, e.g. cbak,si_sdr.")
    ] = None,
    direction: Directions = [],  # noqa: B006
    margin: Annotated[
        float | None,
        typer.Option(help="Smallest difference that matters; default: the study's, or the metric's own."),
    ] = None,
    claim: Annotated[
        list[str], typer.Option(help="FACTOR=LOW..HIGH or FACTOR=LEVEL=LOW..HIGH, on - off; repeat.")
    ] = [],  # noqa: B006
    claims: Annotated[
        str | None, typer.Option(help="Claims of others, judged too: published, or a YAML file.")
    ] = None,
    format: Annotated[str, formats(*FORMS)] = "table",
    template: Annotated[
        str | None,
        typer.Option(
            help="Fill a template from the report's JSON: neurips-2026, reforms, urgent-2026, or a file."
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Write the study's HTML report and show it in the browser.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: standard output.")
    ] = None,
    root: Root = ROOT,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Read the study from this MLflow server alone, not from --root.")
    ] = None,
) -> None:
    """Where the gap comes from: effects with intervals, verdicts on claims, and what bounds them."""
    names = list(study or [])
    if logs:
        judging: dict[str, Any] = {"scores": scores, "base": base, "baseline": baseline, "metric": metric}
        judging |= {"guardrail": guardrail, "margin": margin, "claim": claim or None, "claims": claims}
        judging |= {"tracking-uri": tracking_uri, "template": template}
        if given := [f"--{option}" for option, value in judging.items() if value is not None]:
            raise InputError(f"--logs shows old logs side by side; without {', '.join(given)}")
        _report_logs([*logs, *map(Path, names)], format, output)
        return
    if len(names) > 1:
        raise InputError(f"one study at a time, not {', '.join(names)}")
    name = names[0] if names else None
    if scores is None and enhanced is None and (base or baseline or direction):
        raise InputError("--base, --baseline and --direction describe --scores; a study knows its own")
    if scores is not None and claims is not None:
        raise InputError("--claims judges a study, whose networks are known; for --scores give --claim")
    elsewhere = scores or enhanced
    if elsewhere is not None and name:
        raise InputError(f"give a study ({name}) or --scores, not both")
    if scores is not None and enhanced is not None:
        raise InputError("give --scores or --enhanced, not both")
    if open_page and (elsewhere is not None or tracking_uri is not None or output is not None):
        raise InputError(
            "--open shows the report of a study in its folder; no --scores, --tracking-uri or -o"
        )
    if tracking_uri is not None and not name and not (scores or "").startswith("mlflow:"):
        raise InputError("--tracking-uri needs the name of a study, or --scores mlflow:EXPERIMENT")

    guardrails = [part.strip() for part in (guardrail or "").split(",") if part.strip()]
    from ablate.studies.tracking.store import TrackingError

    from . import build
    from .sources import scores_from_mlflow, scores_from_study

    try:
        better = dict(text.partition("=")[::2] for text in direction)
        if elsewhere is not None:
            found = _elsewhere(
                scores,
                enhanced,
                clean,
                factors,
                column,
                take,
                base,
                baseline,
                metric,
                root,
                tracking_uri,
                guardrails,
            ).read()
            result = build.report_of(*found, metric, margin, claim, guardrails, direction=better)
        elif tracking_uri is not None:
            found = scores_from_mlflow(tracking_uri, str(name), str(name))
            result = build.report_of(*found, metric, margin, claim, guardrails, claims)
        else:
            result = build.report_of(
                *scores_from_study(root, name), metric, margin, claim, guardrails, claims
            )
    except (build.NoScoresError, TrackingError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
    if template is not None:
        from .checklist import fill
        from .fields import json_fields

        text = fill(template, json_fields(result))
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
    elif open_page or (
        format == "html" and sys.stdout.isatty() and elsewhere is None and tracking_uri is None
    ):
        page = build.write_folder(result, build.study_folder(root, result.info.name))
        typer.echo(str(page))
        if open_page:
            typer.launch(str(page))
    else:
        write(result, format, sys.stdout)


def _elsewhere(
    scores: str | None,
    enhanced: str | None,
    clean: Path | None,
    factors: str | None,
    column: list[str],
    take: str,
    base: str | None,
    baseline: str | None,
    metric: str | None,
    root: Path,
    tracking_uri: str | None,
    guardrails: list[str],
) -> Elsewhere:
    from .elsewhere import Elsewhere

    return Elsewhere(
        scores=scores,
        enhanced=enhanced,
        clean=clean,
        factors=tuple(part.strip() for part in (factors or "").split(",") if part.strip()),
        columns=tuple(column),
        take=take,  # type: ignore[arg-type]
        tracking_uri=tracking_uri,
        base=base or "",
        baseline=baseline,
        metric=metric or "pesq_wb",
        guardrails=tuple(guardrails),
        cache=root / "cache",
    )


def import_runs(
    file: Annotated[
        Path | None, typer.Argument(help="A study file whose train.command trains such runs. [default: none]")
    ] = None,
    scores: Scores = None,
    enhanced: Enhanced = None,
    clean: Clean = None,
    factors: Factors = None,
    column: Column = [],  # noqa: B006
    take: TakeOf = "last",
    base: Base = None,
    baseline: Baseline = None,
    metric: Annotated[str | None, typer.Option(help="The endpoint of the study.")] = None,
    direction: Directions = [],  # noqa: B006
    study: Annotated[str | None, typer.Option("--study", help="Name of the study.")] = None,
    root: Root = ROOT,
    tracking_uri: Annotated[str | None, typer.Option(help="The server of mlflow:EXPERIMENT.")] = None,
) -> None:
    """Import runs that were trained elsewhere as a study, to report it, plan from it and train more of it."""
    from ablate.studies.tracking.store import TrackingError

    from .imports import NO_TRAINING
    from .imports import import_runs as write

    if (scores is None) == (enhanced is None):
        raise InputError("give --scores or --enhanced, the results to import")
    request = None
    if file is not None:
        from ablate.studies.request import Request, read_file

        request = Request.model_validate(read_file(file))
        if request.train is None:
            raise InputError(f"{file} has no train.command: ablate trains its cells itself, none elsewhere")
        if base or metric:
            raise InputError("--base and --metric are the study file's: its first levels, and its endpoint")
        factors = factors or ",".join(factor.name for factor in request.factors)
        base = ",".join(f"{factor.name}={factor.off}" for factor in request.factors)
        metric = request.endpoint.metric
    elsewhere = _elsewhere(
        scores, enhanced, clean, factors, column, take, base, baseline, metric, root, tracking_uri, []
    )
    better = dict(text.partition("=")[::2] for text in direction)
    try:
        found = elsewhere.read()
    except TrackingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
    plan = write(*found, root, name=study, metric=metric or "pesq_wb", direction=better, request=request)
    write_report(root, plan.name)
    for note in () if file is not None else (*plan.corpus.notes, NO_TRAINING):
        typer.echo(note, err=True)
    if file is not None:
        typer.echo(f"to train more of it: ablate run {file} --study {plan.name}", err=True)
    typer.echo(plan.name)


def write_report(root: Path, study: str) -> None:
    """Write a study's report beside it; a study without scores has none yet, which standard error says."""
    from .build import NoScoresError, report_of_study, study_folder, write_folder

    try:
        write_folder(report_of_study(root, study), study_folder(root, study))
    except NoScoresError as error:
        typer.echo(f"no report yet: {error}", err=True)


def _report_logs(paths: list[Path], format: str, output: Path | None) -> None:
    from .sources.logs import logs_document, read_logs

    if format == "checklist":
        raise InputError("--logs has no checklist: give another --format")
    write_document(logs_document(read_logs(paths), format), format, output or sys.stdout)
    if output is not None:
        typer.echo(f"wrote {output}", err=True)


def compare(
    ours: Annotated[list[float], typer.Argument(help="Test scores of your trainings, one or more.")],
    theirs: Annotated[
        list[float], typer.Option("--with", help="The score it is compared with, e.g. of a paper; repeat.")
    ],
    sd: Annotated[
        str | None, typer.Option(metavar="SD|LOW..HIGH", help="SD between trainings, where you know it.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Study of this network and recipe whose trainings give the SD.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Cell of that study; default: all of them.")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Theirs is the best of so many trainings: what that changes.")
    ] = None,
    metric: Annotated[str, typer.Option(help="What the scores are.")] = "pesq_wb",
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """Compare single trainings: is a retrained score different from a published one, or is it luck?"""
    from dataclasses import asdict

    from ablate.ablations.inference import compare as engine
    from ablate.models.console import print_json

    from .comparison import lines, parse_spread, spread_of, study_spread

    if sd is not None and (study or cell):
        raise InputError("--sd and --study both give the SD between trainings; give one")
    if cell and not study:
        raise InputError(f"--cell {cell}: say of which --study")
    if metric != "pesq_wb" and sd is None and study is None and len(ours) + len(theirs) < 6:
        raise InputError(f"no SD between trainings is published for {metric}; give --sd or --study")
    given = parse_spread(sd) if sd is not None else None
    if study is not None:
        given = study_spread(root.resolve(), study, cell, metric)
    found = engine.compare(ours, theirs, spread_of(ours, theirs, given), best_of=best_of)
    if format == "json":
        print_json(asdict(found))
    else:
        for line in lines(found, best_of):
            typer.echo(line)
