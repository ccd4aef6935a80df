"""Published effects of single changes, with sources; not measured here.

Few authors publish seeds. No source was found for the size of the decoder or for cross-band modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .claims import Claim
from .factors import Factor
from .scale import Conditions

VOICEBANK = "VoiceBank+DEMAND"
UNSAID = object()
"""Stands for the base's value of a field that a level does not change."""
_ON_VOICEBANK = Conditions(corpus=VOICEBANK)


@dataclass(frozen=True)
class PublishedEffect:
    """A published effect, on - off.

    Attributes:
        what: the change in words.
        off, on: the published scores without and with the change.
        sd: SDs of the two scores over seeds, if stated.
        source: where it was published.
        doubt: reason to doubt it; may be empty.
        seeds: number of seeds, as stated.
        field: (dotted path, off, on) of the field that makes this change; None as `on` means any other value.
            None if no field of this package does.
        metric: a name of `METRICS`. Names of composite measures include their convention, since those of the
            `ports` differ from Loizou's.
    """

    what: str
    off: float
    on: float
    source: str
    sd: tuple[float, float] | None = None
    seeds: str = "not stated"
    doubt: str = ""
    field: tuple[str, Any, Any] | None = None
    metric: str = "pesq_wb"
    conditions: Conditions = _ON_VOICEBANK

    @property
    def grid(self) -> str:
        """The factor that toggles it, as in `--grid`; empty if there is none."""
        if self.field is None:
            return ""
        path, off, on = self.field
        return f"{path.partition('.')[2]}={off},{'...' if on is None else on}"

    @property
    def undone(self) -> PublishedEffect:
        """The effect of switching it off."""
        return replace(self, what=f"undone: {self.what}", off=self.on, on=self.off)

    def levels_of(self, factor: Factor) -> Iterator[tuple[str, PublishedEffect]]:
        """The levels of a factor that make or undo this change, and the effect of each."""
        if self.field is None:
            return
        path, before, after = self.field
        off, *others = factor.levels.items()
        for level, delta in others:
            if {*off[1], *delta} == {path}:
                old, new = off[1].get(path, UNSAID), delta.get(path, UNSAID)
                if old == before and new is not UNSAID and after in (None, new):
                    yield level, self
                elif new == before and old == after:
                    yield level, self.undone

    def claim(self, level: str | None = None) -> Claim:
        """The difference as a claim; if SDs are stated, wider by one SD on either side."""
        gain = self.on - self.off
        spread = math.hypot(*self.sd) if self.sd else 0.0
        told = f"published: {self.source}" + (f" ({self.doubt})" if self.doubt else "")
        return Claim(
            low=round(gain - spread, 3),
            high=round(gain + spread, 3),
            source=told,
            metric=self.metric,
            level=level,
            conditions=self.conditions.model_copy(update={"unstated": True}),
        )


def _sizes(low: float, high: float) -> Conditions:
    return Conditions(parameters=(low, high), corpus=VOICEBANK)


_DIRECTION = ("model.direction", "uni", "bi")
_CORE = ("model.core", "lstm", "mamba")
PCS = "PCS (of targets in training or as post-processing: not stated)"
"""SEMamba's public code can do either (`use_PCS400`, `post_processing_PCS`); its tables do not say which."""
_PCS = ("evaluation.post_processing", "none", "pcs")
_XLSTM = "xLSTM-SENet, ablation table in its repository"
_AVERAGED = "averaged, number not stated"

_both = partial(PublishedEffect, "both directions in time instead of one", field=_DIRECTION)
_in_xlstm = partial(PublishedEffect, source=_XLSTM, seeds=_AVERAGED)

PUBLISHED_EFFECTS = (
    _both(3.26, 3.48, _XLSTM, sd=(0.02, 0.00), seeds=_AVERAGED, conditions=_sizes(2.14e6, 2.20e6)),
    _both(
        3.29,
        3.52,
        "SEMamba Table 2",
        doubt="second hand, size not matched",
        conditions=_sizes(1.41e6, 2.26e6),
    ),
    _both(2.76, 2.85, "SEMamba Table 1, its basic network", doubt="second hand"),
    PublishedEffect(
        *("look-ahead of 200 ms instead of 12.5 ms", 3.35, 3.47, "LaCo-SENet README"),
        sd=(0.02, 0.02),
        conditions=_sizes(1.37e6, 1.37e6),
    ),
    PublishedEffect(
        *("core Mamba instead of LSTM, band-split, causal", 2.82, 2.92, "BSDB-Net Table 5"),
        field=_CORE,
        conditions=Conditions(parameters=(9.8e6, 14.7e6), corpus="WSJ0"),
    ),
    PublishedEffect(
        *("core Mamba instead of LSTM, same trunk", 3.49, 3.49, f"{_XLSTM} (SEMamba run again)"),
        sd=(0.02, 0.01),
        seeds=_AVERAGED,
        field=_CORE,
    ),
    _in_xlstm("core mLSTM instead of LSTM, same trunk", 3.49, 3.48, sd=(0.02, 0.00)),
    _in_xlstm(
        "expansion of the core 4 instead of 2", 3.45, 3.48, sd=(0.01, 0.00), field=("model.expand", 2, 4)
    ),
    PublishedEffect("magnitude and phase instead of magnitude", 2.67, 2.92, "BSDB-Net Table 3"),
    PublishedEffect("two branches instead of a complex one", 2.76, 2.92, "BSDB-Net Table 3"),
    PublishedEffect(
        "consistency loss", 3.52, 3.55, "SEMamba", field=("recipe.consistency_weight", 0.0, None)
    ),
    PublishedEffect(PCS, 3.55, 3.69, "SEMamba", field=_PCS, conditions=_sizes(2.26e6, 2.26e6)),
    PublishedEffect(
        PCS, 3.95, 3.63, "SEMamba", field=_PCS, metric="cbak_ports", conditions=_sizes(2.26e6, 2.26e6)
    ),
    PublishedEffect(PCS, 3.59, 3.73, "Mamba-SEUNet, abstract", field=_PCS, conditions=_sizes(6.28e6, 6.28e6)),
)


def published_claims(factors: Iterable[Factor]) -> Iterator[tuple[str, Claim]]:
    """(factor, claim) for every published effect that one of the factors reproduces.

    Such a factor changes only that field, between the same values.
    """
    for factor in factors:
        for effect in PUBLISHED_EFFECTS:
            for level, told in effect.levels_of(factor):
                yield factor.name, told.claim(level)
