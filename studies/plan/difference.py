"""Differences between two plans of a study. More seeds and step budgets extend it; other changes that affect
the weights are refused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.ablations.factors import Factor
from ablate.ablations.grid import Config
from ablate.models.config import Frozen
from ablate.models.errors import listed
from ablate.training.train_command.config import TrainingCommand

from .. import train_command
from .model import Plan, PlanChange
from .resolve import extend
from .store import run_of


class PlanChangedError(Exception):
    """A study of that name has another plan; the message shows the differences."""


class ResultsChangedError(PlanChangedError):
    """A study was trained by a version of this code that gives other results."""


def merge(old: Plan, new: Plan, root: Path) -> Plan:
    """Merge the plan on disk with the requested one.

    More seeds and step budgets extend the plan, and the audit's record is kept. Paths of corpus and code,
    scoring and claims are taken from the new plan. If runs have scores, the plan records the changes of
    scoring and claims.

    Raises:
        PlanChangedError: the plans differ in something that affects the weights.
        ResultsChangedError: this version would train the existing runs to other results.
    """
    differences = compare(old, new, root)
    if differences:
        raise PlanChangedError(
            f"study {old.name!r} exists with another plan:\n  "
            + "\n  ".join(differences)
            + "\nChoose another name with --study NAME."
        )
    check_results(old)
    places = {field: getattr(new.corpus, field) for field in ("path", "name", "test_path", "pairs")}
    factors = {factor.name: factor for factor in new.factors}
    lines, changes = rescored(old, new), old.changes
    if lines and _has_scores(old, root):
        changes = (*changes, PlanChange(time=time.time(), lines=tuple(lines)))
    cells = (
        cell.model_copy(
            update={
                "config": cell.config.model_copy(update={"evaluation": new.cell(cell.name).config.evaluation})
            }
        )
        for cell in old.cells
    )
    moved = old.model_copy(
        update={
            "cells": tuple(cells),
            "endpoint": new.endpoint,
            "changes": changes,
            "corpus": old.corpus.model_copy(update=places),
            "factors": tuple(factors[factor.name] for factor in old.factors),
            "extra_test_sets": new.extra_test_sets,
            "train": new.train,
            "measures": new.measures,
        }
    )
    return extend(moved, new.seeds, root, new.step_fractions)


def check_results(plan: Plan) -> None:
    """Raise ResultsChangedError if this version would train a study's runs to other results."""
    if plan.former_results is not None:
        raise ResultsChangedError(
            f"study {plan.name!r} was trained with results version {plan.former_results}; this version of "
            "ablate gives other results for the same configuration. Its scores are kept: ablate report "
            f"{plan.name}. To train again, run ablate retry {plan.name} --retrain (the old results are "
            f"kept as study {former(plan)!r}), or choose another name with --study NAME."
        )


def former(plan: Plan) -> str:
    """The name under which to keep a study's old plan when it is retrained with a new results version."""
    return f"{plan.name}.results-{plan.former_results}"


def _has_scores(plan: Plan, root: Path) -> bool:
    """Whether any run of a plan has scores."""
    return any(
        run_of(root, cell, seed).has_scores(cell.evaluations[seed])
        for at in plan.every_step_fraction()
        for cell, seed in at.runs
    )


def rescored(old: Plan, new: Plan) -> list[str]:
    """Differences in scoring and claims between two plans, one line each (old -> new)."""
    lines = _fields(old, new, ("endpoint",))
    if old.train is not None and new.train is not None:
        lines += _fields(old.train, new.train, ("scores", "curve"), "train.")
    factors = {factor.name: factor for factor in old.factors}
    lines += [
        f"factor {factor.name}: its claims changed"
        for factor in new.factors
        if factor.name in factors and _claims(factor, factors[factor.name]) != factors[factor.name].claims
    ]
    before = {cell.name: _evaluation(cell.config) for cell in old.cells}
    after = {cell.name: _evaluation(cell.config) for cell in new.cells}
    return lines + _values(before, after)


def compare(old: Plan, new: Plan, root: Path | None = None) -> list[str]:
    """Differences between two plans that affect the weights, one line each (old -> new).

    Seeds and step budgets are not compared.

    Args:
        root: root with the code of the old plan, to name changed files.
    """
    lines = _fields(old, new, ("base", "baseline", "design", "constraints", "start_from", "tune"))
    lines += _fields(old.corpus, new.corpus, ("digest", "test_digest"), "corpus ")
    tests = [", ".join(f"{t.name} ({t.digest[:12]})" for t in plan.extra_test_sets) for plan in (old, new)]
    if [t.digest for t in old.extra_test_sets] != [t.digest for t in new.extra_test_sets]:
        lines.append(f"extra test sets: {tests[0] or 'none'} -> {tests[1] or 'none'}")
    lines += [f"plug-in {path}: {change}" for path, change in _plugins(old, new)]
    lines += _training(old.train, new.train, root)
    factors = {factor.name: factor for factor in old.factors}
    lines += [
        f"factor {factor.name}: its {field} changed"
        for factor in new.factors
        if factor.name in factors
        for field in ("levels", "declares")
        if getattr(factor, field) != getattr(factors[factor.name], field)
    ]
    before = {cell.name: cell.config.result_fields() for cell in old.cells}
    after = {cell.name: cell.config.result_fields() for cell in new.cells}
    lines += [f"cell {name}: removed" for name in before if name not in after]
    lines += [f"cell {name}: new" for name in after if name not in before]
    for cell in old.cells:
        for path in cell.tuned or ():
            before[cell.name].pop(path, None)
            after.get(cell.name, {}).pop(path, None)
    return lines + _values(before, after)


def _values(before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]) -> list[str]:
    """The fields that differ in some cells: a line for each change, with the number of cells that have it."""
    changed: dict[str, list[str]] = {}
    for name in before.keys() & after.keys():
        fields, others = before[name], after[name]
        for path in {**fields, **others}:
            if (path in fields, fields.get(path)) != (path in others, others.get(path)):
                values = (repr(side[path]) if path in side else "not given" for side in (fields, others))
                changed.setdefault(f"{path}: {' -> '.join(values)}", []).append(name)
    return [f"{change} ({len(cells)} cells)" for change, cells in sorted(changed.items())]


def _fields(old: Frozen, new: Frozen, names: Iterable[str], prefix: str = "") -> list[str]:
    """The fields of two objects that differ, one line each."""
    return [
        f"{prefix}{field}: {_short(getattr(old, field))} -> {_short(getattr(new, field))}"
        for field in names
        if getattr(old, field) != getattr(new, field)
    ]


def _training(old: TrainingCommand | None, new: TrainingCommand | None, root: Path | None) -> list[str]:
    """Differences between two training commands that affect results; folder and resuming do not."""
    if old is None or new is None:
        names = ["ours" if train is None else f"{train.command!r}" for train in (old, new)]
        return [] if old is new else [f"trained with: {' -> '.join(names)}"]
    if old.imported and not new.imported:
        return [
            f"trained with: imported runs (from {old.imported}) -> {new.command!r}; import it again with "
            "the study file: ablate import-runs FILE.yaml --scores ..."
        ]
    lines = _fields(old, new, ("command", "then", "overrides", "config", "gpus"), "train.")
    if old.digest != new.digest:
        changed = train_command.changed_files(old, new, root) if root is not None else []
        named = f": {listed(changed, 8)}" if changed else ""
        lines.append(f"train.code: its content changed ({old.digest[:12]} -> {new.digest[:12]}){named}")
    return lines


def _claims(new: Factor, old: Factor) -> Any:
    """The claims of a factor; added conditions do not count as a difference."""
    if len(new.claims) != len(old.claims):
        return new.claims
    pairs = zip(new.claims, old.claims, strict=True)
    return tuple(
        mine if theirs.conditions else mine.model_copy(update={"conditions": None}) for mine, theirs in pairs
    )


def _plugins(old: Plan, new: Plan) -> Iterator[tuple[str, str]]:
    for path in old.plugins | new.plugins:
        if path not in new.plugins or path not in old.plugins:
            yield path, "new" if path in new.plugins else "gone"
        elif old.plugins[path] != new.plugins[path]:
            before, after = ((plan.plugins[path] or "not recorded")[:12] for plan in (old, new))
            yield path, f"its code changed ({before} -> {after})"


def _evaluation(config: Config) -> dict[str, Any]:
    return {path: value for path, value in config.flat().items() if path.startswith("evaluation.")}


def _short(value: Any) -> str:
    return str(value.model_dump(mode="json") if isinstance(value, Frozen) else value)
