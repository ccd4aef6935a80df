"""Training logs of the public BSRNN and MBS-Net code, side by side, and why they attribute nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from ablate.models.errors import InputError

from ..blocks import Block, BulletList, Document, Fields, Part, Rows, Table, select

NUMBER = r"[-+]?(?:nan|inf|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_LINE = re.compile(
    rf"Epoch (?P<epoch>\d+), Step (?P<step>\d+), loss: (?P<loss>{NUMBER})"
    rf"|TEST - Generator loss: (?P<test>{NUMBER}), Discriminator loss: {NUMBER},"
    rf" PESQ: (?P<pesq>\d+\.\d{{4}}|{NUMBER}(?=\s))"
    r"|(?P<settings>\bepochs=\d+(?:, *\w+=[^,\r\n]*)+)"
    r"|Model parameters: Total=(?P<total>[\d.]+[KMG]?)",
    re.IGNORECASE,
)
"""One event of a log. Searched for anywhere: progress bars may stand on the same line."""


@dataclass
class TrainingLog:
    """One training.

    Attributes:
        pesq: PESQ of the test set by epoch, counted from 0; nan after divergence.
        diverged: epoch of the first loss that is not a number.
        open: epoch and step at which the file ends, inside an epoch.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    parameters: str = ""
    pesq: dict[int, float] = field(default_factory=dict)
    diverged: int | None = None
    open: tuple[int, int] | None = None

    @property
    def finite(self) -> dict[int, float]:
        return {epoch: value for epoch, value in self.pesq.items() if math.isfinite(value)}

    @property
    def best(self) -> int | None:
        return max(self.finite, key=self.finite.__getitem__, default=None)


def read_log(path: Path | str) -> list[TrainingLog]:
    """The trainings in a log file; more than one where the epochs start again.

    Raises:
        InputError: there is no such file, or nothing in it looks like a training log.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no log file {path}")
    if runs := parse_log(path.read_text(errors="replace"), path.stem):
        return runs
    raise InputError(
        f"{path} has no line like 'Epoch 0, Step 100, loss: ...' or 'TEST - Generator loss: ...'"
    )


def parse_log(text: str, name: str) -> list[TrainingLog]:
    """The trainings in the text of a log.

    A test line has no epoch number: it closes the epoch of the step lines before it, or the one after the
    last closed epoch if there are none.
    """
    runs = [TrainingLog(name)]
    for match in _LINE.finditer(text):
        run = runs[-1]
        started = bool(run.pesq) or run.open is not None
        expected = run.open[0] if run.open else max(run.pesq, default=-1) + 1
        epoch, step = int(match["epoch"] or expected), int(match["step"] or 0)
        head = match["settings"] or match["total"]
        if started and (head or epoch < expected or (run.open and step and (epoch, step) <= run.open)):
            run = TrainingLog(name, dict(run.settings), run.parameters)
            runs.append(run)
            epoch = int(match["epoch"] or 0)
        if match["settings"]:
            run.settings = {k: v.strip() for k, _, v in (p.partition("=") for p in re.split(", *", head))}
        elif match["total"]:
            run.parameters = head
        else:
            loss = float(match["loss"] or match["test"])
            run.open = (epoch, step) if match["loss"] else None
            if match["test"]:
                run.pesq[epoch] = float(match["pesq"]) if math.isfinite(loss) else math.nan
            if run.diverged is None and not math.isfinite(run.pesq.get(epoch, loss)):
                run.diverged = epoch
    runs = [run for run in runs if run.pesq or run.open]
    if len(runs) > 1:
        for index, run in enumerate(runs, start=1):
            run.name = f"{name}#{index}"
    return runs


def matched(reference: TrainingLog, other: TrainingLog) -> dict[int, float]:
    """By epoch that both have, the reference's PESQ less the other's."""
    shared = sorted(reference.finite.keys() & other.finite.keys())
    return {epoch: reference.finite[epoch] - other.finite[epoch] for epoch in shared}


def objections(logs: Sequence[TrainingLog]) -> list[str]:
    """Why no difference between these logs may be credited to a change of the network."""
    first, *others = logs
    reasons = [
        "Each log is one training: run-to-run variance is unknown, so no difference has an interval.",
        "The PESQ is of the test set after every epoch, so the best epoch is chosen on those files.",
    ]
    for other in others:
        if len(gaps := matched(first, other)) > 1:
            best = first.finite[first.best or 0] - other.finite[other.best or 0]
            low, high = min(gaps.values()), max(gaps.values())
            reasons.append(
                f"At matched epochs the gap {first.name} - {other.name} is {low:+.2f} to {high:+.2f} PESQ "
                f"over {len(gaps)} epochs, best against best {best:+.2f}: it depends on the epoch chosen."
            )
    told = {"epochs with a result": {log.name: str(len(log.finite)) for log in logs}}
    told["parameters"] = {log.name: log.parameters or "not said" for log in logs}
    for key in sorted({key for log in logs for key in log.settings} - {"save_model_dir"}):
        told[key] = {log.name: log.settings.get(key, "not said") for log in logs}
    for key, values in told.items():
        if len(set(values.values())) > 1:
            said = ", ".join(f"{name}: {value}" for name, value in values.items())
            reasons.append(f"The trainings differ in {key} ({said}).")
    for log in logs:
        if log.diverged is not None:
            reasons.append(f"{log.name} diverged in epoch {log.diverged}: what it logged later is no result.")
        if log.open is not None:
            reasons.append(f"{log.name} ends inside epoch {log.open[0]}, step {log.open[1]}.")
    return [
        *reasons,
        "To attribute a gap, train the cells between the two networks with seeds: `ablate run`.",
    ]


def logs_document(logs: Sequence[TrainingLog], form: str) -> Document:
    """The logs side by side, for one form of `renderers.FORMS`."""
    parts = (
        Part("", _blocks, "table md latex html"),
        Part("", lambda logs: [Rows(pd.DataFrame(_curves(logs).rows, columns=_curves(logs).head))], "csv"),
        Part("", lambda logs: [Fields(_values(logs))], "json"),
    )
    return Document("logs", "Training logs side by side", select(parts, logs, form), {})


def _blocks(logs: Sequence[TrainingLog]) -> Iterator[Block]:
    rows = []
    for log in logs:
        ends = [log.best, max(log.finite, default=None)]
        shown = ["none" if at is None else f"{log.finite[at]:.4f} (epoch {at})" for at in ends]
        diverged = "no" if log.diverged is None else f"epoch {log.diverged}"
        rows.append([log.name, log.parameters or "not said", str(len(log.pesq)), *shown, diverged])
    head = ["log", "parameters", "epochs", "best test PESQ", "last finite", "diverged"]
    yield from (Table("Runs", head, rows), _curves(logs), BulletList("Not an attribution", objections(logs)))


def _curves(logs: Sequence[TrainingLog]) -> Table:
    first, *others = logs
    gaps = {f"{first.name} - {other.name}": matched(first, other) for other in others}
    rows = [
        [
            str(epoch),
            *(f"{log.pesq[epoch]:.4f}" if epoch in log.pesq else "" for log in logs),
            *(f"{found[epoch]:+.4f}" if epoch in found else "" for found in gaps.values()),
        ]
        for epoch in sorted({epoch for log in logs for epoch in log.pesq})
    ]
    return Table("Test PESQ by epoch", ["epoch", *(log.name for log in logs), *gaps], rows)


def _values(logs: Sequence[TrainingLog]) -> dict[str, object]:
    return {
        "schema": "ablate-logs/2",
        "logs": [{**asdict(log), "best": log.best} for log in logs],
        "attributable": False,
        "reasons": objections(logs),
    }
