"""`ablate power`."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ablate.models.console import ROOT, Root, console, formats, print_table
from ablate.models.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ..power import Outlook


def power(
    file: Annotated[Path | None, typer.Argument(help="A YAML study file, instead of --grid.")] = None,
    grid: Annotated[
        str | None, typer.Option(metavar="FACTORS", help="e.g. bidirectional,core=lstm,mamba.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N", help="Numbers of seeds to compare: N for 1..N, or a:b.")
    ] = "2:10",
    pilot: Annotated[
        str | None,
        typer.Option(metavar="STUDY", help="Study that gives variances and times. [default: typical values]"),
    ] = None,
    effect: Annotated[
        float | None,
        typer.Option(metavar="SIZE", help="Find the design that detects this effect with the fewest runs."),
    ] = None,
    design: Annotated[
        str | None, typer.Option(metavar="KIND", help="Design: full, fractional, leave-one-out or add-one.")
    ] = None,
    baseline: Annotated[bool, typer.Option(help="Whether the grid has a baseline.")] = True,
    power: Annotated[float, typer.Option(metavar="P", help="Probability of detecting the effect.")] = 0.8,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Metric to plan for, with --pilot.")
    ] = None,
    format: Annotated[str, formats("table", "csv", "json")] = "table",
    root: Root = ROOT,
) -> None:
    """Power analysis: the smallest effect detectable with a given number of seeds, with runs and hours."""
    from ..power import outlook
    from ..study import parse_seeds
    from ..study_file import asked

    if (file is None) == (grid is None):
        raise InputError("no grid given; name a study file, or use --grid")
    study = asked(file, grid=grid, design=design)
    found = outlook(
        study.factors,
        parse_seeds(seeds),
        pilot=(root, pilot) if pilot else None,
        effect=effect,
        design=study.design,
        constraints=study.constraints,
        baseline=baseline and study.baseline is not None,
        power=power,
        metric=metric,
    )
    write_outlook(found, format, sys.stdout)


def write_outlook(found: Outlook, format: str, out: TextIO) -> None:
    """Print an outlook as a table, CSV (a row per number of seeds and effect) or JSON."""
    from ablate.ablations.inference.analysis import records

    if format == "csv":
        found.table.to_csv(out, index=False, lineterminator="\n")
    elif format == "json":
        document = {
            "schema": "ablate.power",
            "version": 1,
            "design": found.design,
            "power": found.power,
            "source": found.source,
            "hours_per_run": found.hours,
            "variances": asdict(found.variances),
            "effects": records(found.table),
            "effect": found.effect,
            "designs": records(found.designs) if found.designs is not None else None,
        }
        json.dump(document, out, indent=1, allow_nan=False)
        out.write("\n")
    else:
        _print(found, out)


def _print(found: Outlook, out: TextIO) -> None:
    from ablate.ablations.inference.power import plan_table

    screen = console(out)
    v = found.variances
    screen.print(
        f"Smallest effects that a {found.design} design detects with probability {found.power:g} "
        "(two-sided, 0.05)",
        markup=False,
        style="bold",
    )
    screen.print(
        f"Variances: {found.source}: seed SD {v.seed:.3f}, residual {v.residual:.3f}, {v.utterances:,} "
        "test utterances",
        markup=False,
    )
    wide = plan_table(found.table)
    _table(screen, wide if found.hours is not None else wide.drop(columns="hours"))
    if found.designs is not None:
        screen.print(
            f"Designs that detect a main effect of {found.effect:g} in every factor",
            style="bold",
            markup=False,
        )
        frame = found.designs if found.hours is not None else found.designs.drop(columns="hours")
        _table(screen, frame)


def _table(screen: Console, frame: pd.DataFrame) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in frame.columns:
        words = name in ("design", "note")
        table.add_column(str(name).replace("_", " "), justify="left" if words else "right")
    for row in frame.to_dict("records"):
        table.add_row(*(_text(str(name), value) for name, value in row.items()))
    pairs = [str(name) for name in frame.columns if " x " in str(name)]
    print_table(table, screen, spare=(*reversed(pairs),))


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "none"
    if name in ("seeds", "runs"):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if name == "hours" else f"{value:.3f}"
