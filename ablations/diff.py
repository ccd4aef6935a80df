"""What differs between two configurations, and whether a grid's factors account for it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ablate.models.config import Frozen
from ablate.training.config import RunConfig, is_bookkeeping

from .factors import FACTORS, LEVEL, Factor, field_path

Group = Literal["toggled", "consequence", "not toggled"]


class Difference(Frozen):
    """A field in which two configurations differ.

    Attributes:
        group: toggled by a factor of the grid, without a meaning beside what is toggled (consequence), or
            not toggled.
        why: the factor, the field that decides, or why no factor covers it.
    """

    path: str
    a: Any
    b: Any
    group: Group
    why: str = ""


def _uses(field: str, *values: str) -> Callable[[dict[str, Any]], bool]:
    return lambda flat: flat[field] in values


def _mamba(flat: dict[str, Any]) -> bool:
    return flat["model.core"] == "mamba" or flat["model.crossband"] == "bimamba"


_BUILT_IN = {
    "model.core": ("lstm", "gru", "mamba", "attention"),
    "model.crossband": ("none", "pointwise", "bilstm", "bimamba"),
    "model.decoder": ("per-band", "shared"),
}
_READ: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
    **{f"model.{n}": ("model.core", _mamba) for n in ("d_state", "expand", "d_conv")},
    **{f"model.{n}": ("model.core", _mamba) for n in ("ssm_skip", "dt_init", "clamps")},
    "model.heads": ("model.core", _uses("model.core", "attention")),
    "model.crossband_layers": ("model.crossband", lambda flat: flat["model.crossband"] != "none"),
    "model.decoder_expansion": ("model.decoder", _uses("model.decoder", "per-band")),
    "recipe.adversarial_start": ("recipe.adversarial_weight", lambda f: bool(f["recipe.adversarial_weight"])),
    "recipe.discriminator_start": (
        "recipe.adversarial_weight",
        lambda f: bool(f["recipe.adversarial_weight"]),
    ),
    "recipe.discriminator_learning_rate": (
        "recipe.adversarial_weight",
        lambda f: bool(f["recipe.adversarial_weight"]),
    ),
    "recipe.decay": ("recipe.schedule", _uses("recipe.schedule", "step", "exponential")),
    "recipe.decay_every": ("recipe.schedule", _uses("recipe.schedule", "step", "exponential")),
}
"""A field that is read at some values of another only: path -> (that field, whether it is read)."""


def is_read(path: str, flat: dict[str, Any]) -> bool:
    """Whether a field means anything in a configuration, given by `RunConfig.flat`.

    A part that a plug-in brought may read any field of the network.
    """
    if path not in _READ:
        return True
    foreign = any(flat[field] not in known for field, known in _BUILT_IN.items())
    return (path.startswith("model.") and foreign) or _READ[path][1](flat)


def differences(a: RunConfig, b: RunConfig, factors: Sequence[Factor] = ()) -> list[Difference]:
    """Every field in which two configurations differ, except bookkeeping, grouped by what accounts for it.

    A factor accounts for a field if the value of `a` and that of `b` are among its levels.
    """
    first, second = a.flat(), b.flat()
    found = []
    for path, old in first.items():
        new = second[path]
        if old == new or is_bookkeeping(path):
            continue
        group, why = _group(path, first, second, factors)
        found.append(Difference(path=path, a=old, b=new, group=group, why=why))
    order: dict[str, int] = {"toggled": 0, "consequence": 1, "not toggled": 2}
    return sorted(found, key=lambda d: order[d.group])


def _group(path: str, a: dict[str, Any], b: dict[str, Any], factors: Sequence[Factor]) -> tuple[Group, str]:
    if _toggles(path, a[path], b[path], factors):
        return "toggled", next(f.name for f in factors if path in f.paths)
    reads = is_read(path, a), is_read(path, b)
    if not all(reads):
        decides = _READ[path][0]
        if not any(reads):
            return "consequence", f"neither reads it ({decides})"
        which = "only the first" if reads[0] else "only the second"
        if a[decides] != b[decides]:
            if _toggles(decides, a[decides], b[decides], factors):
                return "consequence", f"{which} reads it; {decides} is toggled"
            return "not toggled", f"{which} reads it; it goes with {decides}"
    fixing = [f for f in factors if path in f.paths]
    if fixing:
        levels = sorted({repr(d[path]) for f in fixing for d in f.levels.values() if path in d})
        return "not toggled", f"{fixing[0].name} sets it to {', '.join(levels)} only"
    return "not toggled", ""


def _toggles(path: str, a: Any, b: Any, factors: Sequence[Factor]) -> bool:
    for factor in factors:
        if path in factor.paths:
            values = [_plain(delta.get(path, a)) for delta in factor.levels.values()]
            if _plain(a) in values and _plain(b) in values:
                return True
    return False


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
    """The command line whose factors cover every difference between base and baseline.

    A factor that holds a field at values that are not the baseline's gives way to its fields. Fields that
    cannot be written as a level are left out.
    """
    open_ = [d for d in differences(base, baseline, factors) if d.group == "not toggled"]
    open_ = [d for d in open_ if "goes with" not in d.why]
    blocking = {f.name for f in factors for d in open_ if d.path in f.paths}
    words = []
    flat, other = base.flat(), baseline.flat()
    covered = {path for f in factors if f.name not in blocking for path in f.paths}
    paths = [d.path for d in open_]
    for factor in factors:
        if factor.name not in blocking:
            words.append(_word(factor))
            continue
        paths += [p for p in sorted(factor.paths) if flat[p] != other[p] and p not in (*paths, *covered)]
    for path in paths:
        name = path.split(".")[1]
        name = name if field_path(name) == path else path
        values = [_level(flat[path]), _level(other[path])]
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
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if LEVEL.fullmatch(text) else None
