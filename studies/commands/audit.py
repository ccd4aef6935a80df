"""`ablate audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.ablations.commands import Base, Baseline, GridText, Settings
from ablate.models.console import ROOT, Plugins, Root, formats, print_json
from ablate.models.distribution import version_of
from ablate.models.errors import InputError, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ablate.ablations.audit import Finding
    from ablate.ablations.grid import Cell, Grid
    from ablate.ablations.targets import Job
    from ablate.training.data.corpus import Corpus

    from ..plan import Plan

NETWORKS = 8
"""Maximum number of cells whose networks are searched for the source line of a finding."""


def audit(
    target: Annotated[
        str | None,
        typer.Argument(help="A preset, a cell of --grid, a study, a study file, or a part of a plug-in."),
    ] = None,
    grid: GridText = None,
    base: Base = "mbsnet",
    baseline: Baseline = "bsrnn",
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe, which also sets the size. [default: quick; a preset: its own size]"),
    ] = None,
    settings: Settings = [],  # noqa: B006
    option: Annotated[list[str], typer.Option(help="Option of a plug-in's network, e.g. kernel=3.")] = [],  # noqa: B006
    data: Annotated[
        str | None, typer.Option(help="Corpus folder, or demo, to check for leaks and bad pairs.")
    ] = None,
    test_data: Annotated[str | None, typer.Option(help="Use the test split of this corpus.")] = None,
    pairs: Annotated[str | None, typer.Option(help="How files are paired: a pattern, or a list.")] = None,
    plugin: Plugins = [],  # noqa: B006
    waive: Annotated[str, typer.Option(help="Errors to ignore, e.g. A101,A102.")] = "",
    param_budget: Annotated[
        str | None, typer.Option(help='Parameters that every network should have, e.g. "2.3M+-5%".')
    ] = None,
    slots: Annotated[int, typer.Option(help="Runs at once, to estimate memory and hours.")] = 1,
    seeds: Annotated[int, typer.Option(help="Number of seeds, to estimate hours; 0 for no estimate.")] = 0,
    root: Root = ROOT,
    format: Annotated[str, formats("table", "json", "sarif", "github")] = "table",
) -> None:
    """Check for problems that would invalidate the results. Exits with 5 if an error is not waived."""
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
                    f"{study.name} was imported from {study.train.imported}, without code to audit"
                )
            load_planned(study.plugins)
    cells = [cell for its, _ in jobs for cell in its]
    for cell in cells:
        cell.config.model.trust_folders()
    if study is not None:
        cells, data, pairs = list(study.networks), data or study.corpus.path, pairs or study.corpus.pairs
    print(f"auditing {', '.join(cell.name for cell in cells) or (study and study.name)}", file=sys.stderr)
    corpus = _corpus(data, test_data, root, pairs)
    facts: dict[str, Any] = {"budget": param_budget, "slots": slots, "trains_here": False}
    found: list[Finding] = []
    if study is not None:
        counted = {"runs": len(cells) * seeds} if seeds else {}
        found = of_plan(study, corpus, same_scores(study, root), **facts, **counted)
    for its, factors in jobs:
        runs = len(its) * seeds if factors else 0
        for finding in audit_cells(its, factors, corpus=corpus, runs=runs, **facts):
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
        _print_lint(found, waived, format, cells, target, plugin)
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
    """Print findings with file and line; findings without a line refer to the top of the class's file or
    plug-in."""
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
    """The job of a grid: all its cells with its factors, or only the cell `target`."""
    cells = grid.cells()
    if target is None:
        return cells, grid.factors
    named = [cell for cell in cells if cell.name == target]
    if not named:
        raise InputError(f"no cell {target!r} in this grid; its cells: {', '.join(c.name for c in cells)}")
    return named, ()


def of_plan(
    plan: Plan, corpus: Corpus | None, same: Mapping[str, str] | None = None, **facts: Any
) -> list[Finding]:
    """Audit the plan of a study; a training command is not run.

    Args:
        same: run -> sentence that its scores are those of another seed.
        facts: further arguments of `audit_cells`, for cells of the built-in trainer.
    """
    from ablate.ablations.audit import audit_cells
    from ablate.ablations.audit.train_command import audit_train_command

    runs = [at.spec(cell, seed) for at in plan.every_step_fraction() for cell, seed in at.runs]
    if plan.train is None:
        tuned = plan.tune.space if plan.tune else ()
        return audit_cells(
            plan.networks, plan.factors, corpus=corpus, **{"runs": runs, "tuned": tuned} | facts
        )
    return audit_train_command(plan.cells, plan.factors, plan.train, runs=runs, corpus=corpus, same=same)


def _study(name: str, root: Path) -> Plan:
    """The plan of a study, or of a study file."""
    from ablate.models.config import PRESETS

    from ..plan import load, make, names
    from ..study_file import asked

    if Path(name).suffix in (".yaml", ".yml"):
        return make(asked(Path(name)), root.resolve())[0]
    if name not in names(root):
        raise InputError(
            f"{name!r} is not a preset ({', '.join(PRESETS)}), a part of a plug-in, or a study under "
            f"{root} ({', '.join(names(root)) or 'none there'})"
        )
    return load(root, name)


def _corpus(data: str | None, test_data: str | None, root: Path, pairs: str | None) -> Corpus | None:
    if data is None:
        return None
    from ablate.training.data.corpus import Corpus

    from ..plan import cache_path

    return Corpus.open(data, cache=cache_path(root.resolve()), test_data=test_data, pairs=pairs)
