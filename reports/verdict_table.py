"""The verdict on every claim of a report, and the conditions of each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.ablations.inference.verdicts import judge
from ablate.ablations.scale import DEMO, NO_MARGIN, REACHES_NOTHING
from ablate.studies.analysis import setting_of

if TYPE_CHECKING:
    from ablate.ablations.claims import Claim
    from ablate.ablations.inference.analysis import Analysis

    from .sources import StudyInfo


@dataclass(frozen=True)
class Judged:
    """A claim with its conditions, the estimate, and how the study `differs` from the conditions.

    The verdict is `undecided` if there is no interval, and `no margin` if there is no margin.
    """

    name: str
    low: float
    high: float
    source: str
    conditions: str
    differs: tuple[str, ...]
    estimate: float
    estimate_low: float
    estimate_high: float
    verdict: str


def judged(analysis: Analysis, info: StudyInfo, claims: Sequence[tuple[str, Claim]]) -> list[Judged]:
    """The verdict on each claim whose effect the analysis has."""
    effects, estimates = analysis.effects, analysis.estimates
    half = estimates.half_width(analysis.confidence)
    equivalence = estimates.half_width(max(2 * analysis.confidence - 1, 0.0))
    setting = setting_of(info.plan) if info.plan is not None else None
    credited = {
        name: index for index, name in zip(analysis.credit.index, analysis.credit["name"], strict=True)
    }
    mains = effects[effects["kind"] == "main"]
    rows = dict(zip(mains["name"], mains.index, strict=True)) | credited
    found = []
    for name, claim in claims:
        if name not in rows:
            continue
        i = rows[name]
        if not estimates.estimable[i]:
            verdict = "undecided"
        elif name in analysis.void:
            verdict = REACHES_NOTHING
        elif analysis.margin is None:
            verdict = NO_MARGIN
        else:
            verdict = judge(claim, estimates.value[i], half[i], equivalence[i], analysis.margin)
        differs: list[str] = []
        if setting is not None:
            verdict = setting.verdict(verdict, claim.conditions)
            differs = setting.differs(claim.conditions)
        value = float(estimates.value[i])
        found.append(
            Judged(
                name,
                claim.low,
                claim.high,
                claim.source,
                str(claim.conditions or ""),
                tuple(differs),
                value,
                value - float(half[i]),
                value + float(half[i]),
                verdict,
            )
        )
    return found


def claim_lines(found: Sequence[Judged], *, of_a_study: bool) -> list[str]:
    """Limits of the verdicts as sentences."""
    if any(row.verdict == DEMO for row in found):
        return ["Claims are not tested on the demo corpus."]
    if not of_a_study:
        known = dict.fromkeys(row.conditions for row in found if row.conditions)
        return (
            [f"The claims were made for {'; '.join(known)}; it is not known whether these scores match that."]
            if known
            else []
        )
    alike: dict[tuple[str, ...], list[Judged]] = {}
    for row in found:
        if row.differs:
            alike.setdefault(row.differs, []).append(row)
    return [
        f"At this size: the claims about {', '.join(dict.fromkeys(row.name for row in rows))} "
        f"({'; '.join(dict.fromkeys(row.source for row in rows))}) were made for other networks, steps or "
        f"data: this study has {', '.join(differs)}."
        for differs, rows in alike.items()
    ]
