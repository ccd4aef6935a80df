"""The scale of a claim, and how a study's scale differs: network size, steps, corpus."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from ablate.models.config import Frozen
from ablate.models.errors import InputError, readable

KEYS = ("parameters", "steps", "corpus")
"""Keys of the conditions in a file of claims."""
NEAR = 0.1
"""Largest relative difference at which a number counts as equal to a claim's."""
DEMO = "no verdict"
NO_MARGIN = "no margin"
REACHES_NOTHING = "reaches nothing here"
ELSEWHERE = "at this size"
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_COUNT = re.compile(r"([\d_,]+(?:\.\d+)?(?:e\d+)?)\s*([kmg]?)", re.IGNORECASE)


def _count(value: Any) -> float:
    """A number above zero from a text such as `2139920` or `2.3M`.

    Raises:
        InputError: the text is not such a number.
    """
    match = _COUNT.fullmatch(str(value).strip())
    try:
        found = float(re.sub("[_,]", "", match[1])) * _UNITS[match[2].lower()] if match else math.nan
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"{value!r} is not a number above zero; write e.g. 2.3M, or 2.1M..2.5M")
    return found


def _span(value: Any) -> Any:
    """(low, high) from a number, `low..high` or a pair."""
    if isinstance(value, str) and ".." in value:
        value = value.split("..")
    ends = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(ends) != 2:
        raise InputError(f"{value!r} is not a number or a pair of numbers")
    low, high = map(_count, ends)
    if low > high:
        raise InputError(f"{low:g} is above {high:g}")
    return low, high


Span = Annotated[tuple[float, float], BeforeValidator(_span)]


class Conditions(Frozen):
    """The conditions of a claim. Missing ones count as equal to those of the study that tests it.

    Attributes:
        parameters: smallest and largest size of the compared networks.
        steps: smallest and largest number of training steps.
        corpus: name of the corpus; any copy of VoiceBank+DEMAND counts as the same.
        unstated: whether missing conditions are unknown instead, so that every study differs from them.
    """

    parameters: Span | None = None
    steps: Span | None = None
    corpus: str | None = None
    unstated: bool = False

    @classmethod
    def read(cls, fields: Any, of: str) -> Conditions:
        """Conditions of the claim for `of` from a file.

        Raises:
            InputError: a key is unknown or a value is not valid.
        """
        if not isinstance(fields, Mapping):
            raise InputError(f"conditions of the claim for {of!r}: expected some of {', '.join(KEYS)}")
        if unknown := sorted({*map(str, fields)} - {*KEYS}):
            raise InputError(
                f"conditions of the claim for {of!r}: unknown keys {', '.join(unknown)}; "
                f"known: {', '.join(KEYS)}"
            )
        with readable(f"conditions of the claim for {of!r}: "):
            return cls.model_validate(dict(fields))

    def __str__(self) -> str:
        """The conditions as a table prints them; empty if there are none."""
        parts = []
        for span, unit in ((self.parameters, "parameters"), (self.steps, "steps")):
            if span is not None:
                parts.append(f"{_spelled(span)} {unit}")
            elif self.unstated:
                parts.append(f"{unit} not stated")
        return ", ".join([*parts, *filter(None, [self.corpus])])


class Setting(Frozen):
    """The scale of a study.

    Attributes:
        parameters, steps: smallest and largest value among its toggled networks; None if not known.
        trained_on, tested_on: names of the corpora.
    """

    parameters: Span | None
    steps: Span | None
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    is_demo: bool = False

    def differs(self, claimed: Conditions | None) -> list[str]:
        """A clause for each difference from the conditions of a claim."""
        if claimed is None:
            return []
        found = []
        for name in ("parameters", "steps"):
            theirs, mine = getattr(claimed, name), getattr(self, name)
            here = _spelled(mine) if mine else "an unknown number of"
            if theirs is None and claimed.unstated:
                found.append(f"{here} {name} instead of a number not stated")
            elif theirs is not None and not (
                mine and mine[0] >= theirs[0] / (1 + NEAR) and mine[1] <= theirs[1] * (1 + NEAR)
            ):
                found.append(f"{here} {name} instead of {_spelled(theirs)}")
        if claimed.corpus is not None:
            splits = {"training": self.trained_on, "test": self.tested_on}
            wanted = _plain(claimed.corpus)
            others = {s: names[0] for s, names in splits.items() if wanted not in map(_plain, names)}
            if len(set(others.values())) == 1 and len(others) == len(splits):
                found.append(f"{others['test']} instead of {claimed.corpus}")
            else:
                found += [f"{name} for {s} instead of {claimed.corpus}" for s, name in others.items()]
        return found

    def verdict(self, verdict: str, claimed: Conditions | None) -> str:
        """The verdict on a claim, marked if the claim's scale differs; without meaning on the demo corpus."""
        if self.is_demo:
            return DEMO
        judged = verdict not in ("", NO_MARGIN, REACHES_NOTHING)
        return f"{ELSEWHERE}: {verdict}" if judged and self.differs(claimed) else verdict


def _plain(corpus: str) -> str:
    return re.sub("[^a-z0-9]", "", corpus.lower())


def _spelled(span: tuple[float, float]) -> str:
    low, high = (f"{end:,.0f}" for end in span)
    return low if low == high else f"{low} to {high}"
