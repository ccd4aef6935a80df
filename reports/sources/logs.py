"""Old training logs of the reference code: what they say, and why they attribute nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablate.models.errors import InputError

NUMBER = r"[-+]?(?:nan|inf|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_LINE = re.compile(
    rf"Epoch (?P<epoch>\d+), Step (?P<step>\d+), loss: (?P<loss>{NUMBER})"
    rf"(?:, disc_loss: (?P<disc>{NUMBER}))?(?:, PESQ: (?P<pesq>{NUMBER}))?"
    rf"|TEST - Generator loss: (?P<test_loss>{NUMBER}), Discriminator loss: (?P<test_disc>{NUMBER}),"
    rf" PESQ: (?P<test_pesq>\d+\.\d{{4}}|{NUMBER}(?=\s))"
    rf"|New best model saved(?: at epoch (?P<best>\d+) with loss|! Loss:) (?P<best_loss>{NUMBER})"
    r"|(?P<settings>\bepochs=\d+(?:, *\w+=[^,\r\n]*)+)"
    r"|Model parameters: Total=(?P<total>[\d.]+[KMG]?)",
    re.IGNORECASE,
)
"""One event of a log. Searched for anywhere: progress bars may stand on the same line."""


@dataclass
class Epoch:
    """One epoch, counted from 0. Losses and PESQ are on the test set; not a number after divergence."""

    number: int
    loss: float
    discriminator_loss: float
    pesq: float

    @property
    def diverged(self) -> bool:
        return not (math.isfinite(self.loss) and math.isfinite(self.pesq))


@dataclass
class TrainingLog:
    """One training as its log tells it.

    `diverged_at` is the epoch of the first loss that is not a number; `open_epoch` an epoch that
    began and was never closed by a test line (the file ends in the middle of it).
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    parameters: str | None = None
    epochs: list[Epoch] = field(default_factory=list)
    diverged_at: int | None = None
    diverged_step: int | None = None
    open_epoch: int | None = None
    open_step: int | None = None
    saved_best: list[int] = field(default_factory=list)

    @property
    def finite(self) -> list[Epoch]:
        return [epoch for epoch in self.epochs if not epoch.diverged]

    @property
    def best(self) -> Epoch | None:
        return max(self.finite, key=lambda epoch: epoch.pesq, default=None)

    @property
    def last(self) -> Epoch | None:
        """The last finite epoch."""
        return self.finite[-1] if self.finite else None

    @property
    def pesq(self) -> dict[int, float]:
        """Test PESQ by epoch, diverged epochs left out."""
        return {epoch.number: epoch.pesq for epoch in self.finite}


def read_log(path: Path | str) -> list[TrainingLog]:
    """The trainings in a log file; more than one where the epochs start again.

    Raises:
        InputError: there is no such file, or nothing in it looks like a training log.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no log file {path}")
    runs = parse_log(path.read_text(errors="replace"), path.stem)
    if not runs:
        raise InputError(
            f"{path} has no line like 'Epoch 0, Step 100, loss: ...' or 'TEST - Generator loss: ...'"
        )
    return runs


def parse_log(text: str, name: str) -> list[TrainingLog]:
    """The trainings in the text of a log.

    A test line carries no epoch number: it closes the epoch of the step lines before it, or the one
    after the last closed epoch where there were none.
    """
    runs: list[TrainingLog] = []
    current = TrainingLog(name)

    def started() -> bool:
        return bool(current.epochs) or current.open_epoch is not None

    def restart() -> TrainingLog:
        runs.append(current)
        return TrainingLog(name, dict(current.settings), current.parameters)

    def expected() -> int:
        if current.open_epoch is not None:
            return current.open_epoch
        return current.epochs[-1].number + 1 if current.epochs else 0

    for match in _LINE.finditer(text):
        if match["settings"]:
            if started():
                current = restart()
            pairs = (item.partition("=") for item in match["settings"].split(","))
            current.settings = {key.strip(): value.strip() for key, _, value in pairs}
        elif match["total"]:
            if started():
                current = restart()
            current.parameters = match["total"]
        elif match["epoch"] is not None:
            epoch, step = int(match["epoch"]), int(match["step"])
            same = current.open_epoch == epoch and (current.open_step or 0) < step
            if (started() and epoch < expected()) or (current.open_epoch == epoch and not same):
                current = restart()
            current.open_epoch, current.open_step = epoch, step
            if current.diverged_at is None and not math.isfinite(float(match["loss"])):
                current.diverged_at, current.diverged_step = epoch, step
        elif match["test_loss"] is not None:
            loss, disc, pesq = (float(match[k]) for k in ("test_loss", "test_disc", "test_pesq"))
            closed = Epoch(expected(), loss, disc, pesq if math.isfinite(loss) else math.nan)
            current.epochs.append(closed)
            current.open_epoch = current.open_step = None
            if closed.diverged and current.diverged_at is None:
                current.diverged_at = closed.number
        elif current.epochs:
            number = int(match["best"]) if match["best"] is not None else current.epochs[-1].number
            current.saved_best.append(number)
    if started():
        runs.append(current)
    if len(runs) > 1:
        for index, run in enumerate(runs, start=1):
            run.name = f"{name}#{index}"
    return runs


@dataclass(frozen=True)
class LogComparison:
    """How one log stands to the reference log: differences of test PESQ, reference - other."""

    reference: str
    other: str
    best: float
    last: float
    matched: dict[int, float]

    @property
    def low(self) -> float:
        return min(self.matched.values())

    @property
    def high(self) -> float:
        return max(self.matched.values())


def compare_logs(logs: Sequence[TrainingLog]) -> list[LogComparison]:
    """Every log against the first one, where both have finite epochs in common."""
    result = []
    for other in logs[1:]:
        reference = logs[0]
        shared = sorted(set(reference.pesq) & set(other.pesq))
        if shared and reference.best and other.best and reference.last and other.last:
            matched = {epoch: reference.pesq[epoch] - other.pesq[epoch] for epoch in shared}
            best = reference.best.pesq - other.best.pesq
            last = reference.last.pesq - other.last.pesq
            result.append(LogComparison(reference.name, other.name, best, last, matched))
    return result


def objections(logs: Sequence[TrainingLog]) -> list[str]:
    """Why no difference between these logs may be credited to a change of the network."""
    reasons = [
        "Each log is one training. With one seed there is no interval for a difference: nothing tells "
        "the effect of a change from the luck of a seed.",
        "The PESQ is of the test set, measured after every epoch: the best epoch is chosen on the very "
        "files it is reported on.",
    ]
    lengths = {log.name: len(log.finite) for log in logs}
    if len(set(lengths.values())) > 1:
        reasons.append(
            "The best is taken over different numbers of epochs ("
            + ", ".join(f"{name}: {count}" for name, count in lengths.items())
            + "): more epochs, more chances."
        )
    for pair in compare_logs(logs):
        if len(pair.matched) > 1:
            reasons.append(
                f"At matched epochs the gap {pair.reference} - {pair.other} runs from {pair.low:+.2f} to "
                f"{pair.high:+.2f} PESQ over {len(pair.matched)} epochs, best against best it is "
                f"{pair.best:+.2f}: the number depends on the epoch chosen."
            )
    keys = {key for log in logs for key in log.settings} - {"save_model_dir"}
    for key in sorted(keys):
        values = {log.settings.get(key, "not said") for log in logs}
        if len(values) > 1:
            said = ", ".join(f"{log.name}: {log.settings.get(key, 'not said')}" for log in logs)
            reasons.append(f"The settings differ too: {key} ({said}).")
    sizes = {log.parameters for log in logs if log.parameters}
    if len(sizes) > 1:
        said = ", ".join(f"{log.name}: {log.parameters or 'not said'}" for log in logs)
        reasons.append(f"The networks differ in size ({said}); the logs do not say in what else they differ.")
    for log in logs:
        if log.diverged_at is not None:
            reasons.append(
                f"{log.name} diverged in epoch {log.diverged_at}: what it logged afterwards is no result."
            )
        if log.open_epoch is not None:
            reasons.append(f"{log.name} ends inside epoch {log.open_epoch}, step {log.open_step}.")
    reasons.append(
        "To attribute a gap, train the cells between the two networks with several seeds: `ablate run`."
    )
    return reasons
