"""Formats numbers for reports; missing numbers give empty text."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import pandas as pd


def known(value: Any) -> TypeGuard[float]:
    return value is not None and not pd.isna(value) and math.isfinite(float(value))


def signed(value: Any, digits: int = 3) -> str:
    return f"{float(value):+.{digits}f}" if known(value) else ""


def interval(low: Any, high: Any, digits: int = 3) -> str:
    return f"[{signed(low, digits)}, {signed(high, digits)}]" if known(low) and known(high) else ""


def estimate(value: Any, low: Any, high: Any) -> str:
    """An estimate with its interval."""
    return f"{signed(value)} {interval(low, high)}".strip()


def span(low: Any, high: Any, digits: int = 2) -> str:
    """A claimed range as text; a single number if both ends are equal."""
    if not (known(low) and known(high)):
        return ""
    return signed(low, digits) if low == high else f"{signed(low, digits)} to {signed(high, digits)}"


LABELS = {"snr": "SNR (dB)"}
"""Columns of the scores that are shown under another name."""


def text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def human(value: float | None, kind: str) -> str:
    """A cost as text, with its unit; `kind` is a key of `reports.cost.COSTS`."""
    if value is None:
        return ""
    if kind == "parameters":
        return f"{value:,.0f}"
    if kind == "peak_memory_bytes":
        return f"{value / 1e9:.2f} GB"
    if kind == "latency_ms":
        return f"{value:g} ms" if math.isfinite(value) else "the utterance"
    if kind == "macs_per_second":
        return f"{value / 1e9:.2f} G"
    return f"{value:.3g}" + (" s" if kind == "seconds_per_step" else "")


def p_value(value: object) -> str:
    """A p-value as text; empty if it is missing."""
    if not isinstance(value, float) or value != value:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
