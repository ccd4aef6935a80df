"""Tables of effects, guardrail metrics and cells, ready to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from ablate.ablations.inference.analysis import records
from ablate.ablations.inference.guardrails import changes
from ablate.ablations.inference.units import FEWEST, ByUnit
from ablate.models.errors import plural
from ablate.training.metrics.registry import label_of

from .blocks import Table
from .cost import COSTS, EFFICIENCY
from .formatting import estimate, human, interval, known, p_value, signed, span
from .model import AnalysisReport
from .slopes import PER
from .step_budgets import in_steps

TICK, CROSS = "✓", "✗"
CENTRED = "centred by seed"
UNITS = {"speaker": "{} speakers", "noise": "{} noises"}


def effects_table(report: AnalysisReport) -> Table | None:
    """The main table: a row per factor, then the unexplained part and the gap."""
    return Table.of(
        "",
        report.rows,
        {
            "factor": lambda row: report.named(row.name),
            report.credit_kind: attrgetter("estimate"),
            f"{report.percent} interval": attrgetter("interval"),
            "claimed": attrgetter("claimed"),
            "verdict": attrgetter("verdict"),
            "add-one": attrgetter("add_one"),
            "leave-one-out": attrgetter("leave_one_out"),
            "P(improvement)": attrgetter("p_higher"),
            "parameters": attrgetter("parameters"),
            CENTRED: attrgetter("blocked"),
        },
        closing=len(report.rows) - len(report.factors),
        words=("verdict",),
        spare=(CENTRED, "parameters", "P(improvement)", "add-one", "leave-one-out", "claimed"),
    )


def mains_table(report: AnalysisReport) -> Table | None:
    """The main effects, with a test of whether they vary between seeds more than the rest of the grid."""
    rows = [
        [report.named(r.name), r.estimate, r.interval, p_value(r.data.get("p_holm")), r.blocked, _f(r.data)]
        for r in report.mains
    ]
    head = ["factor", "main effect", f"{report.percent} interval", "p (Holm)", CENTRED, "F seed x factor (p)"]
    caption = (
        f"{CENTRED}: a secondary interval, which removes what runs of one seed share. If F is large, the "
        "effect differs between seeds and this interval is too narrow."
    )
    return (
        Table("Main effects", head, rows, caption if any(row[-1] for row in rows) else "") if rows else None
    )


def _f(row: Mapping[str, Any]) -> str:
    f, p = row.get("seed_f"), row.get("seed_p")
    return f"{f:.1f} ({p_value(p)})" if known(f) and known(p) else ""


def interactions_table(report: AnalysisReport) -> Table | None:
    columns = {"factors": "name", "estimate": "estimate", f"{report.percent} interval": "interval"}
    found = {head: attrgetter(name) for head, name in columns.items()}
    return Table.of("Two-way interactions", report.interactions, found)


def units_table(report: AnalysisReport) -> Table | None:
    """How much each effect depends on single test speakers or noises; None if scores do not name them."""

    def without(row: ByUnit) -> str:
        return f"{estimate(row.without_estimate, row.without_low, row.without_high)} ({row.without})"

    return Table.of(
        "By speaker and noise: how much an effect depends on one",
        report.analysis.by_unit,
        {
            "effect": attrgetter("name"),
            "over": lambda row: UNITS[row.column].format(row.units),
            "smallest": lambda row: f"{signed(row.least)} ({row.least_in})",
            "largest": lambda row: f"{signed(row.most)} ({row.most_in})",
            "without one": without,
            "secondary: for others": lambda row: interval(row.others_low, row.others_high),
        },
        caption="Single speakers or noises of the test set. Without one: the speaker or noise whose removal "
        f"brings the effect closest to zero. Secondary: a {report.percent} interval for other speakers or "
        f"noises of the same kind, from {FEWEST} on; the other intervals are for these.",
        words=("over",),
    )


def pooled_table(report: AnalysisReport) -> Table | None:
    """The gap and the main effects under the pooled crossed model."""
    return Table.of(
        "Secondary: the pooled crossed model",
        [row for row in records(report.analysis.pooled) if row["kind"] in ("gap", "main")],
        {
            "contrast": itemgetter("name"),
            "kind": itemgetter("kind"),
            "estimate": lambda row: signed(row["estimate"]),
            f"{report.percent} interval": lambda row: interval(row["low"], row["high"]),
        },
        caption="It assumes the same variance over seeds in every cell. The tables above do not.",
        folded=True,
    )


def guardrails_table(report: AnalysisReport) -> Table | None:
    """The effects in the endpoint and in each guardrail; None without guardrails."""
    analysis = report.analysis
    if analysis.guardrails.empty:
        return None
    found = {(row["metric"], row["name"]): row for row in records(analysis.guardrails)}
    metrics = list(dict.fromkeys(analysis.guardrails["metric"]))
    mine = report.rows
    rows = []
    for row in mine:
        beside = [found.get((metric, row.data["name"])) for metric in metrics]
        if any(beside):
            own = dict(row.data, change=_change(report.direction, row.data))
            rows.append([report.named(row.name), *(_effect(effect) for effect in (own, *beside))])
    return Table(
        "Endpoint and guardrails",
        ["factor", report.metric, *map(label_of, metrics)],
        rows,
        f"{report.credit_kind}s with {report.percent} intervals; better and worse where they exclude zero. "
        "Guardrail metrics are not part of the Holm family, and claims are not tested on them.",
    )


def test_sets_table(report: AnalysisReport) -> Table | None:
    """The effects on each test set; None if there is only one."""
    corpora = [corpus for corpus in report.test_sets if not corpus.problem]
    if not corpora:
        return None
    first = report.test_name
    head = ["factor", f"{first} (first)"]
    for corpus in corpora:
        head += [corpus.name, f"{first} - {corpus.name}", "together"]
    found = [{(row["kind"], row["name"]): row for row in records(corpus.effects)} for corpus in corpora]
    rows = []
    for effect in report.rows:
        beside = [rows_of.get((effect.kind, effect.data["name"])) for rows_of in found]
        if not any(beside):
            continue
        line = [effect.name, f"{effect.estimate} {effect.interval}".strip()]
        for row in beside:
            line += _on_corpus(row)
        rows.append(line)
    return Table(
        "By test set",
        head,
        rows,
        f"{report.credit_kind}s in {report.metric} with {report.percent} intervals. Verdicts, the Holm "
        f"family and every other table use {first}, the first test set, unless a column names another. "
        "Agrees: the difference is within the margin, by two one-sided tests. Differs: its interval "
        "excludes zero. Turns round, same sign: the intervals of both effects exclude zero, on opposite "
        "sides or on the same. Open: none of these.",
    )


def _on_corpus(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    return [
        estimate(row["estimate"], row["low"], row["high"]),
        estimate(row["difference"], row["difference_low"], row["difference_high"]),
        row["words"],
    ]


def claims_table(report: AnalysisReport) -> Table | None:
    """Every claim with its source, conditions and verdict; None without claims."""
    return Table.of(
        "Claims",
        report.judged,
        {
            "effect": lambda row: report.named(row.name),
            "claimed": lambda row: span(row.low, row.high),
            f"here, {report.percent} interval": lambda row: estimate(
                row.estimate, row.estimate_low, row.estimate_high
            ),
            "verdict": attrgetter("verdict"),
            "claimed of": lambda row: row.conditions or "this study's",
            "by": attrgetter("source"),
        },
        caption="Published figures are as published, not measured here; each claim is tested separately.",
        words=("verdict", "claimed of", "by"),
        spare=("by", "claimed of"),
    )


def slopes_table(report: AnalysisReport) -> Table | None:
    """How fast the effects still change at the end; None without usable curves."""
    return Table.of(
        "Effects at the end of the training",
        [slope for slope in report.slopes if not slope.why],
        {
            "effect": attrgetter("name"),
            f"slope, validation PESQ-WB per {PER} steps": attrgetter("rate"),
            f"{report.percent} interval": attrgetter("spread"),
        },
        caption="The contrast of the runs' own slopes over the last third of the steps (at least the last "
        "three validations); above zero, it was still rising.",
    )


def lengths_table(report: AnalysisReport) -> Table | None:
    """The effects by step budget, and how they change; None if there is only one."""
    found = report.by_step_budget
    fractions = sorted({row.step_fraction: row for row in found}.items())
    if not fractions:
        return None
    rows = []
    for name in dict.fromkeys(row.name for row in found):
        mine = {row.step_fraction: row for row in found if row.name == name}
        shown = [mine.get(fraction) for fraction, _ in fractions]
        changed = [row for row in shown if row is None or row.step_fraction != 1.0]
        rows.append(
            [
                name,
                *("" if r is None else estimate(r.estimate, r.low, r.high) for r in shown),
                *("" if r is None else estimate(r.change, r.change_low, r.change_high) for r in changed),
            ]
        )
    return Table(
        "Effects by step budget",
        [
            "effect",
            *(f"{fraction:g}: {in_steps(row.steps)}" for fraction, row in fractions),
            *(
                f"{max(1.0, fraction):g} less {min(1.0, fraction):g}"
                for fraction, _ in fractions
                if fraction != 1.0
            ),
        ],
        rows,
        f"{report.credit_kind}s in {report.metric} with {report.percent} intervals, of the "
        f"{plural(found[0].utterances, 'test utterance')} that every step budget has; each budget was "
        "trained separately. The last column is the effect at the larger of two budgets minus that at "
        "the smaller.",
    )


def _change(direction: int, row: Mapping[str, Any]) -> str:
    if not (known(row["low"]) and known(row["high"])):
        return ""
    return changes(direction, np.array([row["low"]]), np.array([row["high"]]))[0]


def _effect(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['change']} {estimate(row['estimate'], row['low'], row['high'])}".strip()


def cells_table(report: AnalysisReport, wide: bool = True) -> Table:
    """A row for each cell: its factors, and each metric's mean and SD over seeds with the mean's interval.

    Args:
        wide: whether to add columns for factors and guardrails; else only the endpoint, with cells by name.
    """
    analysis = report.analysis
    cells = records(analysis.cells)
    factors = list(analysis.levels) if wide else []
    head = ["cell", *(_factor_head(report, factor) for factor in factors), "runs"]
    rows = [
        [
            report.short(row["cell"]) if wide else _name(report, row["cell"]),
            *(_level(report, factor, row[factor]) for factor in factors),
            str(row["runs"]),
        ]
        for row in cells
    ]
    bold = set()
    shown = list(_scores(report))[: None if wide else 1]
    for label, _, by_cell, best in shown:
        for index, row in enumerate(cells):
            found = by_cell.get(row["cell"])
            if found is not None and row["cell"] == best:
                bold.add((index, len(head)))
            rows[index] += _mean(found)
        head += [f"{label}, mean ± SD", f"{report.percent} interval"]
    spent = {cost.cell: cost for cost in report.costs} if wide else {}
    for key in EFFICIENCY:
        if any(getattr(cost, key) is not None for cost in spent.values()):
            head.append(COSTS[key])
            for index, row in enumerate(cells):
                rows[index].append(human(getattr(spent.get(row["cell"]), key, None), key))
    caption = (
        f"Mean and SD over runs, and the interval of the mean. Bold: the best, if the {report.percent} "
        "interval of its difference to the runner-up excludes zero."
    )
    if report.ensembles:
        caption += " Seed ensemble: the averaged outputs of a cell's runs, an upper bound."
    if named := sorted({name for cost in spent.values() for name in cost.processors}):
        caption += f" Real-time factor: processor time of one thread of {', '.join(named)}."
    beside = [
        (
            f"{report.short(average.cell) if wide else _name(report, average.cell)}, seed ensemble",
            str(average.seeds),
            average.means,
        )
        for average in report.ensembles
    ]
    beside.append(("noisy input, unprocessed", "", report.noisy_input))
    for name, seeds, means in beside:
        if analysis.metric in means:
            line = [name, *[""] * len(factors), seeds]
            for _, metric, _, _ in shown:
                line += [f"{means[metric]:.3f}" if metric in means else "", ""]
            rows.append(line + [""] * (len(head) - len(line)))
    return Table("Cells", head, rows, caption, frozenset(bold))


def _scores(report: AnalysisReport) -> Iterator[tuple[str, str, dict[str, dict[str, Any]], str | None]]:
    """(label, metric, cells by name, best cell) for the endpoint on each test set, and for each guardrail.

    On extra test sets the metric is "".
    """
    analysis = report.analysis
    yield report.metric, analysis.metric, {row["cell"]: row for row in records(analysis.cells)}, analysis.best
    for corpus in report.test_sets:
        if not corpus.problem:
            cells = {row["cell"]: row for row in records(corpus.cells)}
            yield f"{report.metric} on {corpus.name}", "", cells, corpus.best
    for metric, part in analysis.guardrail_cells.groupby("metric", sort=False):
        rows = records(part)
        yield (
            label_of(str(metric)),
            str(metric),
            {row["cell"]: row for row in rows},
            next((row["cell"] for row in rows if row["best"]), None),
        )


def _factor_head(report: AnalysisReport, factor: str) -> str:
    """The factor's name; if its levels are not off and on, with the level that a tick stands for."""
    levels = report.analysis.levels[factor]
    return factor if len(levels) > 2 or set(levels) == {"off", "on"} else f"{factor}={levels[-1]}"


def _level(report: AnalysisReport, factor: str, level: str) -> str:
    levels = report.analysis.levels[factor]
    if not level or len(levels) > 2:
        return level
    return CROSS if level == levels[0] else TICK


def _name(report: AnalysisReport, cell: str) -> str:
    named = cell == report.analysis.baseline and cell != report.baseline_name
    return f"{cell} ({report.baseline_name})" if named else cell


def _mean(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["", ""]
    spread = f" ± {row['sd']:.3f}" if known(row["sd"]) else ""
    return [f"{row['mean']:.3f}{spread}", interval(row["low"], row["high"]).replace("+", "")]
