"""`ablate run --dry-run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from ablate.models.console import print_json

if TYPE_CHECKING:
    from pathlib import Path

    from ..launchers.slots import Slot
    from ..plan import Plan
    from ..request import Request


def show_plan(request: Request, root: Path, format: str, slot: Slot | None) -> None:
    """Print the cells of a study with their sizes, signatures and what a run takes; nothing is trained.

    Args:
        slot: where a few steps of each cell are timed; none: nothing is.
    """
    from ..plan import PlanChangedError, is_done, load, make, merge, study_path

    plan, _ = make(request, root)
    if (study_path(root, plan.name) / "plan.json").exists():
        try:
            plan = merge(load(root, plan.name), plan, root)
        except PlanChangedError as error:
            print(f"refused: {error}", file=sys.stderr)
            raise typer.Exit(5) from None
    estimates = {} if slot is None else _estimates(plan, slot)
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
                "signatures": {str(seed): signature for seed, signature in cell.signatures.items()},
                "estimate": estimates.get(cell.name),
                "done": [seed for seed in plan.seeds if is_done(plan, root, cell, seed)],
            }
            for cell in plan.cells
        ],
    }
    if format == "json":
        print_json(document)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{plan.name} on {plan.corpus.name}", box=None)
    for heading in ("cell", "parameters", "steps", "a run", "memory", "done", "training signatures"):
        table.add_column(heading, no_wrap=heading == "cell")
    for cell, row in zip(plan.cells, document["cells"], strict=True):
        table.add_row(
            cell.name,
            f"{cell.parameters:,}",
            str(cell.config.recipe.steps),
            *_shown(row["estimate"]),  # type: ignore[index]
            f"{len(row['done'])} of {len(plan.seeds)}",  # type: ignore[index]
            " ".join(signature[:8] for signature in cell.signatures.values()),
        )
    console = Console()
    console.print(table)
    distinct = {signature for cell in plan.cells for signature in cell.signatures.values()}
    console.print(f"{len(distinct)} distinct trainings for {len(plan.cells)} cells x {len(plan.seeds)} seeds")
    if slot is not None:
        console.print(
            f"time and memory of a run: from steps on {slot.device}, without validation and scoring"
        )
    for alias in plan.aliases:
        console.print(f"not told apart by this design: {alias}")


def _shown(estimate: dict[str, float] | None) -> tuple[str, str]:
    from ..progress import duration

    if estimate is None:
        return "not timed", "not timed"
    return duration(estimate["seconds"]), f"{estimate['memory_bytes'] / 2**30:.2f} GiB"


def _estimates(plan: Plan, slot: Slot) -> dict[str, dict[str, float]]:
    """Seconds and bytes of a run of each cell, from steps measured on a slot's device at its threads."""
    found = {}
    costs = _on_gpu(plan, slot) if slot.gpu is not None else _on_cores(plan, slot)
    for cell in plan.cells:
        seconds, memory = costs[cell.name]
        found[cell.name] = {
            "seconds_per_step": seconds,
            "seconds": seconds * (cell.config.recipe.steps or 0),
            "memory_bytes": memory,
        }
    return found


def _on_gpu(plan: Plan, slot: Slot) -> dict[str, tuple[float, float]]:
    from ..measure import step_costs

    costs = step_costs(plan.cells, slot, plan.plugins)
    return {name: (cost.seconds, cost.memory) for name, cost in costs.items()}


def _on_cores(plan: Plan, slot: Slot) -> dict[str, tuple[float, float]]:
    """From the audit's short steps, which take less than whole ones."""
    import torch

    from ablate.ablations.audit.budget import step_bytes, step_seconds

    torch.set_num_threads(slot.threads)
    return {cell.name: (step_seconds(cell) or float("nan"), step_bytes(cell)) for cell in plan.cells}
