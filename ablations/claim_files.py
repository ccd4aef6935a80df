"""Claims by others, tested next to a study's own: published claims, or those in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.training.metrics.registry import find_metric

from .claims import Claim, claim_of
from .factors import FACTORS, Factor, field_path
from .published import published_claims
from .scale import Conditions

KEYS = ("claim", "source", "metric", "conditions")
PUBLISHED = "published"


def claims_from(place: str, factors: Iterable[Factor], metric: str) -> list[tuple[str, Claim]]:
    """The published claims, or those of a YAML file, on these factors, by factor.

    A file maps a factor's name to `{claim, source, metric, conditions}`, all but the first optional. Other
    factors are ignored.

    Args:
        place: `published` or a path.
        metric: metric of the claims that do not name one.

    Raises:
        InputError: the file does not exist, a factor or key is unknown, or a value is not valid.
    """
    factors = list(factors)
    if place == PUBLISHED:
        return list(published_claims(factors))
    path = Path(place)
    if not path.is_file():
        raise InputError(f"--claims {place}: no such file; give {PUBLISHED!r} or a YAML file of claims")
    data = read_yaml(path, yaml.BaseLoader)
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: a claims file must map factors to {', '.join(KEYS)}")
    mine = {factor.name: factor for factor in factors}
    found = []
    for name, body in data.items():
        if name not in mine and name not in FACTORS and field_path(name) is None:
            raise InputError(f"{path}: no factor {name!r}{suggestion(name, [*mine, *FACTORS])}")
        stated = list(claims_in(name, body, f"{path.name}", metric))
        if name in mine:
            found += [(name, claim.on(name, list(mine[name].levels))) for claim in stated]
    return found


def read_yaml(path: Path, loader: type[yaml.BaseLoader] | type[yaml.SafeLoader]) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: the file is not YAML; the message names the line.
    """
    try:
        return yaml.load(path.read_text(), loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{path}{at}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def claims_in(name: str, body: Any, source: str, metric: str) -> list[Claim]:
    """The claims in a factor's `{claim, source, metric, conditions}`; `claim` is a pair, or `{level: pair}`.

    Raises:
        InputError: a key is unknown or a value is not valid.
    """
    if not isinstance(body, Mapping):
        raise InputError(f"factor {name!r}: expected a mapping with {', '.join(KEYS)}, got {body!r}")
    if unknown := sorted({*map(str, body)} - {*KEYS}):
        raise InputError(f"factor {name!r}: unknown keys {', '.join(unknown)}; known: {', '.join(KEYS)}")
    if "claim" not in body:
        if body:
            raise InputError(f"factor {name!r}: {', '.join(body)} needs a claim; add claim: [low, high]")
        return []
    metric = find_metric(str(body.get("metric", metric))).name
    conditions = Conditions.read(body["conditions"], name) if "conditions" in body else None
    stated = body["claim"]
    found = []
    for level, ends in stated.items() if isinstance(stated, Mapping) else [(None, stated)]:
        try:
            low, high = map(float, ends if isinstance(ends, list | tuple) else ())
        except (TypeError, ValueError):
            raise InputError(f"claim for {name!r}: expected a pair [low, high], got {ends!r}") from None
        claim = claim_of(name, low, high, str(body.get("source", source)), metric)
        found.append(claim.model_copy(update={"level": level, "conditions": conditions}))
    return found
