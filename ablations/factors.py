"""Factors: named changes of a base configuration, with the claims about their effects.

To add a factor, add an entry to `FACTORS`, or call `register` in a plug-in. With levels, any field of a
configuration is a factor too: `core=lstm,mamba`, `recipe.clip=1,5`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.fields import parse_value
from ablate.models.registry import suggestion
from ablate.training.config import check_path, config_paths, is_path, open_paths

from .claims import Claim, claim_target, effect_name
from .scale import Conditions

LEVEL = re.compile(r"[A-Za-z0-9_.:+\-]+")


class Factor(Frozen):
    """A factor with named levels, each a set of changes of the base. The first level is off.

    Attributes:
        levels: level -> {dotted path: value}.
        claims: claimed gains of a level over the first. If several are about one level and metric, the first
            is the study's own.
        declares: level -> properties of a network at that level (`looks_ahead`, `mixes_bands`: true or false;
            `decoder_expansion`: ratio of the decoder's hidden width to its input). The audit probes them.
        own: whether the paths are overrides of a training command.
    """

    name: str
    own: bool = False
    levels: dict[str, dict[str, Any]]
    claims: tuple[Claim, ...] = ()
    declares: dict[str, dict[str, bool | float]] = Field(default_factory=dict)

    @field_validator("levels")
    @classmethod
    def _paths_exist(
        cls, levels: dict[str, dict[str, Any]], info: ValidationInfo
    ) -> dict[str, dict[str, Any]]:
        for level, delta in levels.items():
            if not LEVEL.fullmatch(level):
                raise InputError(
                    f"level {level!r} not valid; use letters, digits, '.', '_', ':', '+' and '-'"
                )
            for path in () if info.data.get("own") else delta:
                check_path(path)
        return levels

    @field_validator("claims")
    @classmethod
    def _say_their_level(cls, claims: tuple[Claim, ...], info: ValidationInfo) -> tuple[Claim, ...]:
        if "levels" not in info.data:
            return claims
        stated = [claim.on(info.data["name"], list(info.data["levels"])) for claim in claims]
        if len({(claim.level, claim.metric, claim.source) for claim in stated}) < len(stated):
            raise InputError("one source has two claims for the same level and metric; give only one")
        return tuple(stated)

    def with_claim(self, claim: Claim) -> Factor:
        """This factor with a claim that replaces those on its level and metric.

        Raises:
            InputError: the claim's level is missing or unknown.
        """
        stated = claim.on(self.name, list(self.levels))
        kept = [c for c in self.claims if (c.level, c.metric) != (stated.level, stated.metric)]
        return self.model_copy(update={"claims": (*kept, stated)})

    @property
    def off(self) -> str:
        return next(iter(self.levels))

    @property
    def paths(self) -> set[str]:
        """The dotted paths of the fields that this factor changes; for a mapping, one for each key."""
        named: set[str] = set()
        for delta in self.levels.values():
            for path, value in delta.items():
                named |= {f"{path}.{key}" for key in value} if isinstance(value, dict) else {path}
        return named

    @property
    def evaluation_only(self) -> bool:
        """Whether the factor only changes the evaluation, so its levels share their runs."""
        return not self.own and all(path.startswith("evaluation.") for path in self.paths)

    def at(self, levels: list[str]) -> Factor:
        """This factor with some of its levels, in the order given.

        Raises:
            InputError: a level is unknown or given twice, or there is only one.
        """
        for level in levels:
            if level not in self.levels:
                raise InputError(
                    f"factor {self.name!r} has no level {level!r}{suggestion(level, self.levels)}"
                )
        if len(set(levels)) != len(levels):
            raise InputError(f"factor {self.name!r}: a level is given twice in {', '.join(levels)}")
        if len(levels) < 2:
            raise InputError(
                f"factor {self.name!r} needs at least two levels, got {', '.join(levels) or 'none'}"
            )
        claims = tuple(c for c in self.claims if levels[0] == self.off and c.level in levels)
        return self.model_copy(
            update={"levels": {level: self.levels[level] for level in levels}, "claims": claims}
        )


_REPORT = "the report that attributed the gap 3.00 -> 2.62 PESQ"
_OF_REPORT = Conditions(parameters=(2_139_920, 5_153_040), steps=(28_930, 231_440), corpus="VoiceBank+DEMAND")
"""Network sizes from all off to all on; steps from 15 epochs, where the gap was read, to the recipe's 120."""


def _reported(low: float, high: float) -> Claim:
    return Claim(low=low, high=high, source=_REPORT, conditions=_OF_REPORT)


FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor(
            name="bidirectional",
            levels={"off": {"model.direction": "uni"}, "on": {"model.direction": "bi"}},
            claims=(_reported(0.2, 0.3),),
            declares={"off": {"looks_ahead": False}, "on": {"looks_ahead": True}},
        ),
        Factor(
            name="decoder4x",
            levels={"off": {"model.decoder_expansion": 2}, "on": {"model.decoder_expansion": 4}},
            claims=(_reported(0.1, 0.2),),
            declares={"off": {"decoder_expansion": 2}, "on": {"decoder_expansion": 4}},
        ),
        Factor(
            name="crossband",
            levels={
                "off": {"model.crossband": "pointwise", "model.crossband_layers": 1},
                "on": {"model.crossband": "bilstm", "model.crossband_layers": 1},
            },
            claims=(_reported(0.05, 0.1),),
            declares={"off": {"mixes_bands": False}, "on": {"mixes_bands": True}},
        ),
        Factor(
            name="pcs",
            levels={
                "off": {"evaluation.post_processing": "none"},
                "on": {"evaluation.post_processing": "pcs"},
            },
        ),
        Factor(
            name="discriminator",
            levels={"off": {"recipe.adversarial_weight": 0.0}, "on": {"recipe.adversarial_weight": 1.0}},
        ),
    )
}


def register(factor: Factor) -> None:
    """Add a factor, as a plug-in does.

    Raises:
        InputError: another factor has that name.
    """
    known = FACTORS.get(factor.name)
    if known is not None and known != factor:
        raise InputError(f"factor {factor.name!r} exists already; choose another name")
    FACTORS[factor.name] = factor


def with_claims(factors: Iterable[Factor], claims: Iterable[tuple[str, Claim]]) -> tuple[Factor, ...]:
    """Factors with the given claims (effect name and claim, as from `parse_claim`) in place of their own.

    Raises:
        InputError: a claim's factor is unknown or its level missing, or an effect has two claims.
    """
    found = {factor.name: factor for factor in factors}
    levels = {name: list(factor.levels) for name, factor in found.items()}
    stated: set[tuple[str, str, str]] = set()
    for name, claim in claims:
        factor, level = claim_target(name, levels)
        if (factor, level, claim.metric) in stated:
            raise InputError(f"{effect_name(factor, level, levels[factor])!r} has two claims; give only one")
        stated.add((factor, level, claim.metric))
        found[factor] = found[factor].with_claim(claim.model_copy(update={"level": level}))
    return tuple(found.values())


def with_further(factors: Iterable[Factor], claims: Iterable[tuple[str, Claim]]) -> tuple[Factor, ...]:
    """Factors with additional claims of others, by factor, after their own.

    They replace earlier claims from the same sources.

    Raises:
        InputError: a claim's level is missing or unknown.
    """
    claims, found = list(claims), []
    for factor in factors:
        more = [claim.on(name, list(factor.levels)) for name, claim in claims if name == factor.name]
        theirs = {(claim.level, claim.metric, claim.source) for claim in more}
        kept = [c for c in factor.claims if (c.level, c.metric, c.source) not in theirs]
        found.append(factor.model_copy(update={"claims": (*kept, *more)}))
    return tuple(found)


def every_claim(factors: Iterable[Factor], metric: str) -> list[tuple[str, Claim]]:
    """The claims in one metric, by effect name."""
    return [
        (effect_name(factor.name, str(claim.level), list(factor.levels)), claim)
        for factor in factors
        for claim in factor.claims
        if claim.metric == metric
    ]


def claims_on(factors: Iterable[Factor], metric: str) -> dict[str, Claim]:
    """The study's own claims in one metric by effect name: the first of each."""
    found: dict[str, Claim] = {}
    for name, claim in every_claim(factors, metric):
        found.setdefault(name, claim)
    return found


def field_path(name: str) -> str | None:
    """The dotted path that a factor's name means: the name itself, or the only field or key of that name."""
    if is_path(name):
        return name
    short, dot, key = name.partition(".")
    named = [path for path in (open_paths() if dot else config_paths()) if path.split(".")[1] == short]
    return f"{named[0]}{dot}{key}" if len(named) == 1 and bool(key) == bool(dot) else None


def find(name: str, levels: list[str] | None = None) -> Factor:
    """The factor of a name, at the given levels (default: its first two).

    Raises:
        InputError: the name or a level is unknown, or a field's levels are missing.
    """
    known = FACTORS.get(name)
    if known is not None and (levels is None or set(levels) <= set(known.levels)):
        return known.at(levels if levels is not None else list(known.levels)[:2])
    path = field_path(name)
    if path is None:
        if known is not None and levels is not None:
            known.at(levels)
        named = dict.fromkeys([*FACTORS, *map(_field, config_paths())])
        raise InputError(f"unknown factor {name!r}{suggestion(name, named)}")
    if levels is None:
        raise InputError(f"factor {name!r} is a field and needs levels, e.g. {name}=a,b")
    field = Factor(
        name=name, levels={level: {path: parse_value(level)} for level in dict.fromkeys(levels)} or {}
    )
    return field.at(levels)


def _field(path: str) -> str:
    name = path.split(".")[1]
    return name if field_path(name) else path
