"""Endpoints, and claimed effects in a metric's unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.training.metrics.registry import METRICS, find_metric

from .scale import Conditions


class Endpoint(Frozen):
    """The metric to compare, declared before training.

    Attributes:
        metric: name of a metric in `METRICS`, measured on the test set.
        margin: the smallest difference that matters, in the metric's unit. Default: the metric's own. If the
            metric does not have one, there are no verdicts.
    """

    metric: str = "pesq_wb"
    margin: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_margin(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and fields.get("margin") is None:
            return {**fields, "margin": margin_of(fields.get("metric", "pesq_wb"))}
        return fields

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        return find_metric(metric).name

    @field_validator("margin")
    @classmethod
    def _positive(cls, margin: float | None) -> float | None:
        return None if margin is None else check_margin(margin)


class Claim(Frozen):
    """A claimed effect: a level minus its factor's first level, in the metric's unit.

    Attributes:
        low, high: the claimed range.
        source: who claimed it, and where.
        metric: the only metric on which the claim is tested.
        level: the level; default, for a factor of two levels: the second.
        conditions: network size, steps and corpus of the claim. Default: those of the study that tests it.
    """

    low: float
    high: float
    source: str = "user"
    metric: str = "pesq_wb"
    level: str | None = None
    conditions: Conditions | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Claim:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise InputError(f"{self.low:g} to {self.high:g} is not a range")
        if self.low > self.high:
            raise InputError(f"low {self.low:g} is above high {self.high:g}")
        return self

    def on(self, factor: str, levels: Sequence[str]) -> Claim:
        """This claim with its level filled in; raises InputError as `claim_target`."""
        name = factor if self.level is None else f"{factor}={self.level}"
        return self.model_copy(update={"level": claim_target(name, {factor: levels})[1]})


def margin_of(metric: str) -> float | None:
    """A metric's default for the smallest difference that matters; None if unknown."""
    return METRICS[metric].margin if metric in METRICS else None


def unit_of(metric: str) -> str:
    """The unit of a metric; empty if the metric is unknown or does not have a unit."""
    return METRICS[metric].unit if metric in METRICS else ""


def direction_of(metric: str, given: Mapping[str, str] = MappingProxyType({})) -> int:
    """1 if higher is better, -1 if lower is.

    Args:
        given: metric -> `higher` or `lower`, for metrics that are not registered.

    Raises:
        InputError: the direction is unknown, not valid, or contradicts the registry.
    """
    said = given.get(metric)
    if said not in (None, "higher", "lower"):
        raise InputError(f"direction of {metric}: {said!r} is not valid; say what is better: higher or lower")
    known = {True: "higher", False: "lower"}[METRICS[metric].higher_is_better] if metric in METRICS else None
    if said is None and known is None:
        raise InputError(
            f"it is not known whether higher or lower {metric!r} is better, because it is not a "
            f"registered metric; give --direction {metric}=lower (from Python direction={{{metric!r}: "
            "'lower'}), or =higher"
        )
    if known not in (None, said or known):
        raise InputError(f"direction of {metric}: {said} contradicts the registry, where {known} is better")
    return 1 if (said or known) == "higher" else -1


def check_margin(margin: float) -> float:
    """Raise InputError if a margin is negative or not finite."""
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(f"margin {margin} is negative; it is the smallest difference that matters")
    return margin


def parse_claim(text: str, metric: str = "pesq_wb", source: str = "user") -> tuple[str, Claim]:
    """Effect name and claim from `FACTOR=LOW..HIGH` or `FACTOR=LEVEL=LOW..HIGH`.

    Raises:
        InputError: the text has another form, or low is above high.
    """
    name, _, bounds = text.strip().rpartition("=")
    low, dots, high = bounds.partition("..")
    try:
        if not (name and dots):
            raise ValueError
        found = float(low), float(high)
    except ValueError:
        raise InputError(
            f"claim {text!r} is not valid; write FACTOR=LOW..HIGH, e.g. bidirectional=0.2..0.3, or "
            "FACTOR=LEVEL=LOW..HIGH"
        ) from None
    return name, claim_of(name, *found, source=source, metric=metric)


def claim_of(name: str, low: float, high: float, source: str = "", metric: str = "pesq_wb") -> Claim:
    """A claim on the effect `name`; raises InputError if it is not a range."""
    try:
        return Claim(low=low, high=high, source=source, metric=metric)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"claim for {name!r}: {message}") from None


def claim_target(name: str, levels: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The factor and level of a claim's name, `factor` or `factor=level`.

    `levels` gives each factor's levels, off first.

    Raises:
        InputError: the factor or level is unknown, the level is the first one, or the name lacks the level of
            a factor with several.
    """
    factor, _, level = (name, "", "") if name in levels else name.rpartition("=")
    if factor not in levels:
        raise InputError(f"claim for {name!r}: no such factor{suggestion(factor or name, levels)}")
    off, *others = levels[factor]
    if not level:
        if len(others) > 1:
            raise InputError(
                f"claim for {name!r} needs a level of the {len(others) + 1}, e.g. {factor}={others[0]}"
            )
        return factor, others[0]
    if level not in others:
        why = "not a level of this factor"
        if level == off:
            why = "the off level, with which the others are compared"
        raise InputError(f"claim for {name!r}: {level!r} is {why}; there are {', '.join(others)}")
    return factor, level


def effect_name(factor: str, level: str, levels: Sequence[str]) -> str:
    """An effect's name: the factor's name if it has two levels, else `factor=level`."""
    return factor if len(levels) == 2 else f"{factor}={level}"


def named_claims(
    claims: Iterable[tuple[str, Claim]], levels: Mapping[str, Sequence[str]]
) -> dict[str, Claim]:
    """Claims by effect name.

    Raises:
        InputError: as `claim_target`, or an effect has two claims.
    """
    found: dict[str, Claim] = {}
    for name, claim in claims:
        factor, level = claim_target(name, levels)
        effect = effect_name(factor, level, levels[factor])
        if effect in found:
            raise InputError(f"{effect!r} has two claims; give only one")
        found[effect] = claim
    return found
