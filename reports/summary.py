"""Summarises the answer of a study in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.ablations.inference.analysis import records
from ablate.training.metrics.registry import in_words

from .model import AnalysisReport, EffectRow

MOST = 5
"""Maximum number of effects to name, largest first."""


def answer(report: AnalysisReport) -> str:
    """What explains the gap and what does not, in words.

    An effect counts as shown if it is significant under Holm's procedure over the effects, the gap and the
    unexplained part.
    """
    name, label = report.analysis.metric, in_words(report.analysis.metric)
    gap, rest = report.gap, report.unexplained
    better = "" if report.direction > 0 else " (lower is better)"
    void = report.analysis.void
    factors = [row for row in report.factors if row.data["name"] not in void]
    rows = [row for row in factors if row.name == row.data["name"]]
    judged = [row for row in rows if row.interval]
    if not judged and (gap is None or not gap.interval):
        return (
            f"Without intervals, no difference in {label} can be established: single runs differ by chance."
        )
    shown = sorted((row for row in judged if row.shown), key=lambda row: -abs(row.data["estimate"]))
    open_ = [row.name for row in judged if row not in shown]
    effects = _listed([f"{report.named(row.name)} {_round(row)}" for row in shown])
    unseen = f"no effect of {_listed(open_)} is shown" if open_ else ""
    if gap is None or not gap.interval:
        told = f"switched on, {in_words(name, effects)}{better}" if effects else ""
    elif not gap.shown:
        told = f"no gap in {label}{better} between {report.base_name} and {report.baseline_name} is shown"
        told += f"; switched on, {effects}" if effects else ""
    else:
        size = in_words(name, f"{abs(float(gap.data['estimate'])):.2f}")
        side = "above" if gap.data["estimate"] > 0 else "below"
        told = f"of the {size} by which {report.baseline_name} is {side} {report.base_name}{better}, "
        if report.credit_kind == "Shapley value":
            told += f"{effects} come from the factors" if effects else "no factor is shown to explain a part"
            told += f"; {_round(rest)} is unexplained" if rest and rest.shown else ""
            told += "; no unexplained remainder is shown" if rest and not rest.shown else ""
        else:
            told += "this design cannot show how much each factor explains"
            told += f"; switched on, {effects}" if effects else ""
    between = [row for row in factors if row not in rows and row.shown]
    more = _listed([f"{row.data['name']} {_round(row)}" for row in between])
    parts = (
        told,
        f"at intermediate levels, {more}" if more else "",
        _costs(report, [*shown, *between]),
        _elsewhere(report),
        unseen,
        f"{_listed(list(void))} reaches nothing here" if void else "",
    )
    sentence = "; ".join(filter(None, parts))
    return f"{sentence[0].upper()}{sentence[1:]}."


def _costs(report: AnalysisReport, shown: Sequence[EffectRow]) -> str:
    """The cost in guardrail metrics of effects that improve the endpoint."""
    up = report.direction
    gains = [row.data["name"] for row in shown if up * row.data["estimate"] > 0]
    costs: dict[str, list[str]] = {}
    for row in records(report.analysis.guardrails):
        if row["name"] in gains and row["change"] == "worse":
            lost = in_words(row["metric"], f"{abs(row['estimate']):.2f}")
            costs.setdefault(row["name"], []).append(lost)
    told = _listed([f"{name} costs {_listed(lost)}" for name, lost in costs.items()])
    return f"but {told}" if told else ""


def _elsewhere(report: AnalysisReport) -> str:
    """Effects that differ on an extra test set."""
    told = []
    for corpus in report.test_sets:
        words = dict(corpus.words())
        for word, several in (("turns round", "turn round"), ("differs", "differ")):
            effects = [name for name in words.get(word, []) if name not in ("gap", "unexplained")]
            if effects:
                verb = word if len(effects) == 1 else several
                told.append(f"on {corpus.name}, {_listed(effects)} {verb}")
    return _listed(told)


def _round(row: EffectRow) -> str:
    return f"{float(row.data['estimate']):+.2f}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > MOST:
        names = [*names[:MOST], f"{len(names) - MOST} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
