"""`ablate run --dry-run`."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer

from ablate.models.console import console, print_json, print_table
from ablate.models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ablate.ablations.grid import AnyCell

    from ..launchers.slots import Slot
    from ..plan import Plan
    from ..study import Study

    Cost = tuple[float, float]


TIMED = 32
"""Maximum number of cells to time."""


def show_plan(study: Study, root: Path, format: str, slot: Slot) -> None:
    """Print the cells of a study with sizes, signatures and the cost of a run, without training.

    Args:
        slot: slot on which to time a few steps of each cell, if there are at most `TIMED` cells.
    """
    from .. import train_command
    from ..plan import PlanChangedError, load, make, merge, study_path
    from ..sequential import HalfWidthTarget

    plan, _ = make(study, root)
    if (study_path(root, plan.name) / "plan.json").exists():
        try:
            plan = merge(load(root, plan.name), plan, root)
        except PlanChangedError as error:
            print(f"refused: {error}", file=sys.stderr)
            raise typer.Exit(5) from None
    rule = study.target_half_width and HalfWidthTarget(study.target_half_width, study.max_seeds, at_once=1)
    if rule and (line := rule.outlook(plan)):
        print(line, file=sys.stderr)
    ours = plan.train is None
    costs = _costs(plan, slot) if 0 < len(plan.networks) <= TIMED else {}
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
                **_runs(cell, root, costs),
            }
            for cell in plan.cells
        ],
        "step_fractions": [
            {
                "step_fraction": at.step_fraction,
                "cells": [
                    {"name": cell.name, "steps": cell.config.steps, **_runs(cell, root, costs)}
                    for cell in at.cells
                ],
            }
            for at in plan.every_step_fraction()[1:]
        ],
    }
    if format == "json":
        print_json(document)
        return
    from rich.table import Table

    table = Table(title=f"{plan.name} on {plan.corpus.name}", box=None)
    known = ("parameters", "steps", "a run", "memory") if ours else ("overrides",)
    shared = {} if ours else _shared(plan.cells)
    for heading in ("cell", *known, "done", "training signatures"):
        table.add_column(heading, no_wrap=heading == "cell")
    distinct: set[str] = set()
    for at in plan.every_step_fraction():
        for cell in at.cells:
            row = _runs(cell, root, costs)
            distinct.update(cell.signatures.values())
            table.add_row(
                cell.name if at.step_fraction == 1.0 else f"{cell.name} at {at.step_fraction:g}",
                *_shown(cell, row["estimate"], shared),
                f"{len(row['done'])} of {len(cell.seeds)}",
                " ".join(signature[:8] for signature in cell.signatures.values()),
            )
    out = console()
    print_table(table, out, spare=("training signatures", "memory", "a run", "steps"))
    if shared:
        out.print(f"in every cell: {_listed(shared)}", markup=False, soft_wrap=True, highlight=False)
    fractions = f" x {1 + len(plan.step_fractions)} step budgets" if plan.step_fractions else ""
    out.print(f"{len(distinct)} distinct runs ({len(plan.runs)} runs of {len(plan.cells)} cells{fractions})")
    if plan.train is not None:
        shown = train_command.shown(plan.train, root)
        for cell in plan.cells:
            shown += [
                f"# {cell.name}, seed {cell.seeds[0]}",
                *literal(plan, cell, cell.seeds[0], root, root / "dry-run" / plan.name / cell.name),
            ]
        for line in shown:
            out.print(line, markup=False, soft_wrap=True, highlight=False)
    if costs:
        out.print(f"time and memory per run: from steps on {slot.device}, without validation and scoring")
    for alias in plan.aliases:
        out.print(f"aliased in this design: {alias}")


def literal(plan: Plan, cell: AnyCell, seed: int, root: Path, place: Path) -> list[str]:
    """The shell commands of a run, to try by hand in the folder `place`, which is not a run's. Writes their
    configuration file to it."""
    from ablate.training.data.corpus import corpus_folder
    from ablate.training.rundir import RunDir
    from ablate.training.train_command.train import Call

    train = plan.train
    if train is None or train.imported is not None:
        return []
    data = corpus_folder(plan.corpus.path, root / "cache").absolute()
    gpus = ",".join(map(str, range(train.gpus)))
    call = Call(RunDir(place), train, cell.config.result_fields(), seed, data, 1, gpus)
    place.mkdir(parents=True, exist_ok=True)
    call.write_config()
    variables = "".join(f"{name}={shlex.quote(value)} " for name, value in call.variables.items())
    lines = [f"mkdir -p {shlex.quote(call.values['out'])} && cd {shlex.quote(train.folder)}"]
    below = f"'{call.values['out']}/"
    for which in range(len(train.commands)):
        words = [shlex.quote(word) for word in call.words(which)]
        if which:
            words = [re.sub(r"[*?]+", r"'\g<0>'", w) if w.startswith(below) else w for w in words]
        lines.append(variables + " ".join(words))
    return lines


def _runs(cell: AnyCell, root: Path, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The runs of a cell: signatures by seed, the cost of one run, and which are done."""
    from ..plan import is_done

    estimate = None
    if cell.name in costs:
        seconds, memory = costs[cell.name]
        estimate = {
            "seconds_per_step": seconds,
            "seconds": seconds * (cell.config.steps or 0),
            "memory_bytes": memory,
        }
    return {
        "signatures": {str(seed): signature for seed, signature in cell.signatures.items()},
        "estimate": estimate,
        "done": [seed for seed in cell.seeds if is_done(root, cell, seed)],
    }


def _shared(cells: Sequence[AnyCell]) -> dict[str, Any]:
    """The overrides that have the same value in all cells."""
    first, *others = (cell.config.result_fields() for cell in cells)
    return {k: v for k, v in first.items() if others and all((k, v) in o.items() for o in others)}


def _listed(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in overrides.items())


def _shown(cell: AnyCell, estimate: dict[str, float] | None, shared: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a cell: size and costs, or the overrides that are not `shared`."""
    from ablate.models.errors import duration

    if cell.config.steps is None:
        return (_listed({k: v for k, v in cell.config.result_fields().items() if k not in shared}),)
    size = f"{cell.parameters:,}", str(cell.config.steps)
    if estimate is None:
        return (*size, "not timed", "not timed")
    return (*size, duration(estimate["seconds"]), f"{estimate['memory_bytes'] / 2**30:.2f} GiB")


def _costs(plan: Plan, slot: Slot) -> dict[str, Cost]:
    """Seconds and bytes of a step of each cell, measured on a slot's device at its threads."""
    if slot.gpu is not None:
        from ..step_benchmark import step_costs

        timed = step_costs(plan.networks, slot, plan.plugins)
        return {name: (cost.seconds, cost.memory) for name, cost in timed.items()}
    import torch  # from the audit's short steps, which take less than whole ones

    from ablate.ablations.audit.budget import step_bytes, step_seconds
    from ablate.ablations.audit.network_under_test import subject

    torch.set_num_threads(slot.threads)
    costs = {}
    for cell in plan.networks:
        try:
            subject(cell.config.model, cell.config.recipe).try_out()
        except InputError as error:
            raise InputError(f"cell {cell.name}: {error}") from error
        costs[cell.name] = (step_seconds(cell) or float("nan"), step_bytes(cell))
    return costs
