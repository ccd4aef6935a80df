"""The metrics by name: label, unit, direction, floor and margin.

To add a metric, add one entry to `METRICS`. Importing this module imports nothing heavy.
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
    """A metric of an enhanced signal against its clean reference.

    Attributes:
        label: in tables and figures.
        unit: empty for a scale of its own (MOS, STOI).
        floor: value of an output that cannot be measured (silent, not finite).
        margin: the smallest difference that matters, in the metric's unit; None: there is no default, and
            without a given margin there is no verdict.
        measure: from a pair at 16 kHz to the value.
        usual: taken unless metrics are named.
        reference_free: needs only the enhanced signal.
        needs: modules that the extra installs.
        extra: of this project, that installs them.
        standard: the full name of the standard; empty: the label says it.
        packages: distributions whose version can change the value; none: this one.
        missing: why it is unavailable although its modules are installed; None: it is available.
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
        """The label with the standard and the versions of the packages that compute it."""
        facts = ", ".join(filter(None, (self.standard, *map(with_version, self.packages))))
        return f"{self.label} ({facts})" if facts else self.label


def with_version(package: str) -> str:
    """`package 1.2.3`, as installed; only the name if it is not."""
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
    given = _PESQ | {"standard": "Loizou's composite"}
    return Metric(part, part.upper(), lambda pair: getattr(pair.composite, part), **given)


def _of_ports(part: str) -> Metric:
    given = _PESQ | {"standard": "composite of a port fed with floats", "usual": False}
    label = f"{part.upper()} (ports)"
    return Metric(f"{part}_ports", label, lambda pair: getattr(pair.composite_of_ports, part), **given)


def _of_one(name: str, label: str, measure: Callable[[Signals], float], *needs: str) -> Metric:
    """A metric of only the enhanced signal, from the extra at the start of its name."""
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
"""Of the composite metrics: name -> description."""


def by_convention(names: Iterable[str], convention: str) -> tuple[str, ...]:
    """Metrics, each once, with the composite ones of a convention.

    Raises:
        InputError: the convention is unknown.
    """
    if convention not in CONVENTIONS:
        known = suggestion(convention, CONVENTIONS)
        raise InputError(f"unknown convention {convention!r} of the composite measures{known}")
    ports = convention == "ports"
    chosen = (f"{name}_ports" if ports and name in COMPOSITE else name for name in names)
    return tuple(dict.fromkeys(chosen))


def conventions_of(names: Iterable[str]) -> tuple[str, ...]:
    """The conventions of the composite metrics among these."""
    asked = set(names)
    return tuple(known for known in CONVENTIONS if asked & set(by_convention(COMPOSITE, known)))


VALIDATED = ("pesq_wb", "stoi")
"""Metrics taken during a training, of the enhanced and once of the noisy recordings."""


def register(metric: Metric) -> None:
    """Add a metric of a plug-in; it is taken if requested by name.

    Raises:
        InputError: another metric has the name.
    """
    known = METRICS.get(metric.name, metric)
    if known != metric and known.measure is not _not_imported:
        raise InputError(f"metric {metric.name!r} exists already; choose another name")
    METRICS[metric.name] = metric


FACTS = ("label", "floor", "unit", "higher_is_better", "margin")
"""A plan stores these of a plug-in's metric, so that its scores can be reported without the plug-in."""


def facts_of_plugins() -> dict[str, dict[str, Any]]:
    """`FACTS` of the metrics that plug-ins have registered."""
    brought = (METRICS[name] for name in METRICS if name not in _BUILT_IN)
    return {metric.name: {field: getattr(metric, field) for field in FACTS} for metric in brought}


def expect(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Allow stored scores of metrics whose plug-ins are not imported; they can be shown, not taken."""
    for name in facts.keys() - METRICS.keys():
        METRICS[name] = Metric(name, measure=_not_imported, usual=False, **facts[name])


def _not_imported(_: Signals) -> float:
    raise InputError("this metric belongs to a plug-in that is not loaded; name its file with --plugin")


def usual() -> tuple[str, ...]:
    """The names of the metrics taken by default."""
    return tuple(name for name, metric in METRICS.items() if metric.usual)


def label_of(name: str) -> str:
    """A metric's label for tables, with its unit if it has one; any other name unchanged."""
    if name not in METRICS:
        return name
    metric = METRICS[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def in_words(name: str, value: str = "") -> str:
    """A value of a metric with its unit, for sentences (`0.42 dB SSNR`); without a value the label."""
    metric = METRICS.get(name)
    parts = (value, metric.unit if metric and value else "", metric.label if metric else name)
    return " ".join(filter(None, parts))


def find_metric(name: str) -> Metric:
    """The metric of a name; InputError if it is unknown."""
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}{suggestion(name, METRICS)}")
    return METRICS[name]


def check_available(names: Iterable[str]) -> None:
    """Check that metrics can be taken in this environment.

    Raises:
        InputError: one is unknown, or its modules are not installed.
    """
    for name in names:
        metric = find_metric(name)
        missing = [module for module in metric.needs if find_spec(module) is None]
        if missing:
            raise InputError(f"metric {name!r} needs {' and '.join(missing)}: {install(metric.extra)}")
        if reason := metric.missing():
            raise InputError(f"metric {name!r} is not available: {reason}")
