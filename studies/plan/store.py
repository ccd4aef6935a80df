"""Plans on disk: `<root>/studies/<name>/plan.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.ablations.grid import AnyCell, safe_name
from ablate.ablations.runspec import run_path
from ablate.models import plugins
from ablate.models.errors import InputError, readable
from ablate.models.parts import expect_parts
from ablate.models.registry import suggestion
from ablate.training.metrics.registry import expect
from ablate.training.rundir import RunDir, write_json

from .model import Plan

FORMAT = 1


def study_path(root: Path, name: str) -> Path:
    """`<root>/studies/<name>`; raises ValueError if the name could leave that folder."""
    return root / "studies" / safe_name(name, "study")


def names(root: Path) -> list[str]:
    """The studies under a root, the most recent first."""
    plans = (root / "studies").glob("*/plan.json")
    return [path.parent.name for path in sorted(plans, key=lambda p: p.stat().st_mtime, reverse=True)]


def find(root: Path, name: str | None = None) -> str:
    """The name of an existing study. Default: the most recent.

    Raises:
        InputError: there is no such study; the message suggests a name.
    """
    if name is not None and (study_path(root, name) / "plan.json").exists():
        return name
    known = names(root)
    if name is None and known:
        return known[0]
    if name is None or not known:
        raise InputError(f"no study under {root / 'studies'}; start one with ablate run --grid ...")
    raise InputError(f"no study {name!r} under {root / 'studies'}{suggestion(name, known)}")


def load(root: Path, name: str | None = None) -> Plan:
    """The plan of a study (default: the most recent). See `read`.

    Raises:
        InputError: there is no such study, or the file is not a plan of this version.
    """
    return read(study_path(root, find(root, name)) / "plan.json")


def read(path: Path) -> Plan:
    """The plan in a file. Plug-ins are not imported, so their parts and metrics can be shown but not used.

    Raises:
        InputError: the file is not a plan of this version; or an earlier version wrote it without the
            direction of a plug-in's metric, and the plug-in is not trusted.
    """
    return parse(path.read_text(), path)


def parse(text: str, path: Path) -> Plan:
    """The plan in `text`, which was read from `path`; raises as `read`."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not a study's plan: {error}") from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != FORMAT:
        raise InputError(f"{path}: this version of ablate reads plans of format {FORMAT}, found {found!r}")
    with readable(f"{path} is not a study's plan: "):
        if not data.get("plugins"):
            expect(data.get("measures") or {})
            return Plan.model_validate(data)
        return _with_plugins(data)


def _with_plugins(data: dict[str, Any]) -> Plan:
    try:
        for cell in data["cells"]:
            expect_parts(cell["config"].get("model"))
        expect(data.get("measures", {}))
        return Plan.model_validate(data)
    except (ValidationError, TypeError, KeyError, AttributeError):
        plugins.load_planned(data["plugins"])
        return Plan.model_validate(data)


def save(plan: Plan, root: Path) -> None:
    path = study_path(root, plan.name)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "plan.json", plan.model_dump(mode="json"))


def run_of(root: Path, cell: AnyCell, seed: int) -> RunDir:
    """The run directory of a cell x seed."""
    return RunDir(run_path(root, cell.signatures[seed]))


def run_dirs(plan: Plan, root: Path) -> dict[tuple[str, int], RunDir]:
    """The run directory of every cell x seed."""
    return {(cell.name, seed): run_of(root, cell, seed) for cell, seed in plan.runs}


def is_done(root: Path, cell: AnyCell, seed: int) -> bool:
    """Whether a cell x seed is trained and scored on every test set."""
    run = run_of(root, cell, seed)
    return run.state.state == "done" and all(map(run.has_scores, cell.scored_as(seed)))


def lacks_weights(root: Path, cell: AnyCell, seed: int) -> bool:
    """Whether a cell x seed is trained, but lacks scores on a test set and the weights to compute them."""
    run = run_of(root, cell, seed)
    return run.state.state == "done" and not run.has_weights and not is_done(root, cell, seed)
