"""The measures by name: what each is called, its unit, which way is better, its floor and its margin.

A measure is added by one entry in `METRICS`. Importing this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ablate.models.distribution import ABSENT, install, version_of
from ablate.models.errors import InputError
from ablate.models.registry import suggestion

if TYPE_CHECKING:
    from .signals import Signals


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
        usual: taken unless some are asked for by name.
        reference_free: needs the enhanced signal alone.
        needs: modules that the extra of that name installs.
        extra: of this project, that brings them.
        standard: what it follows, in full; empty: the name says it.
        packages: distributions whose version can change the value; none: this one.
        missing: why it cannot be taken here although all it needs is installed; none: it can.
    """

    name: str
    label: str
    measure: Callable[[Signals], float]
    floor: float
    unit: str = ""
    higher_is_better: bool = True
    margin: float | None = None
    usual: bool = True
    reference_free: bool = False
    needs: tuple[str, ...] = ()
    extra: str = ""
    standard: str = ""
    packages: tuple[str, ...] = ()
    missing: Callable[[], str | None] = lambda: None

    @property
    def full_name(self) -> str:
        """The label with what it follows and the packages that take it, with their versions."""
        facts = ", ".join(filter(None, (self.standard, *map(with_version, self.packages))))
        return f"{self.label} ({facts})" if facts else self.label


def with_version(package: str) -> str:
    """`package 1.2.3`, as it is installed; the name alone where it is not."""
    found = version_of(package)
    return package if found == ABSENT else f"{package} {found}"


def _without_filter() -> str | None:
    from .corrigendum import missing

    return missing()


COMPOSITE = ("csig", "cbak", "covl")
_PESQ: dict[str, Any] = {"floor": 1.0, "margin": 0.05, "packages": ("pesq",)}
_EXTRA: dict[str, Any] = {"floor": 1.0, "usual": False}
_BINS: dict[str, Any] = {"higher_is_better": False, "usual": False}


def _composite(part: str) -> Metric:
    return Metric(
        part, part.upper(), lambda pair: getattr(pair.composite, part), standard="Loizou's composite", **_PESQ
    )


def _of_ports(part: str) -> Metric:
    name, label, standard = f"{part}_ports", f"{part.upper()} (ports)", "composite of a port fed with floats"

    def measure(pair: Signals) -> float:
        return getattr(pair.composite_of_ports, part)

    return Metric(name, label, measure, standard=standard, usual=False, **_PESQ)


def _of_one(name: str, label: str, measure: Callable[[Signals], float], *needs: str) -> Metric:
    """A measure of the enhanced signal alone, from the extra that its name begins with."""
    extra = name.partition("_")[0]
    given = _EXTRA | {"needs": needs, "packages": needs[::-1], "extra": extra}
    return Metric(name, label, measure, reference_free=True, **given)


def _dnsmos(part: str, measure: Callable[[Signals], float]) -> Metric:
    return _of_one(f"dnsmos_{part}", f"DNSMOS {part.upper()}", measure, "onnxruntime", "speechmos")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "pesq_wb", "PESQ-WB", lambda pair: pair.pesq_wb, standard="P.862.2 without Corrigendum 2", **_PESQ
        ),
        Metric(
            "pesq_wb_c2",
            "PESQ-WB (C2)",
            lambda pair: pair.pesq("wb", corrected=True),
            usual=False,
            standard="P.862.2 with Corrigendum 2 (03/18)",
            missing=_without_filter,
            **_PESQ,
        ),
        Metric("pesq_nb", "PESQ-NB", lambda pair: pair.pesq("nb"), standard="P.862.1 MOS-LQO", **_PESQ),
        Metric("stoi", "STOI", lambda pair: pair.stoi(extended=False), floor=0.0, packages=("pystoi",)),
        Metric("estoi", "ESTOI", lambda pair: pair.stoi(extended=True), floor=0.0, packages=("pystoi",)),
        *map(_composite, COMPOSITE),
        *map(_of_ports, COMPOSITE),
        Metric("ssnr", "SSNR", lambda pair: pair.ssnr, floor=-10.0, unit="dB"),
        Metric("si_sdr", "SI-SDR", lambda pair: pair.si_sdr, floor=-30.0, unit="dB"),
        Metric("lsd", "LSD", lambda pair: pair.log_spectral_distance, floor=100.0, unit="dB", **_BINS),
        Metric("phase_distance", "phase distance", lambda pair: pair.phase_distance, 180.0, "deg", **_BINS),
        _dnsmos("sig", lambda pair: pair.dnsmos["sig"]),
        _dnsmos("bak", lambda pair: pair.dnsmos["bak"]),
        _dnsmos("ovrl", lambda pair: pair.dnsmos["ovrl"]),
        _dnsmos("p808", lambda pair: pair.dnsmos_p808),
        _of_one("distillmos", "DistillMOS", lambda pair: pair.distillmos, "distillmos"),
        Metric(
            "visqol",
            "ViSQOL",
            lambda pair: pair.visqol,
            needs=("visqol", "ai_edge_litert"),
            extra="visqol",
            packages=("visqol-python",),
            **_EXTRA,
        ),
    )
}


_BUILT_IN = frozenset(METRICS)

CONVENTIONS = {
    "loizou": "CSIG, CBAK and COVL follow Loizou's composite.m; scripts that pass floats to ports give "
    "higher values (--composite ports)",
    "ports": "CSIG, CBAK and COVL follow scripts that pass floats to ports that divide by 32,768, not "
    "Loizou's composite.m",
}
"""Of the composite measures: name -> what they then are."""


def by_convention(names: Iterable[str], convention: str) -> tuple[str, ...]:
    """Measures, each once, with the composite ones as a convention has them.

    Raises:
        InputError: there is no such convention.
    """
    if convention not in CONVENTIONS:
        known = suggestion(convention, CONVENTIONS)
        raise InputError(f"unknown convention {convention!r} of the composite measures{known}")
    ports = convention == "ports"
    chosen = (f"{name}_ports" if ports and name in COMPOSITE else name for name in names)
    return tuple(dict.fromkeys(chosen))


def conventions_of(names: Iterable[str]) -> tuple[str, ...]:
    """The conventions of the composite measures among these."""
    asked = set(names)
    return tuple(known for known in CONVENTIONS if asked & set(by_convention(COMPOSITE, known)))


VALIDATED = ("pesq_wb", "stoi")
"""The measures taken beside a training, of the enhanced and once of the noisy recordings."""


def register(metric: Metric) -> None:
    """Add a measure, as a plug-in does; it is taken where it is asked for by name.

    Raises:
        InputError: the name is taken by another measure.
    """
    known = METRICS.get(metric.name, metric)
    if known != metric and known.measure is not _not_imported:
        raise InputError(f"metric {metric.name!r} exists already; choose another name")
    METRICS[metric.name] = metric


FACTS = ("label", "floor", "unit", "higher_is_better", "margin")
"""What a plan keeps of a plug-in's measure, so that its scores can be reported without the plug-in."""


def facts_of_plugins() -> dict[str, dict[str, Any]]:
    """`FACTS` of the measures that plug-ins have registered."""
    brought = (METRICS[name] for name in METRICS if name not in _BUILT_IN)
    return {metric.name: {field: getattr(metric, field) for field in FACTS} for metric in brought}


def expect(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Let stored scores have measures whose plug-ins are not imported; they can be shown, not taken."""
    for name in facts.keys() - METRICS.keys():
        METRICS[name] = Metric(name, measure=_not_imported, usual=False, **facts[name])


def _not_imported(_: Signals) -> float:
    raise InputError("this metric belongs to a plug-in that is not loaded; name its file with --plugin")


def usual() -> tuple[str, ...]:
    """The names of the measures that are taken unless some are asked for."""
    return tuple(name for name, metric in METRICS.items() if metric.usual)


def label_of(name: str) -> str:
    """A metric as tables print it, with its unit if it has one; any other name as it is."""
    if name not in METRICS:
        return name
    metric = METRICS[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def in_words(name: str, value: str = "") -> str:
    """A value of a metric with its unit, as sentences have it (`0.42 dB SSNR`); without one the label."""
    metric = METRICS.get(name)
    parts = (value, metric.unit if metric and value else "", metric.label if metric else name)
    return " ".join(filter(None, parts))


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}{suggestion(name, METRICS)}")
    return METRICS[name]


def check_available(names: Iterable[str]) -> None:
    """Whether the measures can be taken in this environment.

    Raises:
        InputError: one is unknown, or what it needs is not installed.
    """
    for name in names:
        metric = find_metric(name)
        missing = [module for module in metric.needs if find_spec(module) is None]
        if missing:
            raise InputError(f"metric {name!r} needs {' and '.join(missing)}: {install(metric.extra)}")
        if reason := metric.missing():
            raise InputError(f"metric {name!r} is not available: {reason}")
