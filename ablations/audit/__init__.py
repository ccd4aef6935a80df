"""Checks that find, before training, what would make a study's answer wrong.

The package can be imported without torch.

Each check is one function in the module of its family; its docstring begins with the code of its findings.
`docs/audit.md` lists all codes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from ablate.models.errors import InputError, listed
from ablate.training.config import Recipe, RunConfig, resolve_recipe

from ..factors import Factor
from ..grid import Cell
from .finding import CODES, Finding, errors, parse_waivers
from .neighbours import measured, untoggled

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus

    from ..runspec import RunSpec

__all__ = ["CODES", "Finding", "audit_cells", "audit_class", "audit_config", "errors", "parse_waivers"]


def audit_config(config: RunConfig) -> list[Finding]:
    """Findings A1xx, A202 and A404 of one network under its recipe. The network's own output goes to stderr.

    Raises:
        InputError: the network cannot be built, does not run, or its output has another shape than its input.
    """
    from . import budget, declarations, network
    from .network_under_test import subject

    audited = subject(config.model, config.recipe)
    with redirect_stdout(sys.stderr):
        audited.try_out()
        return [*network.check(audited), *declarations.check(audited), *budget.shortened(audited)]


def audit_class(
    text: str, settings: Mapping[str, Any] | None = None, recipe: Recipe | None = None, *, named: bool = True
) -> tuple[list[str], list[Finding]]:
    """Findings A1xx and A202 of a network class in a file; a plug-in is not needed.

    Args:
        text: `path/to/file.py:Class`.
        settings: arguments of the class, or `domain`, `axes`, `compress`, `output`.
        recipe: default: `quick`.
        named: see `class_of_file`.

    Returns:
        A sentence for each guess about the class, and the findings.

    Raises:
        InputError: as `audit_config`, or the class does not exist.
    """
    from ablate.models.class_adapter import class_of_file

    brought = class_of_file(text, settings, named=named)
    config = RunConfig(model=brought.config, recipe=recipe or resolve_recipe("quick"))
    return list(brought.told), audit_config(config)


def audit_cells(
    cells: Sequence[Cell],
    factors: Sequence[Factor] = (),
    *,
    corpus: Corpus | None = None,
    budget: str | None = None,
    slots: int = 1,
    beside: int | None = None,
    runs: int | Sequence[RunSpec] = 0,
    tuned: Collection[str] = (),
    memory: int | None = None,
    trains_here: bool = True,
) -> list[Finding]:
    """All findings on the cells of a grid, by code. Cells with equal configurations are measured once.

    In a large grid, `neighbours.MEASURED` networks are measured, and a note (A404) lists the others.

    Args:
        cells: including the baseline (the cell without levels), if there is one.
        corpus: to check its pairs, leaks and noisy score; default: not checked.
        budget: declared parameters of every cell, e.g. "2.3M+-5%".
        slots: simultaneous runs, to estimate the hours.
        beside: simultaneous runs on one device, to estimate memory; default: `slots`.
        runs: the study's runs or their number, to estimate the hours; 0 skips the estimate.
        tuned: dotted paths that tuning sets for each cell.
        memory: bytes of memory of the device; default: those of this machine's device.
        trains_here: whether the study trains on this machine; if not, findings about memory are notes.

    Raises:
        InputError: a network cannot be built or does not run, or the budget is not valid.
    """
    from . import budget as budgets
    from . import data, declarations, toggles, uncovered

    limit = budgets.Budget.parse(budget) if budget is not None else None
    every, cells = cells, measured(cells, _network)
    grouped: dict[str, tuple[RunConfig, list[str]]] = {}
    for cell in cells:
        grouped.setdefault(_network(cell), (cell.config, []))[1].append(cell.name)
    found: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for config, names in grouped.values():
        try:
            findings = audit_config(config)
        except InputError as error:
            raise InputError(f"cell {', '.join(names)}: {error}") from error
        for finding in findings:
            found.setdefault((finding.code, finding.where, finding.evidence), (finding, []))[1].extend(names)
    results = [_in_cells(finding, names, len(cells)) for finding, names in found.values()]

    with redirect_stdout(sys.stderr):
        results += toggles.without_effect(cells, factors)
        results += declarations.of_factors(cells, factors)
        results += toggles.hidden_changes(cells, factors, tuned)
        results += untoggled(cells, factors)
        results += uncovered.capacity(cells, factors)
        results += uncovered.equal_size(cells, factors)
        if limit is not None:
            results += budgets.parameters(every, limit)
        results += budgets.not_measured(every, cells, len(grouped))
        results += budgets.fits(cells, slots=beside or slots, available=memory, trains_here=trains_here)
        results += budgets.slow_scan(cells) if trains_here else []
        if runs:
            results += budgets.hours(cells, runs=runs, slots=slots)
        if corpus is not None:
            results += data.leaked(corpus)
            results += data.noisy_score(corpus)
            results += data.wrong_pairs(corpus)
            results += data.one_sided(corpus, cells, tuned)
        if every:
            results += data.unequal(every, factors, tuned, () if isinstance(runs, int) else runs)
    return sorted(results, key=lambda finding: finding.code)


def _network(cell: Cell) -> str:
    """A key that is equal for cells with the same network and recipe."""
    return cell.config.model.model_dump_json() + cell.config.recipe.model_dump_json()


def _in_cells(finding: Finding, names: list[str], total: int) -> Finding:
    """A network's finding, extended by the names of the cells that have this network."""
    if total == 1:
        return finding
    shown = "every cell" if len(names) == total else listed(names, 4)
    return finding.model_copy(update={"evidence": f"{finding.evidence} (in {shown})"})
