"""The measures by name: what each is called, its unit, which way is better, its floor and its margin.

A measure is added by one entry in `METRICS`. Importing this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scores import Signals


@dataclass(frozen=True)
class Metric:
    """One measure of an enhanced signal against its clean reference.

    Attributes:
        label: as it stands in tables and figures.
        unit: empty for a scale of its own (MOS, STOI).
        higher_is_better: the direction.
        floor: what an output counts as that cannot be measured (silent, not finite).
        margin: the smallest difference that matters, in the metric's unit; none: there is no default, and
            without one given there is no verdict.
        measure: from a pair at 16 kHz to the value.
    """

    name: str
    label: str
    measure: Callable[[Signals], float]
    floor: float
    unit: str = ""
    higher_is_better: bool = True
    margin: float | None = None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("pesq_wb", "PESQ-WB", lambda pair: pair.pesq_wb, floor=1.0, margin=0.05),
        Metric("pesq_nb", "PESQ-NB", lambda pair: pair.pesq("nb"), floor=1.0, margin=0.05),
        Metric("stoi", "STOI", lambda pair: pair.stoi(extended=False), floor=0.0),
        Metric("estoi", "ESTOI", lambda pair: pair.stoi(extended=True), floor=0.0),
        Metric("csig", "CSIG", lambda pair: pair.composite.csig, floor=1.0, margin=0.05),
        Metric("cbak", "CBAK", lambda pair: pair.composite.cbak, floor=1.0, margin=0.05),
        Metric("covl", "COVL", lambda pair: pair.composite.covl, floor=1.0, margin=0.05),
        Metric("ssnr", "SSNR", lambda pair: pair.ssnr, floor=-10.0, unit="dB"),
        Metric("si_sdr", "SI-SDR", lambda pair: pair.si_sdr, floor=-30.0, unit="dB"),
    )
}


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        InputError: there is none of that name.
    """
    from ablate.models.errors import InputError
    from ablate.models.registry import suggestion

    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}{suggestion(name, METRICS)}")
    return METRICS[name]
