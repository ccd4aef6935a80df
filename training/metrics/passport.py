"""How a number was measured, so that only numbers measured alike are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ablate.models.errors import InputError

from .registry import METRICS, with_version

KEY = "passport"
"""In the `attrs` of the scores of one run, which Parquet keeps: metric -> its passport."""
OF_RUNS = "passports"
"""In the `attrs` of a study's scores, for each set: `{"passports": {metric: passport}, "runs": [names]}`."""
SHOWN = 3
"""The most runs that a difference names."""


def passports(names: Iterable[str], rates: Iterable[int] = ()) -> dict[str, dict[str, str]]:
    """The passport of each metric of this project, for files at `rates` in Hz; other columns have none."""
    resampled = ", ".join(str(rate) for rate in sorted({*rates} - {16_000}))
    return {
        name: {
            "standard": METRICS[name].standard or METRICS[name].label,
            "packages": ", ".join(map(with_version, METRICS[name].packages or ("ablate",))),
            "resampled": f"from {resampled} Hz by {with_version('soxr')} (HQ)" if resampled else "no",
            "broken output": f"counts as {METRICS[name].floor:g}",
        }
        for name in names
        if name in METRICS
    }


def described(passport: Mapping[str, str]) -> str:
    """A passport in words; an empty one is unknown."""
    if not passport:
        return "not known: the scores have no passport"
    resampled = passport["resampled"]
    return ", ".join(
        (
            passport["standard"],
            passport["packages"],
            "files at 16 kHz" if resampled == "no" else f"files resampled {resampled}",
            f"a broken output {passport['broken output']}",
        )
    )


def passport_of(attrs: Mapping[Any, Any], metric: str) -> dict[str, str]:
    """The passport of a metric in the scores of a study or of one table; empty if no run has one.

    Raises:
        InputError: runs were measured in different ways.
    """
    sets = attrs.get(OF_RUNS, [{"passports": attrs.get(KEY, {}), "runs": []}])
    found = [(s["passports"].get(metric), s["runs"]) for s in sets]
    known = [(passport, runs) for passport, runs in found if passport]
    lines = []
    for field in dict.fromkeys(field for passport, _ in known for field in passport):
        values = {str(passport.get(field)): runs for passport, runs in known}
        if len(values) > 1:
            lines.append(" and ".join(f"{value} ({', '.join(runs)}, ...)" for value, runs in values.items()))
    if lines:
        raise InputError(
            "\n  ".join([f"{metric} was computed in different ways and cannot be compared:", *lines])
            + "\nDelete or move the scores/ folders of these runs, then run the same `ablate run` again to "
            "score them."
        )
    return known[0][0] if known else {}
