"""What a study could resolve before it is trained: `inference.power` with a grid and a pilot study."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd

from ablate.ablations.inference.power import Variances, compare_designs, plan, plan_table
from ablate.models.errors import InputError

if TYPE_CHECKING:
    from ablate.ablations.factors import Factor

    from .collect import StudyInfo

FORMATS = ("table", "csv", "json")


@dataclass(frozen=True)
class Outlook:
    """Smallest detectable effects.

    Attributes:
        table: a row per number of seeds and effect, as `inference.power.plan` gives it.
        designs: a row per design, as `inference.power.compare_designs` gives it; none without an effect.
        variances: what was planned with, and `source` where it is from.
        hours: per training; none: unknown.
    """

    table: pd.DataFrame
    designs: pd.DataFrame | None
    variances: Variances
    source: str
    design: str
    effect: float | None
    power: float
    hours: float | None


def outlook(
    factors: Sequence[Factor],
    seeds: Sequence[int],
    *,
    pilot: tuple[Path | str, str] | None = None,
    effect: float | None = None,
    design: str = "full",
    baseline: bool = True,
    power: float = 0.8,
    metric: str | None = None,
) -> Outlook:
    """Smallest detectable effects of a grid for each number of seeds.

    Args:
        factors: of the grid; those that only change the evaluation need no training of their own.
        seeds: numbers of seeds per cell.
        pilot: (root, study) whose variances and times to plan with; none: typical ones.
        effect: compare the designs that find a main effect of this size.

    Raises:
        InputError: power is not a probability, or there is no such pilot or it cannot tell how much trainings
            vary.
    """
    if not 0 < power < 1:
        raise InputError(f"power {power} is not between 0 and 1")
    hours, source, variances = None, "typical values, no pilot", Variances()
    if pilot is not None:
        from .build import report_of_study

        report = report_of_study(*pilot, metric=metric)
        variances = Variances.of(report.analysis)
        hours = hours_per_run(report.info)
        source = f"pilot {report.info.name}, {report.metric}"
    levels = {factor.name: tuple(factor.levels) for factor in factors}
    evaluation_only = [
        factor.name
        for factor in factors
        if all(path.startswith("evaluation.") for delta in factor.levels.values() for path in delta)
    ]
    common: dict[str, Any] = {
        "variances": variances,
        "baseline": baseline,
        "evaluation_only": evaluation_only,
        "power": power,
        "hours": hours,
    }
    table = plan(levels, seeds, design=design, **common)
    designs = compare_designs(levels, effect, **common) if effect is not None else None
    return Outlook(table, designs, variances, source, design, effect, power, hours)


def hours_per_run(info: StudyInfo) -> float | None:
    """Median hours of a training of a study; None where nothing was timed."""
    seconds = [
        run.summary["seconds_per_step"] * steps
        for run in info.runs
        if run.summary.get("seconds_per_step") and (steps := run.steps or run.step)
    ]
    return median(seconds) / 3600 if seconds else None


def write_outlook(found: Outlook, format: str, out: TextIO) -> None:
    """Print an outlook as a table, CSV (a row per number of seeds and effect) or JSON.

    Raises:
        InputError: another format.
    """
    if format == "csv":
        found.table.to_csv(out, index=False, lineterminator="\n")
    elif format == "json":
        v = found.variances
        document = {
            "schema": "ablate.plan",
            "version": 1,
            "design": found.design,
            "power": found.power,
            "source": found.source,
            "hours_per_run": found.hours,
            "variances": {
                "seed": v.seed,
                "residual": v.residual,
                "utterance_cell": v.utterance_cell,
                "utterances": v.utterances,
                "by_cell": dict(v.by_cell),
            },
            "effects": _records(found.table),
            "effect": found.effect,
            "designs": _records(found.designs) if found.designs is not None else None,
        }
        json.dump(document, out, indent=1, allow_nan=False)
        out.write("\n")
    elif format == "table":
        _print(found, out)
    else:
        raise InputError(f"a plan is printed as {', '.join(FORMATS)}, not {format!r}")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records"))


def _print(found: Outlook, out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, highlight=False, width=None if out.isatty() else 132)
    v = found.variances
    console.print(
        f"Smallest effects that a {found.design} design finds with probability {found.power:g} "
        "(two-sided, 0.05)",
        markup=False,
        style="bold",
    )
    console.print(
        f"Planned with: {found.source}: seed SD {v.seed:.3f}, residual {v.residual:.3f}, "
        f"{v.utterances:,} test utterances",
        markup=False,
    )
    wide = plan_table(found.table)
    _table(console, wide if found.hours is not None else wide.drop(columns="hours"), Table, box)
    if found.designs is not None:
        console.print(
            f"Designs that find a main effect of {found.effect:g} in every factor", style="bold", markup=False
        )
        frame = found.designs if found.hours is not None else found.designs.drop(columns="hours")
        _table(console, frame, Table, box)


def _table(console: Any, frame: pd.DataFrame, kind: Any, box: Any) -> None:
    table = kind(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in frame.columns:
        words = name in ("design", "note")
        table.add_column(str(name).replace("_", " "), justify="left" if words else "right")
    for row in frame.to_dict("records"):
        table.add_row(*(_text(str(name), value) for name, value in row.items()))
    console.print(table)


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
