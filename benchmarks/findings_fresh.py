"""What the studies with fresh seeds say of those before them: a part of the pages of docs/findings.

Study F repeats A and G repeats C, with seeds that chose nothing. H has eight times the steps of F, and I
twice its width. Each part is written from what is stored, and left out while it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from findings_summary import verdict

from ablate.ablations.inference.analysis import records
from ablate.ablations.inference.contrasts import weight_matrix
from ablate.ablations.inference.engine import holm
from ablate.models.errors import listed, plural
from ablate.reports.figures.style import CYCLE, LINES, make_canvas, style
from ablate.reports.formatting import interval, known, signed
from ablate.reports.model import AnalysisReport, EffectRow
from ablate.reports.renderers.markdown import table
from ablate.reports.step_budgets import AtStepBudget, by_step_budget
from ablate.training.metrics.registry import label_of

REPEATS = {"a": "f", "c": "g"}
"""Study -> the same with fresh seeds."""
FRESH = (*REPEATS.values(), "h", "i")
FIGURE = "effects-by-size.svg"

MOST = 1.1
"""Variance between seeds over its prediction, up to which centring by seed is right."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Fresh:
    """What is stored of the studies, by letter and steps.

    Attributes:
        reports: in PESQ-WB of P.862.2.
        others: the same in PESQ-WB of P.862.2 Corrigendum 2, where it was measured.
        widths: of the networks, by letter.
        left: fresh studies and step budgets that are not stored yet, in words.
    """

    reports: Mapping[Key, AnalysisReport]
    others: Mapping[Key, AnalysisReport]
    widths: Mapping[str, float]
    left: Sequence[str]

    def fresh(self) -> dict[Key, AnalysisReport]:
        return {key: report for key, report in self.reports.items() if key[0] in FRESH}


def parts(found: Fresh, figures: Path) -> Iterator[str]:
    """All parts that have their studies; the figure is drawn beside the others."""
    if not found.fresh():
        return
    yield "## The answer again, with fresh seeds\n\n"
    yield from _repeated(found)
    yield from _centred(found)
    yield from _speakers(found)
    yield from _two_measures(found)
    yield from _larger(found, figures)


def _title(key: Key) -> str:
    return f"{key[0].upper()}, {key[1]:,}"


def _repeated(found: Fresh) -> Iterator[str]:
    """Each effect as it was measured first and again, with the difference and its interval."""
    rows, differ, turned, count = [], [], [], 0
    for (name, steps), first in found.reports.items():
        again = found.reports.get((REPEATS.get(name, ""), steps))
        if again is None:
            continue
        verdicts = {row.name: verdict(row) for row in again.rows}
        for change in _changes(first, {2.0: again.scores}, (steps, steps)):
            count += 1
            before = next(row for row in first.rows if row.name == change.name)
            rows.append(
                [
                    change.name,
                    f"{name.upper()} and {REPEATS[name].upper()}, {steps:,}",
                    signed(change.estimate - change.change),
                    f"{signed(change.estimate)} {interval(change.low, change.high)}",
                    f"{signed(change.change)} {interval(change.change_low, change.change_high)}",
                ]
            )
            if change.differs:
                differ.append(f"{change.name} ({name.upper()}, {steps:,} steps)")
            if before.claimed and verdict(before) != verdicts[change.name]:
                turned.append(
                    f"{change.name} ({name.upper()}, {steps:,} steps: {verdict(before)} before, "
                    f"{verdicts[change.name]} now)"
                )
    if not rows:
        return
    yield "Study F repeats A, and G repeats C, with seeds 4 to 8. No choice was made with these seeds.\n\n"
    yield table(["effect", "studies, steps", "seeds 1 to 3", "seeds 4 to 8", "change, interval"], rows)
    shown = f"these exclude zero: {listed(differ)}" if differ else "none excludes zero"
    yield f"Of {plural(count, 'change')}, {shown}; {count / 20:.1f} are expected by chance. "
    yield f"Verdicts that change: {listed(turned) if turned else 'none'}.\n\n"


def _changes(
    first: AnalysisReport, others: Mapping[float, pd.DataFrame], steps: tuple[int, int]
) -> list[AtStepBudget]:
    """The effects of other scores of the same cells, and how they differ from the first's."""
    found = by_step_budget(
        first.analysis,
        {1.0: first.scores, **others},
        lambda fraction: (steps[fraction != 1.0],),
        first.shown,
    )
    return [row for row in found if row.step_fraction != 1.0]


def _centred(found: Fresh) -> Iterator[str]:
    """What centring by seed predicts of the variance between seeds, beside what there is."""
    rows, variances, significant = [], [], []
    for key, report in found.fresh().items():
        mains = report.analysis.kind("main")
        p_holm = holm(mains["seed_p"].to_numpy(float))
        for place, effect in enumerate(records(mains)):
            of_seeds = _variances(report, str(effect["name"]))
            if of_seeds is None:
                continue
            variances.append(of_seeds)
            between, *predicted = of_seeds
            if known(p_holm[place]) and p_holm[place] < 0.05:
                significant.append(f"{effect['name']} in {_title(key)}")
            halves = _halves(report, str(effect["name"]))
            rows.append(
                [
                    str(effect["name"]),
                    _title(key),
                    *(f"{between / each:.2f}" for each in predicted),
                    f"{effect['seed_f']:.2f}",
                    f"{p_holm[place]:.3f}",
                    halves or "",
                ]
            )
    if not rows:
        return
    yield "### What centring by seed buys\n\n"
    yield (
        "The variance of a main effect between seeds, over what the interval centred by seed and the "
        "ordinary one (Welch) predict for it; F of seed x factor with its p, corrected by Holm within a "
        "study; and the effect with the later half of the seeds less that with the earlier half.\n\n"
    )
    yield table(
        ["effect", "study, steps", "over centred", "over Welch", "F", "p (Holm)", "later less earlier half"],
        rows,
    )
    between, centred, _ = np.sum(variances, 0)
    ratio = between / centred
    holds = ratio <= MOST and not significant
    yield (
        f"Over all {plural(len(rows), 'effect')}, the variance is {ratio:.2f} of what the centred interval "
        f"predicts. Seed x factor is significant for {listed(significant) or 'none'}. By a rule that was set "
        "beforehand, the centred interval becomes the main one if this ratio is at most "
        f"{MOST} and no factor is significant. "
    )
    if found.left:
        yield (
            f"It {'holds' if holds else 'does not hold'} so far; "
            f"what is left ({listed(found.left)}) decides. Until then the interval stays secondary.\n\n"
        )
    else:
        yield f"It {'holds' if holds else 'does not hold, so the interval stays secondary'}.\n\n"


def _variances(report: AnalysisReport, name: str) -> tuple[float, float, float] | None:
    """Variance of a main effect between seeds, and as predicted, centred and Welch; none: not all seeds."""
    scores = report.analysis.scores
    kept = scores.scored()
    (contrast,) = (c for c in report.analysis.contrasts if (c.kind, c.name) == ("main", name))
    (weights,) = weight_matrix([contrast], [scores.cells[i] for i in kept])
    inside = np.array([bool(scores.cell_levels[scores.cells[i]]) for i in kept])
    means = scores.values[kept].mean(-1)[:, scores.present[kept].all(0)]
    if means.shape[1] < 3 or inside.sum() < 4:
        return None
    grid, w = means[inside], weights[inside]
    between = (w @ grid).var(ddof=1)
    rest = grid - grid.mean(0) - grid.mean(1, keepdims=True) + grid.mean()
    cells, seeds = grid.shape
    centred = (rest**2).sum() / ((cells - 1) * (seeds - 1)) * (w**2).sum()
    welch = (w**2 * grid.var(1, ddof=1)).sum()
    return between, centred, welch


def _halves(report: AnalysisReport, name: str) -> str | None:
    """A main effect with the later half of the seeds less that with the earlier half."""
    seeds = sorted(report.scores["seed"].unique())
    early, late = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    if len(early) < 2:
        return None
    at = {1.0: report.scores["seed"].isin(early), 2.0: report.scores["seed"].isin(late)}
    found = by_step_budget(
        report.analysis,
        {share: report.scores[rows] for share, rows in at.items()},
        lambda _: (0,),
        [("main", name)],
    )
    later = [row for row in found if row.step_fraction != 1.0]
    if not later:
        return None
    return f"{signed(later[0].change)} {interval(later[0].change_low, later[0].change_high)}"


def _speakers(found: Fresh) -> Iterator[str]:
    rows, carried = [], []
    for key, report in found.fresh().items():
        for unit in report.analysis.by_unit:
            if unit.column != "speaker":
                continue
            rows.append(
                [
                    unit.name,
                    _title(key),
                    f"{signed(unit.least)} ({unit.least_in}) to {signed(unit.most)} ({unit.most_in})",
                    f"{unit.without}: {signed(unit.without_estimate)} "
                    f"{interval(unit.without_low, unit.without_high)}",
                    interval(unit.others_low, unit.others_high),
                ]
            )
            if unit.carried:
                carried.append(f"{unit.name} in {_title(key)} ({unit.without})")
    if not rows:
        return
    yield "### Speakers\n\n"
    yield table(
        [
            "effect",
            "study, steps",
            "within a speaker",
            "without the speaker that matters most",
            "other speakers",
        ],
        rows,
    )
    told = f"One speaker carries {listed(carried)}" if carried else "No effect depends on one speaker"
    yield f"{told}. The last column is an interval for other speakers of the same kind.\n\n"


def _two_measures(found: Fresh) -> Iterator[str]:
    rows, turned = [], []
    for key, report in found.fresh().items():
        other = found.others.get(key)
        if other is None:
            continue
        there = {row.name: row for row in other.rows}
        for row in report.rows:
            if row.name not in there:
                continue
            both = (row, there[row.name])
            rows.append([row.name, _title(key), *(f"{each.estimate} {each.interval or ''}" for each in both)])
            if row.claimed and verdict(both[0]) != verdict(both[1]):
                turned.append(f"{row.name} in {_title(key)} ({verdict(both[0])}; {verdict(both[1])})")
    if not rows:
        return
    yield "### Two PESQs\n\n"
    yield table(["effect", "study, steps", label_of("pesq_wb"), label_of("pesq_wb_c2")], rows)
    yield f"Verdicts that differ between the two: {listed(turned) if turned else 'none'}.\n\n"


def _larger(found: Fresh, figures: Path) -> Iterator[str]:
    """Effects against steps and width, and what the cheap study would have predicted."""
    sizes = {key: r for key, r in found.fresh().items() if key[0] != "g"}
    cheap = found.reports.get(("f", 200))
    if cheap is None or len(sizes) < 3:
        return
    yield "### Longer and larger\n\n"
    _figure(found, sizes, figures / FIGURE)
    yield f"![Effects against steps and width](figures/{FIGURE})\n\n"
    rows, missed, turned = [], [], []
    before = {row.name: row for row in cheap.rows}
    kinds = ("gap", "main", "interaction")
    for key, report in sizes.items():
        if key == ("f", 200):
            continue
        wanted = [(c.kind, c.name) for c in cheap.analysis.contrasts if c.kind in kinds]
        changes = by_step_budget(
            cheap.analysis,
            {1.0: cheap.scores, 2.0: report.scores},
            lambda fraction, steps=key[1]: (steps if fraction != 1.0 else 200,),
            wanted,
        )
        of_key = [row for row in changes if row.step_fraction != 1.0]
        for row in of_key:
            rows.append(
                [
                    row.name,
                    _size(found, key),
                    signed(row.estimate - row.change),
                    signed(row.estimate),
                    f"{signed(row.change)} {interval(row.change_low, row.change_high)}",
                ]
            )
        if of_key:
            worst = max(of_key, key=lambda row: abs(row.change))
            rms = float(np.sqrt(np.mean([row.change**2 for row in of_key])))
            missed.append(
                f"for {_size(found, key)}, {worst.name} by {signed(worst.change)} (root mean square of "
                f"{plural(len(of_key), 'contrast')} {rms:.3f})"
            )
        turned += [
            f"{row.name} at {_size(found, key)} ({verdict(before[row.name])} before, {verdict(row)} there)"
            for row in report.rows
            if row.claimed and row.name in before and verdict(before[row.name]) != verdict(row)
        ]
    yield (
        "What study F says after 200 steps, as a prediction for longer trainings and wider networks. The "
        "contrasts are the gap, the main effects and the interactions of the grid:\n\n"
    )
    yield table(["contrast", "steps, width", "after 200 steps", "there", "change, interval"], rows)
    yield f"The largest miss is {listed(missed)}. "
    yield f"Verdicts that change: {listed(turned) if turned else 'none'}.\n\n"


def _size(found: Fresh, key: Key) -> str:
    return f"{key[1]:,} steps, width {found.widths[key[0]]:g}"


def _figure(found: Fresh, sizes: Mapping[Key, AnalysisReport], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [row.name for row in next(iter(sizes.values())).rows if row.interval]
    with style(path.stem):
        canvas, axes = make_canvas(7.0, 3.6)
        for place, name in enumerate(names):
            for line, width in zip(LINES, sorted({found.widths[key[0]] for key in sizes}), strict=False):
                _line(axes, found, sizes, name, width, CYCLE[place], line)
        axes.axhline(0.0, linewidth=0.8, color="black")
        axes.set_xscale("log", base=2)
        ticks = sorted({steps for _, steps in sizes})
        axes.set_xticks(ticks, [f"{each:,}" for each in ticks])
        axes.set_xlabel("steps")
        axes.set_ylabel(f"effect on {label_of('pesq_wb')}")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        canvas.savefig(path, facecolor="white", metadata={"Date": None}, bbox_inches="tight")


def _line(
    axes: Any,
    found: Fresh,
    sizes: Mapping[Key, AnalysisReport],
    name: str,
    width: float,
    colour: str,
    line: str,
) -> None:
    points: Sequence[tuple[int, EffectRow]] = sorted(
        (
            (steps, row)
            for (letter, steps), report in sizes.items()
            if found.widths[letter] == width
            for row in report.rows
            if row.name == name and row.interval
        ),
        key=lambda point: point[0],
    )
    if not points:
        return
    estimates = np.array([row.data["estimate"] for _, row in points])
    ends = np.array([[row.data["low"], row.data["high"]] for _, row in points])
    axes.errorbar(
        [steps for steps, _ in points],
        estimates,
        yerr=np.abs(ends.T - estimates),
        color=colour,
        linestyle=line,
        marker="o",
        markersize=4,
        capsize=2,
        label=f"{name}, width {width:g}",
    )
