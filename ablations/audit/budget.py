"""A4xx: parameters, memory and hours."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ablate.models.errors import InputError, duration, listed, plural
from ablate.models.mamba import has_scan
from ablate.models.scan import choose_backend
from ablate.models.summary import trained_parameters

from ..grid import Cell
from ..runspec import RunSpec
from .finding import Finding
from .network_under_test import LONGER, Subject, subject

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_BUDGET = re.compile(
    r"\s*(?P<n>\d[\d_,]*\.?\d*)\s*(?P<u>[kmgb]?)\s*(?:(?:\+-|\+/-|±)\s*(?P<t>\d+\.?\d*)\s*(?P<tu>%|[kmgb]?))?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Budget:
    """The range of parameter counts that a network may have."""

    low: float
    high: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget in a text such as `2.3M+-5%`, `340000+-2k`, or `2.3M`, which allows 1 % either way.

        Raises:
            InputError: the text is not in one of these forms.
        """
        match = _BUDGET.fullmatch(text)
        if match is None:
            raise InputError(f"budget {text!r} is not valid; write parameters and a tolerance, e.g. 2.3M+-5%")
        value = float(re.sub("[_,]", "", match["n"])) * _UNITS[match["u"].lower()]
        if match["t"] is None:
            tolerance = 0.01 * value
        elif match["tu"] == "%":
            tolerance = float(match["t"]) / 100 * value
        else:
            tolerance = float(match["t"]) * _UNITS[match["tu"].lower()]
        return cls(value - tolerance, value + tolerance, text.strip())


def parameters(cells: Sequence[Cell], budget: Budget) -> Iterator[Finding]:
    """A401: networks with fewer or more parameters than declared."""
    wrong: dict[int, list[str]] = {}
    for cell in cells:
        count = trained_parameters(cell.config.model)
        if not budget.low <= count <= budget.high:
            wrong.setdefault(count, []).append(cell.name)
    for count, names in wrong.items():
        yield Finding.of(
            "A401",
            ", ".join(names),
            f"{count:,} parameters, but {budget.text} is declared ({budget.low:,.0f} to {budget.high:,.0f})",
            "change width, depth or decoder, or correct --param-budget",
        )


def shortened(audited: Subject) -> Iterator[Finding]:
    """A404: the probes are shorter than usual, because the network needs much memory."""
    if audited.longer_seconds < LONGER:
        yield Finding.of(
            "A404",
            "network",
            f"checked with clips of {audited.longer_seconds:g} s instead of {LONGER:g} s and crops of "
            f"{audited.crop_seconds:g} s: autograd would keep about {audited.kept_of(LONGER) / 2**30:.1f} "
            f"GiB of {LONGER:g} s",
            "nothing to fix; problems that only longer clips show were not checked",
        )


def not_measured(every: Sequence[Cell], cells: Sequence[Cell], networks: int) -> Iterator[Finding]:
    """A404: cells whose networks were not measured, only their parameters counted."""
    names = {cell.name for cell in cells}
    left = [cell.name for cell in every if cell.name not in names]
    if left:
        yield Finding.of(
            "A404",
            "study",
            f"{networks} networks closest to the base were checked; {len(left)} of {len(every)} cells "
            f"were not: {listed(left, 4)}",
            "audit them by name: ablate audit CELL --grid ...",
        )


def device_memory() -> tuple[int, str]:
    """Memory in bytes of the device that trains, and the device's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    import psutil

    return psutil.virtual_memory().total, "this machine's memory"


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs: `fixed`, plus `each` for every item of a micro-batch."""

    fixed: float
    each: float

    def of(self, batch: int) -> float:
        return self.fixed + self.each * batch


def memory(audited: Subject) -> Memory:
    """Memory of a step: what autograd saves (from batches of 1 and 2), weights, gradients, Adam's moments.

    Measured with short crops and scaled to those of the recipe. Temporary tensors of the backward pass are
    not included.
    """
    if "memory" not in audited.results:
        seconds = audited.crop_seconds
        one, two = (audited.kept(batch, seconds) for batch in (1, 2))
        stretch = audited.recipe.crop_seconds / seconds
        fixed = max(2 * one - two, 0) + 16 * audited.parameters
        audited.results["memory"] = Memory(fixed, max(two - one, 1) * stretch)
    return audited.results["memory"]


def fits(
    cells: Sequence[Cell], *, slots: int = 1, available: int | None = None, trains_here: bool = True
) -> Iterator[Finding]:
    """A402: a step needs more memory than each simultaneous run has on the device.

    The finding is a note if the study trains on another machine.
    """
    total, device = (available, "the device") if available is not None else device_memory()
    told = set()
    for cell in cells:
        recipe = cell.config.recipe
        audited = subject(cell.config.model, recipe)
        micro = -(-recipe.batch_size // recipe.accumulation)
        needed, share = memory(audited).of(micro), total / slots
        if needed <= share or id(audited) in told:
            continue
        told.add(id(audited))
        largest = int((share - memory(audited).fixed) / memory(audited).each)
        possible = (
            f"the largest batch that fits is {largest}" if largest > 0 else "not even a batch of 1 fits"
        )
        pieces = -(-recipe.batch_size // max(largest, 1))
        beside = f" for each of {slots} simultaneous runs" if slots > 1 else ""
        yield Finding.of(
            "A402",
            cell.name,
            f"a step of batch {micro} takes about {needed / 2**30:.2f} GiB, "
            f"{device} has {share / 2**30:.2f}{beside}; {possible}",
            f"--set recipe.accumulation={pieces} splits the step without changing it",
            severity="error" if trains_here else "note",
        )


def slow_scan(cells: Sequence[Cell]) -> Iterator[Finding]:
    """A405: networks with a selective scan for which this machine's GPU has no fused kernel."""
    names = [cell.name for cell in cells if has_scan(subject(cell.config.model, cell.config.recipe).model)]
    if not names or not torch.cuda.is_available():
        return
    backend, reason = choose_backend("cuda")
    if backend == "chunked":
        yield Finding.of(
            "A405",
            listed(names, 4),
            f"the scan uses the backend 'chunked' on CUDA, with ten times as many launches: {reason}",
            "install what Triton needs (a C compiler, or torch's own triton); `ablate doctor` checks it",
        )


def step_seconds(cell: Cell) -> float | None:
    """Seconds of one step of a cell's run, from the audit's own steps; None if the audit took none."""
    recipe = cell.config.recipe
    audited = subject(cell.config.model, recipe)
    measured = audited.training.seconds
    if not measured:
        return None
    work = recipe.batch_size * recipe.crop_seconds / (audited.batch_size * audited.crop_seconds)
    return statistics.median(measured[1:] or measured) * work


def step_bytes(cell: Cell) -> float:
    """Memory of one step of a cell's run, in bytes."""
    recipe = cell.config.recipe
    micro = -(-recipe.batch_size // recipe.accumulation)
    return memory(subject(cell.config.model, recipe)).of(micro)


def hours(cells: Sequence[Cell], *, runs: int | Sequence[RunSpec], slots: int = 1) -> Iterator[Finding]:
    """A403: how long the study takes, from the steps that the audit took.

    Args:
        runs: all runs (their steps may differ from their cell's), or their number.
    """
    total = 0.0
    count = runs if isinstance(runs, int) else len(runs)
    for cell in cells:
        steps, seconds = cell.config.recipe.steps, step_seconds(cell)
        if steps is None or seconds is None:
            return
        if isinstance(runs, int):
            total += seconds * steps * runs / len(cells)
        else:
            total += seconds * sum(run.config.steps or 0 for run in runs if run.cell == cell.name)
    if not isinstance(runs, int):
        names = {cell.name for cell in cells}
        known = sum(run.config.steps or 0 for run in runs if run.cell in names)
        total *= sum(run.config.steps or 0 for run in runs) / max(known, 1)
    if total:
        cores = f"{torch.get_num_threads()} of {os.cpu_count()}"
        yield Finding.of(
            "A403",
            "study",
            f"about {duration(total / slots)} for {plural(count, 'run')}, {slots} at once, without "
            f"validation and scoring; steps were timed on {cores} cores",
            "use fewer seeds or levels, a shorter recipe, or more slots (--jobs, --gpus)",
        )
