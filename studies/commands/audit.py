"""`ablate audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.ablations.commands import Base, Baseline, GridText, Settings
from ablate.models.console import ROOT, Plugins, Root, formats, print_json
from ablate.models.distribution import version_of
from ablate.models.errors import InputError, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ablate.ablations.audit import Finding
    from ablate.ablations.grid import Cell, Grid
    from ablate.ablations.runspec import RunSpec
    from ablate.ablations.targets import Job
    from ablate.training.data.corpus import Corpus
    from ablate.training.train_command.config import TrainingCommand

    from ..plan import Plan

NETWORKS = 8
"""Cells of a grid in whose networks the line of a finding is looked for."""


def audit(
    target: Annotated[
        str | None, typer.Argument(help="A preset, a cell of --grid, a study, or a plug-in's part.")
    ] = None,
    grid: GridText = None,
    base: Base = "mbsnet",
    baseline: Baseline = "bsrnn",
    recipe: Annotated[
        str | None,
        typer.Option(help="Its rule shrinks the networks. [default: quick; a preset: its own size]"),
    ] = None,
    settings: Settings = [],  # noqa: B006
    option: Annotated[
        list[str], typer.Option(help="Of a plug-in's network, e.g. kernel=3: --set model.options.kernel=3.")
    ] = [],  # noqa: B006
    data: Annotated[str | None, typer.Option(help="Corpus folder, or demo, for leaks and scores.")] = None,
    test_data: Annotated[str | None, typer.Option(help="Take this corpus' test split.")] = None,
    pairs: Annotated[str | None, typer.Option(help="How files pair: a pattern, or a list.")] = None,
    plugin: Plugins = [],  # noqa: B006
    waive: Annotated[str, typer.Option(help="Errors to accept, e.g. A101,A102.")] = "",
    param_budget: Annotated[str | None, typer.Option(help='Declared parameters, e.g. "2.3M+-5%".')] = None,
    slots: Annotated[int, typer.Option(help="Runs side by side, for memory and hours.")] = 1,
    seeds: Annotated[int, typer.Option(help="Seeds of the study, for its hours; 0 leaves them out.")] = 0,
    root: Root = ROOT,
    format: Annotated[str, formats("table", "json", "sarif", "github")] = "table",
) -> None:
    """Find before training what would make the answer wrong. Exits with 5 where an error is not waived."""
    from ablate.ablations.audit import audit_cells, errors, parse_waivers
    from ablate.ablations.targets import jobs_named, load_plugins, parse_grid
    from ablate.models.plugins import load_planned

    from ..scores import same_scores

    settings = [*settings, *(f"model.options.{item}" for item in option)]
    waived = parse_waivers(waive)
    brought = load_plugins(plugin)
    study: Plan | None = None
    if grid is not None:
        jobs = [_job_of_grid(parse_grid(grid, base, baseline, recipe, settings), target)]
    elif target is None:
        jobs = [job for name in brought.names for job in jobs_named(name, recipe, settings, brought)]
        if not jobs:
            raise InputError(
                "nothing to audit: name a preset, a study, --grid, or a --plugin that registers parts"
            )
    else:
        jobs = jobs_named(target, recipe, settings, brought)
        if not jobs:
            study = _study(target, root)
            if study.train is not None and study.train.imported:
                raise InputError(
                    f"{study.name} is imported from {study.train.imported}: its trainings are not here"
                )
            load_planned(study.plugins)
            jobs = [(list(study.networks), study.factors)] if study.train is None else []
    for cells, _ in jobs if study is None else ():
        for cell in cells:
            cell.config.model.trust_folders()
    if study is not None:
        pairs = pairs or study.corpus.pairs
    corpus = _corpus(data or (study.corpus.path if study else None), test_data, root, pairs)
    found = (
        [] if study is None or study.train is None else own_findings(study, corpus, same_scores(study, root))
    )
    tuned = study.tune.space if study is not None and study.tune is not None else ()
    for cells, factors in jobs:
        runs: int | list[RunSpec] = len(cells) * seeds if factors else 0
        if study is not None and not seeds:
            runs = [at.spec(cell, seed) for at in study.every_step_fraction() for cell, seed in at.runs]
        print(f"auditing {', '.join(c.name for c in cells)}", file=sys.stderr)
        for finding in audit_cells(
            cells,
            factors,
            corpus=corpus,
            budget=param_budget,
            slots=slots,
            runs=runs,
            tuned=tuned,
            trains_here=False,
        ):
            if finding not in found:
                found.append(finding)
    refusing = errors(found, waived)
    if format == "json":
        print_json(
            [
                f.model_dump(mode="json") | {"waived": f.severity == "error" and f.code in waived}
                for f in found
            ]
        )
    elif format in ("sarif", "github"):
        _print_lint(found, waived, format, [cell for cells, _ in jobs for cell in cells], target, plugin)
    else:
        for finding in found:
            mark = "waived" if finding.code in waived and finding.severity == "error" else finding.severity
            print(f"{finding.code} {finding.name} [{mark}] {finding.where}: {finding.evidence}")
            print(f"    -> {finding.remedy}")
        notes = sum(f.severity == "note" for f in found)
        waived_now = len(found) - len(refusing) - notes
        print(f"{plural(len(refusing), 'error')}, {waived_now} waived, {plural(notes, 'note')}")
    if refusing:
        raise typer.Exit(5)


def _print_lint(
    found: list[Finding],
    waived: frozenset[str],
    format: str,
    cells: list[Cell],
    target: str | None,
    plugin: list[Path],
) -> None:
    """Findings with file and line; what no line makes is shown at the head of the class' file or plug-in."""
    from ablate.ablations.audit import lint
    from ablate.models import build_model

    networks = [build_model(cell.config.model) for cell in cells[:NETWORKS]] if found else []
    otherwise = Path(target.rpartition(":")[0]) if target and ".py:" in target else None
    otherwise = otherwise or (plugin[0] if plugin else None)
    placed = [(finding, lint.place(finding.where, networks, otherwise)) for finding in found]
    if format == "sarif":
        print_json(lint.sarif(placed, waived, version_of("ablate")))
    else:
        print("\n".join(lint.github(placed, waived)))


def _job_of_grid(grid: Grid, target: str | None) -> Job:
    """All cells of a grid with its factors, or one of them."""
    cells = grid.cells()
    if target is None:
        return cells, grid.factors
    named = [cell for cell in cells if cell.name == target]
    if not named:
        raise InputError(f"no cell {target!r} in this grid; its cells: {', '.join(c.name for c in cells)}")
    return named, ()


def own_findings(plan: Plan, corpus: Corpus | None, same: Mapping[str, str] | None = None) -> list[Finding]:
    """What is to be said of a study whose cells a command trains; the command is not run.

    Args:
        same: runs whose scores are another seed's -> whose.
    """
    from ablate.ablations.audit.train_command import audit_train_command

    assert plan.train is not None
    return audit_train_command(
        plan.own_cells,
        plan.factors,
        runs=[plan.spec(cell, seed) for cell, seed in plan.runs],
        corpus=corpus,
        network=plan.train.network,
        folder=plan.train.folder,
        same=same,
        command=plan.train.command,
        code=_code(plan.train),
        defaults=plan.train.defaults,
    )


def _code(train: TrainingCommand) -> dict[str, Path]:
    """The files of a training's code where they are now; none where its folder is gone."""
    from ablate.training.train_command.code import find_code

    try:
        return {name: Path(train.folder) / name for name in find_code(Path(train.folder), train.code)}
    except InputError:
        return {}


def _study(name: str, root: Path) -> Plan:
    """The plan of a study."""
    from ablate.models.config import PRESETS

    from ..plan import load, names

    if name not in names(root):
        raise InputError(
            f"{name!r} is no preset ({', '.join(PRESETS)}), no part of a plug-in "
            f"and no study under {root} ({', '.join(names(root)) or 'none there'})"
        )
    return load(root, name)


def _corpus(data: str | None, test_data: str | None, root: Path, pairs: str | None) -> Corpus | None:
    if data is None:
        return None
    from ablate.training.data.corpus import Corpus

    from ..plan import cache_path

    return Corpus.open(data, cache=cache_path(root.resolve()), test_data=test_data, pairs=pairs)
