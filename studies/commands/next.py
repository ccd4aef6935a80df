"""`ablate next`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.models.console import ROOT, Format, Root, console, print_json, print_table

from .options import StudyName

if TYPE_CHECKING:
    from ablate.ablations.inference.allocation import Allocation


def next_(
    study: StudyName = None,
    width: Annotated[
        float | None, typer.Option(help="Target half-width for every effect and the gap.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of runs to list.")] = 10,
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """List the runs to add next: those that narrow the widest interval most per hour."""
    from .. import plan as plans
    from ..allocation import next_trainings

    root = root.resolve()
    plan = plans.load(root, study)
    found = next_trainings(plan, root, width=width, count=count)
    if format == "json":
        print_json(asdict(found))
    else:
        _print(found, plan.name, width)


def _print(found: Allocation, name: str, width: float | None) -> None:
    from rich.table import Table

    from ablate.ablations.inference.allocation import FIRST
    from ablate.models.errors import duration

    out = console()
    if found.widest is not None:
        target, now = found.widest
        out.print(f"{name}: the widest interval is {target}, +-{now:.3f}", markup=False)
    for line in found.limits:
        out.print(line, markup=False)
    if found.widest is None and found.trainings:
        out.print(f"every cell needs {FIRST} seeds before intervals can be compared", markup=False)
    if not found.trainings:
        reached = width is not None and found.widest is not None and found.widest[1] <= width
        out.print("narrow enough" if reached else "no further run narrows it", markup=False)
        return
    table = Table(box=None)
    for heading in ("cell", "seed", "takes", "for", "half-width then", "gain an hour"):
        table.add_column(heading, no_wrap=heading == "cell")
    for training in found.trainings:
        table.add_row(
            ", ".join(training.cells),
            str(training.seed),
            duration(3600 * training.hours),
            training.target,
            "" if training.half_width is None else f"{training.half_width:.4f}",
            "" if training.gain is None else f"{training.gain:.5f}",
        )
    table.columns = [column for column in table.columns if any(column.cells)]
    print_table(table, out, spare=("gain an hour", "half-width then"))
