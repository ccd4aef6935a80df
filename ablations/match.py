"""Widths at which networks have equal size, in parameters or MACs. Needs torch only to match."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ablate.models.config import ModelConfig
from ablate.models.errors import InputError
from ablate.training.config import RunConfig

MOST = 0.03
"""Largest relative deviation at which sizes count as equal."""
SIZES = frozenset(
    (
        *("model.channels", "model.layers", "model.crossband_layers", "model.decoder_expansion"),
        *("model.expand", "model.architecture", "recipe.width", "recipe.depth"),
    )
)
"""Fields that set the size. If a factor changes one of them, its change of size is not matched away."""
WORDS = {"parameters": "parameters", "macs": "MACs a second"}
STEPS = 16
"""Maximum number of widths to try until one is valid; the number of heads must divide it."""


def matched(config: RunConfig, reference: RunConfig) -> RunConfig:
    """A configuration at the width that gives it the size of `reference`, as measured by `recipe.match`.

    Raises:
        InputError: no width comes within 3 %.
    """
    measure = config.recipe.match
    if measure == "free":
        return config
    wanted = size(reference.model, measure)
    width, found = _nearest(config.model, measure, wanted)
    if abs(found / wanted - 1) > MOST:
        heads = ""
        if config.model.is_active("heads"):
            heads = f"; the width must be a multiple of its {config.model.heads} heads"
        raise InputError(
            f"no width gives {wanted:,.0f} {WORDS[measure]}; the nearest is {found:,.0f} "
            f"({found / wanted - 1:+.1%}) at {width} channels, but at most {MOST:.0%} off counts as "
            f"equal{heads}; use a wider base, which has finer steps"
        )
    return config.with_changes({"model.channels": width})


def size(model: ModelConfig, measure: str) -> float:
    """Number of trained parameters, or MACs per second of audio."""
    from ablate.models.summary import macs_per_second, trained_parameters

    return trained_parameters(model) if measure == "parameters" else macs_per_second(model)


def _nearest(model: ModelConfig, measure: str, wanted: float) -> tuple[int, float]:
    """The width at which a network is nearest to a size, and its size at that width."""
    at = partial(_at, model, measure)
    low, high = 1, 2 * model.channels
    while (found := _next(at, high, 1)) is not None and found[1] < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        found = _next(at, middle, 1)
        low, high = (middle, high) if found is not None and found[1] < wanted else (low, middle)
    near = [found for found in (_next(at, low, -1), _next(at, high, 1)) if found is not None]
    if not near:
        raise InputError(f"this network cannot be built with any width near {high} channels")
    return min(near, key=lambda one: abs(one[1] - wanted))


def _next(at: Callable[[int], float | None], width: int, step: int) -> tuple[int, float] | None:
    """The first valid width from `width` in steps of `step` (1 or -1), and the network's size at it."""
    for one in range(width, width + step * STEPS, step):
        found = at(one) if one > 0 else None
        if found is not None:
            return one, found
    return None


def _at(model: ModelConfig, measure: str, width: int) -> float | None:
    try:
        return size(ModelConfig.model_validate(model.model_dump() | {"channels": width}), measure)
    except ValueError:
        return None


def off_by(config: RunConfig, reference: RunConfig) -> str:
    """The width of a matched network and its deviation, in words."""
    measure = config.recipe.match
    share = size(config.model, measure) / size(reference.model, measure) - 1
    return f"{config.model.channels} channels, {share:+.1%} {WORDS[measure]}"
