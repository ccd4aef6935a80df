"""Compares training logs of the public BSRNN and MBS-Net code, and says why they cannot attribute a gap."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ablate.models.errors import InputError

from ..blocks import Block, BulletList, Document, Fields, Part, Rows, Table, select

NUMBER = r"[-+]?(?:nan|inf|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_LINE = re.compile(
    rf"Epoch (?P<epoch>\d+), Step \d+, loss|TEST - Generator loss: (?P<loss>{NUMBER}), Discriminator loss: "
    rf"{NUMBER}, PESQ: (?P<pesq>\d+\.\d{{4}}|{NUMBER}(?=\s))",
    re.IGNORECASE,
)
"""One event of a log, anywhere in a line, since a progress bar may be in the same line."""

Logs = Mapping[str, Mapping[int, float]]
"""Name of a run -> epoch, from 0 -> PESQ on the test set; NaN after divergence."""


def read_logs(paths: Sequence[Path]) -> Logs:
    """The runs in log files. A file has several if its epochs start again.

    Raises:
        InputError: a file does not exist, or does not look like a training log.
    """
    stems = Counter(path.stem for path in paths)
    found: dict[str, Mapping[int, float]] = {}
    for path in dict.fromkeys(paths):
        if not path.is_file():
            raise InputError(f"no log file {path}")
        runs = parse_log(path.read_text(errors="replace"), path.stem if stems[path.stem] < 2 else str(path))
        if not runs:
            raise InputError(f"{path} has no line of the form 'TEST - Generator loss: ..., PESQ: ...'")
        found |= runs
    return found


def parse_log(text: str, name: str) -> Logs:
    """The runs in the text of a log.

    Test lines do not have an epoch number. Each ends the epoch of the step lines before it, or, without such
    lines, the next epoch.
    """
    runs: list[dict[int, float]] = [{}]
    epoch = 0
    for match in _LINE.finditer(text):
        if match["epoch"] is None:
            runs[-1][epoch] = float(match["pesq"]) if math.isfinite(float(match["loss"])) else math.nan
            epoch += 1
        else:
            epoch = int(match["epoch"])
            if runs[-1] and epoch <= max(runs[-1]):
                runs.append({})
    runs = [run for run in runs if run]
    return {f"{name}#{i}" if len(runs) > 1 else name: run for i, run in enumerate(runs, start=1)}


def finite(curve: Mapping[int, float]) -> dict[int, float]:
    return {epoch: value for epoch, value in curve.items() if math.isfinite(value)}


def matched(logs: Logs) -> dict[str, dict[int, float]]:
    """For each log but the first: epoch -> PESQ of the first minus its own, at the epochs that both have."""
    (reference, first), *others = ((name, finite(curve)) for name, curve in logs.items())
    return {
        f"{reference} - {name}": {epoch: first[epoch] - curve[epoch] for epoch in first if epoch in curve}
        for name, curve in others
    }


def objections(logs: Logs) -> list[str]:
    """Reasons why a difference between these logs cannot be attributed to a change of the network."""
    counts = {name: len(finite(curve)) for name, curve in logs.items()}
    reasons = [
        "Each log is one run: run-to-run variance is unknown, so no difference has an interval.",
        "PESQ was measured on the test set after every epoch, so the best epoch is selected on test files.",
        f"Epochs with a result: {', '.join(f'{name} {n}' for name, n in counts.items())}. With more "
        "epochs, the best one tends to be higher.",
    ]
    for name, gaps in matched(logs).items():
        if len(gaps) > 1:
            reasons.append(
                f"At {len(gaps)} matched epochs the gap {name} is {min(gaps.values()):+.2f} to "
                f"{max(gaps.values()):+.2f} PESQ, depending on the epoch."
            )
    reasons += [f"{name} diverged: later epochs are not results." for name in logs if _diverged(logs[name])]
    return [
        *reasons,
        "To attribute a gap, train the cells between the two networks with several seeds: `ablate run`.",
    ]


def _diverged(curve: Mapping[int, float]) -> bool:
    return len(finite(curve)) < len(curve)


def logs_document(logs: Logs, form: str) -> Document:
    """The logs side by side, for one form of `renderers.FORMS`."""
    runs, curves = _runs(logs), _curves(logs)
    reasons = objections(logs)
    fields = {"schema": "ablate-logs/2", "logs": dict(logs), "attributable": False, "reasons": reasons}
    told: list[Block] = [runs, curves, BulletList("Not an attribution", reasons)]
    parts = (
        Part("", lambda _: told, "table md latex html"),
        Part("", lambda _: [Rows(pd.DataFrame(curves.rows, columns=curves.head))], "csv"),
        Part("", lambda _: [Fields(fields)], "json"),
    )
    return Document("logs", "Training logs compared", select(parts, logs, form), {})


def _runs(logs: Logs) -> Table:
    rows = []
    for name, curve in logs.items():
        there = finite(curve)
        ends = (max(there, key=there.__getitem__), max(there)) if there else ()
        shown = [f"{there[epoch]:.4f} (epoch {epoch})" for epoch in ends] or ["none", "none"]
        rows.append([name, str(len(curve)), *shown, "yes" if _diverged(curve) else "no"])
    return Table("Runs", ["log", "epochs", "best test PESQ", "last finite", "diverged"], rows)


def _curves(logs: Logs) -> Table:
    gaps = matched(logs)
    rows = [
        [
            str(epoch),
            *(f"{curve[epoch]:.4f}" if epoch in curve else "" for curve in logs.values()),
            *(f"{found[epoch]:+.4f}" if epoch in found else "" for found in gaps.values()),
        ]
        for epoch in sorted({epoch for curve in logs.values() for epoch in curve})
    ]
    return Table("Test PESQ by epoch", ["epoch", *logs, *gaps], rows)
