"""`ablate retry --cell`: moves the runs of a cell away, so that they are trained again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from ablate.ablations.grid import AnyCell
from ablate.ablations.runspec import run_path
from ablate.training.rundir import RunDir, RunLockedError, read_json

from .lease import StudyHeldError
from .plan import Plan, names, run_label, study_path


def set_aside(plan: Plan, cells: Iterable[AnyCell], root: Path) -> list[str]:
    """Move the runs of cells to `<root>/replaced/`, all or none.

    Returns a line for each run, with the studies that share it.

    Raises:
        StudyHeldError: a process is writing one of the runs.
    """
    runs: dict[str, str] = {}
    for cell in cells:
        for fraction, found in {1.0: cell, **cell.step_fractions}.items():
            for seed, signature in found.signatures.items():
                runs.setdefault(signature, run_label(cell.name, seed, fraction))
    others = _shared(plan.name, runs, root)
    lines = []
    with ExitStack() as locks:
        there = {s: RunDir(run_path(root, s)) for s in runs if run_path(root, s).exists()}
        for signature, run in there.items():
            try:
                locks.enter_context(run.lock())
            except RunLockedError as error:
                raise StudyHeldError(
                    f"{runs[signature]} cannot be moved aside: {error}; wait until that process ends, "
                    "or end it and run again"
                ) from None
        for signature, run in there.items():
            aside = root / "replaced" / f"{signature}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            run.path.rename(aside)
            shared = f"; it also belonged to {', '.join(others[signature])}" if others[signature] else ""
            lines.append(f"{runs[signature]}: the previous run is kept in {aside}{shared}")
    return lines


def _shared(name: str, signatures: Iterable[str], root: Path) -> dict[str, list[str]]:
    """Signature -> the other studies with that run, each as `study other (cell seed 1)`."""
    found: dict[str, list[str]] = {signature: [] for signature in signatures}
    for other in names(root):
        # Not `load`, which imports the plug-ins of a study that is not asked for.
        plan = None if other == name else read_json(study_path(root, other) / "plan.json")
        for cell in plan["cells"] if plan else ():
            for fraction, runs in {1.0: cell, **cell.get("at_lengths", {})}.items():
                for seed, signature in runs["signatures"].items():
                    if signature in found:
                        label = run_label(cell["name"], int(seed), float(fraction))
                        found[signature].append(f"study {other} ({label})")
    return found
