"""What the studies of docs/findings say together: one table and a few sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ablate.models.errors import listed
from ablate.reports.forms.markdown import table
from ablate.reports.lengths import AtLength, in_steps
from ablate.reports.model import AnalysisReport, EffectRow
from ablate.reports.text import signed

FAULTS = ("ssm_skip", "dt_init", "clamps")
"""Factors of study B that mend what was wrong in the network that was trained."""


def summary(
    found: Mapping[str, AnalysisReport], lengths: Mapping[str, Sequence[AtLength]], steps: Mapping[str, int]
) -> Iterator[str]:
    """The part of the page that precedes the studies.

    Args:
        found: reports by the letter of their study.
        lengths: effects of the studies with several lengths, by letter.
        steps: of the studies' own lengths, by letter.
    """
    yield "## What came out\n\n"
    columns = {}
    for name, report in found.items():
        columns[f"{name.upper()}, {in_steps([steps[name]])}"] = {
            row.name: (row.data["estimate"], row.data["low"], row.data["high"]) for row in _rows(report)
        }
        for other in (row for row in lengths[name] if row.length != 1.0):
            column = columns.setdefault(f"{name.upper()}, {in_steps(other.steps)}", {})
            column[other.name] = (other.estimate, other.low, other.high)
    claimed = {row.name: row.claimed for report in found.values() for row in report.factors if row.claimed}
    order = list(dict.fromkeys(name for column in columns.values() for name in column))
    order.sort(key=lambda name: (name in ("not toggled", "gap"), name not in claimed))
    yield table(
        ["effect on PESQ-WB", "claimed", *columns],
        [
            [name, claimed.get(name, ""), *(_cell(column.get(name)) for column in columns.values())]
            for name in order
        ],
    )
    yield "Shapley values where every combination of a study was trained, main effects elsewhere, each with "
    yield "half the width of its 95 % interval.\n\n"
    sentences = (*_claims(found), *_lengths(lengths), *_faults(lengths), *_untoggled(found), *_tuning(found))
    for line in sentences:
        yield f"- {line}\n"
    yield "\n"


def _rows(report: AnalysisReport) -> list[EffectRow]:
    return [*report.factors, *filter(None, (report.not_toggled, report.gap))]


def _cell(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return ""
    estimate, low, high = found
    return f"{signed(estimate)} ±{(high - low) / 2:.3f}"


def _claims(found: Mapping[str, AnalysisReport]) -> Iterator[str]:
    judged: dict[str, dict[str, list[str]]] = {}
    for name, report in found.items():
        for row in report.factors:
            if row.claimed:
                by_verdict = judged.setdefault(f"{row.name} ({row.claimed})", {})
                by_verdict.setdefault(_verdict(row), []).append(name.upper())
    for claim, by_verdict in judged.items():
        told = [f"{verdict} in {listed(names)}" for verdict, names in by_verdict.items()]
        yield f"The claim about {claim} is {', '.join(told)}, each at its study's own length."


def _lengths(lengths: Mapping[str, Sequence[AtLength]]) -> Iterator[str]:
    for name, found in lengths.items():
        others = [row for row in found if row.length != 1.0]
        if not others:
            continue
        changed = [row.name for row in others if row.differs]
        same = [row.name for row in others if not row.differs]
        told = [f"{what} {listed(names)}" for what, names in (("for", changed), ("not for", same)) if names]
        yield f"Between the lengths of study {name.upper()} a change is shown {' and '.join(told)}."


def _faults(lengths: Mapping[str, Sequence[AtLength]]) -> Iterator[str]:
    rows = [row for row in lengths.get("b", ()) if row.name in FAULTS]
    for steps in sorted({row.steps for row in rows}):
        mine = [row for row in rows if row.steps == steps]
        told = listed([f"{row.name} {_cell((row.estimate, row.low, row.high))}" for row in mine])
        shown = [row.name for row in mine if row.low > 0 or row.high < 0]
        verdict = f"an effect is shown for {listed(shown)}" if shown else "no effect of a fault is shown"
        yield f"Mending the faults of the trained network, after {in_steps(steps)}: {told}; {verdict}."


def _untoggled(found: Mapping[str, AnalysisReport]) -> Iterator[str]:
    if not {"a", "c"} <= set(found):
        return
    rest, known = found["a"].not_toggled, {row.name for row in found["a"].factors}
    rows = [row for row in found["c"].factors if row.name not in known]
    if rest is not None:
        at = _cell((rest.data["estimate"], rest.data["low"], rest.data["high"]))
        yield f"Not toggled in study A is {at}; C switches its fields at the baseline's end: {_each(rows)}."


def _each(rows: Sequence[EffectRow]) -> str:
    named = [(row.name, _cell((row.data["estimate"], row.data["low"], row.data["high"]))) for row in rows]
    return listed([f"{name} {effect}" for name, effect in named])


def _tuning(found: Mapping[str, AnalysisReport]) -> Iterator[str]:
    if "a" not in found:
        return
    before = {row.name: _verdict(row) for row in found["a"].factors}
    for name in sorted({"d", "e"} & set(found)):
        after = {row.name: _verdict(row) for row in found[name].factors}
        turned = [f"{k} from {before[k]} to {after[k]}" for k in after if after[k] != before[k]]
        told = f"these verdicts turn: {'; '.join(turned)}" if turned else "no verdict turns"
        yield f"With the learning rate of every cell tuned at an equal budget (study {name.upper()}), {told}."


def _verdict(row: EffectRow) -> str:
    """A verdict without what it would take to decide, or whether the effect is negligible."""
    return row.verdict.split(",")[0].split(" (")[0]
