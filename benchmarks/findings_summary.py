"""What the studies of docs/findings say together: one table and a few sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from ablate.models.errors import listed, plural
from ablate.reports.formatting import known, signed
from ablate.reports.model import AnalysisReport, EffectRow
from ablate.reports.renderers.markdown import table
from ablate.reports.step_budgets import AtStepBudget, in_steps
from ablate.reports.validation_rank import Agreement
from ablate.training.metrics.registry import METRICS

FAULTS = ("ssm_skip", "dt_init", "clamps")
"""Factors of study B that fix the faults of the network that was trained."""


@dataclass(frozen=True)
class Studies:
    """What is stored of the studies, by their letter.

    Attributes:
        reports: by letter and steps.
        own: the steps that a study is judged at.
        lengths: effects of the studies with several lengths.
        tuned: the learning rate of each cell, of studies that were tuned.
        agreement: of validation and test.
        trainings: signatures, at the studies' own length.
        left: fields that study A leaves untoggled.
    """

    reports: Mapping[tuple[str, int], AnalysisReport]
    own: Mapping[str, int]
    lengths: Mapping[str, Sequence[AtStepBudget]]
    tuned: Mapping[str, Mapping[str, float]]
    agreement: Mapping[str, Agreement | None]
    trainings: Mapping[str, set[str]]
    left: Sequence[str]

    def judged(self, name: str) -> AnalysisReport:
        return self.reports[name, self.own[name]]


def summary(studies: Studies) -> Iterator[str]:
    """The part of the page that precedes the studies."""
    yield "## What came out\n\n"
    yield from _of_the_claims(studies)
    yield from _of_the_others(studies)
    margin = METRICS["pesq_wb"].margin
    yield (
        "Shapley values if every combination of a study was trained, otherwise main effects, each with half "
        "the width of its 95 % interval. The intervals are not corrected for multiple comparisons. "
        f"{_shared(studies.trainings)}A gap is baseline less base, and *unexplained* what the factors leave "
        "of it ([glossary](../glossary.md)). A verdict compares an interval with the claim and a margin "
        f"of {margin:g} ([reading a report](../reading.md)); all verdicts are for this size.\n\n"
    )
    sentences = (
        *_claims(studies),
        *_lengths(studies),
        *_faults(studies),
        *_untoggled(studies),
        *_tuning(studies),
    )
    for line in sentences:
        yield f"- {line}\n"
    yield "\n"


def _claimed(studies: Studies) -> dict[str, str]:
    """What was claimed, by effect."""
    return {
        row.name: row.claimed for report in studies.reports.values() for row in report.factors if row.claimed
    }


def _of_the_claims(studies: Studies) -> Iterator[str]:
    """The effects that were claimed, the unexplained part, and the gap: a row for each study and length."""
    claimed = _claimed(studies)
    rows = [["claimed", *claimed.values(), "", ""]]
    for (name, steps), report in studies.reports.items():
        found = {row.name: row for row in report.rows}
        effects = [_cell(found.get(effect)) for effect in (*claimed, "unexplained", "gap")]
        rows.append([f"{name.upper()}, {steps:,}", *effects])
    yield table(["study, steps", *claimed, "unexplained", "gap"], rows)


def _of_the_others(studies: Studies) -> Iterator[str]:
    """The other factors: a row for each, its effects by length."""
    claimed, lengths = _claimed(studies), sorted({steps for _, steps in studies.reports})
    found: dict[tuple[str, str], dict[int, str]] = {}
    for (name, steps), report in studies.reports.items():
        for row in report.factors:
            if row.name not in claimed:
                found.setdefault((row.name, name.upper()), {})[steps] = _cell(row)
    rows = [[*key, *(effects.get(steps, "") for steps in lengths)] for key, effects in found.items()]
    yield table(["factor", "study", *(in_steps([steps]) for steps in lengths)], rows)


def _cell(row: EffectRow | None) -> str:
    if row is None:
        return ""
    estimate, low, high = (row.data[name] for name in ("estimate", "low", "high"))
    return f"{signed(estimate)} ±{(high - low) / 2:.3f}" if known(low) and known(high) else signed(estimate)


def _shared(trainings: Mapping[str, set[str]]) -> str:
    told = [
        f"{a.upper()} and {b.upper()} {len(both)}"
        for a, b in combinations(trainings, 2)
        if (both := trainings[a] & trainings[b])
    ]
    return f"Studies share runs ({listed(told)}), so equal numbers are one measurement. " if told else ""


def _claims(studies: Studies) -> Iterator[str]:
    judged: dict[str, dict[str, dict[str, list[int]]]] = {}
    for (name, steps), report in studies.reports.items():
        for row in report.factors:
            if row.claimed:
                verdicts = judged.setdefault(f"{row.name} ({row.claimed})", {})
                verdicts.setdefault(verdict(row), {}).setdefault(name.upper(), []).append(steps)
    for claim, verdicts in judged.items():
        told = [
            f"{said} in {listed([f'{name} ({_and(steps)} steps)' for name, steps in names.items()])}"
            for said, names in verdicts.items()
        ]
        yield f"The claim about {claim} is {'; '.join(told)}."


def _lengths(studies: Studies) -> Iterator[str]:
    for name, found in studies.lengths.items():
        others = [row for row in found if row.step_fraction != 1.0]
        if not others:
            continue
        changed = [row.name for row in others if row.differs]
        same = [row.name for row in others if not row.differs]
        told = [f"{what} {listed(names)}" for what, names in (("for", changed), ("not for", same)) if names]
        steps = _and(sorted({row.steps[0] for row in found}))
        yield f"Between {steps} steps a change is shown in study {name.upper()} {' and '.join(told)}."


def _faults(studies: Studies) -> Iterator[str]:
    for (name, steps), report in studies.reports.items():
        rows = [row for row in report.factors if row.name in FAULTS]
        if name != "b" or not rows:
            continue
        told = listed([f"{row.name} {_cell(row)}" for row in rows])
        shown = [row.name for row in rows if row.excludes_zero]
        whether = f"an effect is shown for {listed(shown)}" if shown else "no effect of a fault is shown"
        yield f"Fixing the faults of the trained network, after {steps:,} steps: {told}; {whether}."


def _untoggled(studies: Studies) -> Iterator[str]:
    told = [
        f"{_cell(report.unexplained)} after {steps:,} steps"
        for (name, steps), report in studies.reports.items()
        if name == "a" and report.unexplained is not None
    ]
    if told:
        yield (
            f"The unexplained part in study A is {' and '.join(told)}. All-on and the baseline still differ "
            f"in {listed(studies.left)}; study C switches all of these but the direction, "
            "at the baseline's end."
        )


def _tuning(studies: Studies) -> Iterator[str]:
    if "a" not in studies.own:
        return
    base = studies.judged("a")
    before = {row.name: verdict(row) for row in base.factors}
    for name, rates in studies.tuned.items():
        report = studies.judged(name)
        after = {row.name: verdict(row) for row in report.factors}
        turned = [f"{k} from {before[k]} to {after[k]}" for k in after if after[k] != before[k]]
        told = f"these verdicts change: {', '.join(turned)}" if turned else "no verdict changes"
        yield (
            f"With the learning rate of every cell tuned at an equal budget (study {name.upper()}), {told}. "
            f"At other rates than study A, {_by_rate(base, report, rates)}.{_chosen(studies.agreement[name])}"
        )


def _by_rate(base: AnalysisReport, report: AnalysisReport, rates: Mapping[str, float]) -> str:
    """How the cells that were tuned to a rate changed on the test."""
    was, now = (each.analysis.cells.set_index("cell")["mean"] for each in (base, report))
    told = []
    for rate in sorted(set(rates.values())):
        cells = [cell for cell, chosen in rates.items() if chosen == rate]
        change = fmean(now[cell] - was[cell] for cell in cells)
        told.append(f"{plural(len(cells), 'cell')} at {rate:.2g} by {signed(change)}")
    return f"test scores change on average in {listed(told)}"


def _chosen(found: Agreement | None) -> str:
    if found is None or found.same:
        return ""
    return (
        " Validation does not rank the cells as the test does (a rank correlation of "
        f"{signed(found.correlation, 2)}), so these verdicts depend on its choice."
    )


def verdict(row: EffectRow) -> str:
    """A verdict without what it would take to decide, or whether the effect is negligible too."""
    first, *more = row.verdict.split(" (")[0].split(", ")
    return ", ".join([first, *(word for word in more if word != "negligible")])


def _and(steps: Iterable[int]) -> str:
    return " and ".join(f"{each:,}" for each in steps)
