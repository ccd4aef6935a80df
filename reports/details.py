"""Tables of a report's later sections: conditions, learning, cost, published results, runs."""

from __future__ import annotations

from collections.abc import Iterator

from ablate.ablations.inference.analysis import records

from .blocks import Table
from .cost import COSTS
from .formatting import LABELS, estimate, human
from .model import AnalysisReport
from .published import CAPTION, CONVENTION, PUBLISHED

CONDITIONS = {"snr": "By signal-to-noise ratio", "noise": "By noise", "speaker": "By speaker"}


def condition_tables(report: AnalysisReport) -> Iterator[Table]:
    """The reference cells, the gap and the main effects within each subset of the test set."""
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
    """How soon each cell reaches a threshold of validation PESQ-WB."""
    rows = [
        [
            report.short(c.cell),
            f"{c.reached} of {c.seeds}",
            f"{c.steps_to_threshold:,.0f}" if c.steps_to_threshold is not None else "",
            f"{c.seconds_to_threshold / 60:,.1f}" if c.seconds_to_threshold is not None else "",
            f"{c.area:.3f}" + (f" ± {c.area_sd:.3f}" if c.area_sd is not None else ""),
        ]
        for c in report.convergence
    ]
    if not rows:
        return None
    return Table(
        "Steps to a threshold",
        ["cell", "seeds that reached it", "steps to it", "minutes to it", "mean height of the curve"],
        rows,
        f"Threshold: validation PESQ-WB {report.convergence[0].threshold:.3f}, nine tenths of the way up to "
        "the best of base.",
    )


def cost_table(report: AnalysisReport) -> Table | None:
    rows = [
        [report.short(cost.cell), *(human(getattr(cost, key), key) for key in COSTS)] for cost in report.costs
    ]
    devices = sorted({device for cost in report.costs for device in cost.devices})
    timed = f"Timed on: {'; '.join(devices)}. Times of trainings that shared a machine are upper bounds."
    return Table("Cost", ["cell", *COSTS.values()], rows, timed if devices else "") if rows else None


def published_table() -> Table:
    """Reference rows, none of them measured here."""
    head = [
        "system (published)",
        "PESQ-WB",
        "CSIG",
        "CBAK",
        "COVL",
        "convention",
        "STOI",
        "SSNR",
        "parameters",
    ]
    rows = []
    for row in PUBLISHED:
        values = row.pesq_wb, row.csig, row.cbak, row.covl, row.stoi, row.ssnr
        first, *rest = ["" if value is None else f"{value:.2f}" for value in values]
        composites, others = rest[:3], rest[3:]
        rows.append([row.system, first, *composites, row.convention, *others, row.parameters, row.note])
    caption = f"{CAPTION} {CONVENTION}"
    return Table("Published, not measured here", [*head, "from"], rows, caption, words=("from",))


def runs_table(report: AnalysisReport) -> Table:
    rows = [
        [
            report.short(run.cell),
            str(run.seed),
            run.state if run.scored or run.state != "done" else "done, not scored",
            run.training,
            run.evaluation,
        ]
        for run in report.info.runs
    ]
    return Table("Runs", ["cell", "seed", "state", "training", "evaluation"], rows, folded=True)
