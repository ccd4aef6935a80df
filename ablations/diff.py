"""Differences between two configurations, and whether a grid's factors cover them. Does not need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from ablate.models.config import Frozen
from ablate.training.config import RunConfig

from .factors import FACTORS, LEVEL, Factor, field_path
from .grid import Config

Group = Literal["toggled", "consequence", "not toggled"]


class Difference(Frozen):
    """A field in which two configurations differ.

    Attributes:
        group: `toggled` by a factor of the grid, a `consequence` of another field, or `not toggled`.
        why: the factor, the deciding field, or why no factor covers it.
    """

    path: str
    a: Any
    b: Any
    group: Group
    why: str = ""


def differences(
    a: Config, b: Config, factors: Sequence[Factor] = (), defaults: Mapping[str, Any] = MappingProxyType({})
) -> list[Difference]:
    """Every field in which two configurations differ, except bookkeeping, by group.

    A factor toggles a field if its levels include both values.
    """
    first, second = {**defaults, **a.flat()}, {**defaults, **b.flat()}
    found = []
    for path in {**first, **second}:
        old, new = first.get(path, a.ABSENT), second.get(path, b.ABSENT)
        if old == new or a.marks_of(path).bookkeeping:
            continue
        group, why = _group(path, a, b, first, second, factors)
        found.append(Difference(path=path, a=old, b=new, group=group, why=why))
    order: dict[str, int] = {"toggled": 0, "consequence": 1, "not toggled": 2}
    return sorted(found, key=lambda d: order[d.group])


def _group(
    path: str,
    first: Config,
    second: Config,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    factors: Sequence[Factor],
) -> tuple[Group, str]:
    if by := _toggles(path, a.get(path, first.ABSENT), b.get(path, second.ABSENT), factors):
        return "toggled", by
    reads = first.is_active(path), second.is_active(path)
    if not all(reads):
        section = path.split(".")[0]
        deciding = [f"{section}.{condition.field}" for condition in first.marks_of(path).conditions]
        if not any(reads):
            return "consequence", " ".join(["neither uses it", *(f"({field})" for field in deciding[:1])])
        which = "only the first" if reads[0] else "only the second"
        decides = next((field for field in deciding if a.get(field) != b.get(field)), None)
        if decides is not None:
            if _toggles(decides, a.get(decides), b.get(decides), factors):
                return "consequence", f"{which} uses it; {decides} is toggled"
            return "not toggled", f"{which} uses it; it depends on {decides}"
    fixing = [f for f in factors if path in f.paths]
    if fixing:
        levels = sorted({repr(d[path]) for f in fixing for d in f.levels.values() if path in d})
        return "not toggled", f"{fixing[0].name} only sets it to {', '.join(levels)}"
    return "not toggled", ""


def _toggles(path: str, a: Any, b: Any, factors: Sequence[Factor]) -> str:
    """The factor that has both values of a field among its levels; empty if there is none."""
    for factor in factors:
        if path in factor.paths:
            values = [_plain(delta.get(path, a)) for delta in factor.levels.values()]
            if _plain(a) in values and _plain(b) in values:
                return factor.name
    return ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def propose(
    base: RunConfig,
    baseline: RunConfig,
    factors: Sequence[Factor] = (),
    *,
    base_name: str = "mbsnet",
    baseline_name: str = "bsrnn",
) -> str:
    """An `ablate run` command line whose factors cover every difference between base and baseline.

    A factor whose levels lack the baseline's value of a field is replaced by its fields. Fields that cannot
    be written as a level are left out.
    """
    open_ = [d for d in differences(base, baseline, factors) if d.group == "not toggled"]
    open_ = [d for d in open_ if "depends on" not in d.why]
    blocking = {f.name for f in factors for d in open_ if d.path in f.paths}
    words = []
    flat, other = base.flat(), baseline.flat()
    covered = {path for f in factors if f.name not in blocking for path in f.paths}
    paths = [d.path for d in open_]
    for factor in factors:
        if factor.name not in blocking:
            words.append(_word(factor))
            continue
        differing = [p for p in sorted(factor.paths) if flat.get(p) != other.get(p)]
        paths += [p for p in differing if p not in (*paths, *covered)]
    for path in paths:
        name = path.split(".")[1]
        name = name if field_path(name) == path else path
        values = [_level(flat.get(path)), _level(other.get(path))]
        if all(v is not None for v in values):
            words.append(f"{name}={','.join(map(str, values))}")
    command = f"ablate run --base {base_name} --baseline {baseline_name} --recipe {base.recipe.name}"
    two_levels = all(word.count(",") <= 1 for word in words)
    design = " --design fractional" if len(words) > 4 and two_levels else ""
    return f"{command} --grid {','.join(words)}{design}"


def _word(factor: Factor) -> str:
    known = FACTORS.get(factor.name)
    levels = list(factor.levels)
    if known is not None and levels == list(known.levels)[:2]:
        return factor.name
    return f"{factor.name}={','.join(levels)}"


def _level(value: Any) -> str | None:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return text if LEVEL.fullmatch(text) else None
