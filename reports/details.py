"""Tables of a report's later sections: conditions, learning, cost, published results, runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from operator import attrgetter

from ablate.ablations.inference.analysis import records
from ablate.ablations.match import WORDS
from ablate.models.errors import listed
from ablate.studies.scores import RunInfo
from ablate.training.metrics.registry import label_of

from .blocks import Table
from .cost import COSTS, EFFICIENCY, Cost
from .formatting import LABELS, estimate, human, interval, p_value, signed
from .model import AnalysisReport
from .published import CAPTION, CONVENTION, PUBLISHED, PublishedRow

CONDITIONS = {"snr": "By signal-to-noise ratio", "noise": "By noise", "speaker": "By speaker"}


def condition_tables(report: AnalysisReport) -> Iterator[Table]:
    """Tables of base, baseline, gap and main effects within each subset of the test set."""
    ends = [cell for cell in (report.analysis.base_cell, report.analysis.baseline) if cell is not None]
    for column, frame in report.by.items():
        wanted = [("gap", "gap")] if (frame["kind"] == "gap").any() else []
        wanted += [("main", name) for name in dict.fromkeys(frame.loc[frame["kind"] == "main", "name"])]
        head = [LABELS.get(column, column), "utterances", *map(report.short, ends)]
        rows = []
        for value, part in frame.groupby(column, sort=True, observed=True):
            found = {(r["kind"], r["name"]): r for r in records(part)}
            cells = [found.get(("cell", cell)) for cell in ends]
            effects = [found.get(key) for key in wanted]
            rows.append(
                [
                    f"{value:g}" if isinstance(value, float) else str(value),
                    str(part["utterances"].iloc[0]),
                    *("" if row is None else f"{row['estimate']:.3f}" for row in cells),
                    *(
                        "" if row is None else estimate(row["estimate"], row["low"], row["high"])
                        for row in effects
                    ),
                ]
            )
        yield Table(CONDITIONS[column], [*head, *(name for _, name in wanted)], rows)


def convergence_table(report: AnalysisReport) -> Table | None:
    """How soon each cell reaches a threshold of validation PESQ-WB; None without curves."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else form.format(value)

    height = next((found.threshold for found in report.convergence), math.nan)
    return Table.of(
        "Steps to a threshold",
        report.convergence,
        {
            "cell": lambda c: report.short(c.cell),
            "seeds that reached it": lambda c: f"{c.reached} of {c.seeds}",
            "steps to it": lambda c: number(c.steps_to_threshold, "{:,.0f}"),
            "minutes to it": lambda c: number(
                c.seconds_to_threshold and c.seconds_to_threshold / 60, "{:,.1f}"
            ),
            "mean height of the curve": lambda c: f"{c.area:.3f}{number(c.area_sd, ' ± {:.3f}')}",
        },
        caption=f"Threshold: validation PESQ-WB {height:.3f}, nine tenths of the way up to the best of base.",
    )


def matched_table(report: AnalysisReport) -> Table | None:
    """Each factor's effect among cells of free and of equal size; None if the grid does not have both."""
    match = next((f.name for f in report.info.factors if f.paths == {"recipe.match"}), None)
    if match is None:
        return None
    found = records(report.analysis.within(match))
    names = {"free": "at the widths given"} | {level: f"at equal {words}" for level, words in WORDS.items()}
    return Table.of(
        "At free and at equal size",
        found,
        {
            "factor": lambda row: f"{row['name']}, {names.get(row[match], row[match])}",
            "effect": lambda row: signed(row["estimate"]),
            f"{report.percent} interval": lambda row: interval(row["low"], row["high"]),
            "p": lambda row: p_value(row["p"]),
        },
        caption="Main effects among the cells of each kind, not corrected. Cells with the same network in "
        "both share their runs.",
    )


def ranking_table(report: AnalysisReport) -> Table | None:
    """The cells' ranks over endpoint and guardrails; None if fewer than two cells have two seeds."""
    metrics = [report.metric, *map(label_of, dict.fromkeys(report.analysis.guardrails["metric"]))]
    return Table.of(
        "Secondary: ranks of the cells",
        report.analysis.ranking,
        {
            "cell": lambda row: report.short(row.cell),
            "expected rank": lambda row: f"{row.expected_rank:.2f}",
            "P(first)": lambda row: f"{row.first:.3f}",
        },
        caption=f"Over {listed(metrics)}, each with equal weight; 1 is the best rank. Drawn from the t "
        "distributions of the cells' estimates, jointly over the metrics. P(first): probability that "
        "a cell has the best mean rank. Verdicts do not use ranks, because ranks change when a cell "
        "is added or left out.",
        folded=True,
    )


def cost_table(report: AnalysisReport) -> Table | None:
    def told(key: str) -> Callable[[Cost], str]:
        return lambda cost: human(getattr(cost, key), key)

    columns = {"cell": lambda cost: report.short(cost.cell)}
    columns |= {COSTS[key]: told(key) for key in COSTS if key not in EFFICIENCY}
    devices = sorted({device for cost in report.costs for device in cost.devices})
    timed = f"Timed on: {'; '.join(devices)}. Times of runs that shared a machine are upper bounds."
    return Table.of("Cost", report.costs, columns, caption=timed if devices else "")


def published_table() -> Table | None:
    """Published results for reference, which were not measured here."""

    def score(name: str) -> Callable[[PublishedRow], str]:
        return lambda row: "" if (value := getattr(row, name)) is None else f"{value:.2f}"

    names = ("system", "pesq_wb", "csig", "cbak", "covl", "convention", "stoi", "ssnr", "parameters", "note")
    texts = ("system", "convention", "parameters", "note")
    heads = {
        "system": "system (published)",
        "note": "from",
        "convention": "convention",
        "parameters": "parameters",
    }
    columns = {
        heads.get(name) or label_of(name): attrgetter(name) if name in texts else score(name)
        for name in names
    }
    caption = f"{CAPTION} {CONVENTION}"
    return Table.of("Published, not measured here", PUBLISHED, columns, caption=caption, words=("from",))


def runs_table(report: AnalysisReport) -> Table | None:
    columns: dict[str, Callable[[RunInfo], str]] = {
        "cell": lambda run: report.short(run.cell),
        "seed": lambda run: str(run.seed),
        "state": lambda run: run.state if run.scored or run.state != "done" else "done, not scored",
        "training": attrgetter("training"),
        "evaluation": attrgetter("evaluation"),
    }
    return Table.of("Runs", report.info.runs, columns, folded=True)
