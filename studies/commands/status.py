"""`ablate status` and `ablate logs`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Root, console, fit, print_json
from ablate.models.errors import InputError, listed

from .options import StudyName, studies_of_root

if TYPE_CHECKING:
    from rich.console import Console


def status(
    study: StudyName = None,
    root: Root = ROOT,
    format: Format = "table",
    watch: Annotated[bool, typer.Option("--watch", help="Update every two seconds.")] = False,
) -> None:
    """Show the state, step and validation PESQ of every run, and the causes of failures."""
    from .. import plan as plans
    from ..status import status as read

    root = root.resolve()
    plan = plans.load(root, study)
    if format == "json":
        print_json(read(plan, root))
        return
    from rich.live import Live

    out = console()
    if not watch:
        out.print(_status_view(read(plan, root), out))
        return
    with Live(_status_view(read(plan, root), out), console=out, refresh_per_second=1) as live:
        while True:
            time.sleep(2)
            plan = plans.load(root, plan.name)
            live.update(_status_view(read(plan, root), out))


def _status_view(read: dict[str, Any], out: Console) -> Any:
    """The table of runs, with each reason of a failure below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ablate.models.errors import duration

    from .. import plan as plans
    from ..status import shown_state

    counts = ", ".join(f"{count} {state}" for state, count in sorted(read["counts"].items()))
    left = read["seconds_left"]
    table = Table(title=read["study"], caption=counts + (f"; about {duration(left)} left" if left else ""))
    fractions = len({run["step_fraction"] for run in read["runs"]}) > 1
    for heading in (
        "cell",
        "seed",
        *(["step_fraction"] if fractions else []),
        "state",
        "step",
        "val PESQ",
        "s/step",
        "attempts",
    ):
        table.add_column(heading, no_wrap=True)
    for run in read["runs"]:
        table.add_row(
            run["cell"],
            str(run["seed"]),
            *([f"{run['step_fraction']:g}"] if fractions else []),
            shown_state(run),
            f"{run['step']}/{run['steps'] or '?'}",
            "" if run["val_pesq_wb"] is None else f"{run['val_pesq_wb']:.2f}",
            "" if run["seconds_per_step"] is None else f"{run['seconds_per_step']:.2f}",
            str(run["attempts"]),
        )
    failed: dict[str, list[str]] = {}
    for run in read["runs"]:
        if run["cause"]:
            reason = f"{run['cause']}: {run['message'] or 'see ablate logs'}"
            failed.setdefault(reason, []).append(
                plans.run_label(run["cell"], run["seed"], run["step_fraction"])
            )
        if run["curve_problem"]:
            failed.setdefault(f"no curve: {run['curve_problem']}", []).append(
                plans.run_label(run["cell"], run["seed"], run["step_fraction"])
            )
    left_out = fit(table, out, spare=("attempts", "s/step", "val PESQ"))
    reasons = [Text(f"{listed(runs)}: {reason}") for reason, runs in failed.items()]
    return Group(table, *([Text(left_out, style="dim")] if left_out else []), *reasons)


def logs(
    cell: Annotated[str, typer.Argument(help="Name of the cell.")],
    study: Annotated[
        str | None, typer.Option(help="The study. [default: the last one]", autocompletion=studies_of_root)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed. [default: all]")] = None,
    root: Root = ROOT,
) -> None:
    """Print the logs of a cell's runs."""
    from .. import plan as plans

    root = root.resolve()
    plan = plans.load(root, study)
    chosen = plan.cell(cell)
    if seed is not None and seed not in chosen.seeds:
        raise InputError(
            f"cell {cell!r} of study {plan.name!r} has no seed {seed}; "
            f"its seeds: {', '.join(map(str, chosen.seeds))}"
        )
    for at in plan.every_step_fraction():
        for (name, number), run in plans.run_dirs(at, root).items():
            if name == chosen.name and seed in (None, number):
                print(f"== {plans.run_label(name, number, at.step_fraction)}: {run.log}", file=sys.stderr)
                if run.log.exists():
                    sys.stdout.write(run.log.read_text())
