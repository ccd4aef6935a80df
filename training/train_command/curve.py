"""The curve that a command writes, read while it runs and after it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ablate.models.errors import InputError

from ..curves import CurveFormat
from ..rundir import RunDir, RunLockedError
from .config import LOG, TrainingCommand

VALUE = "val/pesq_wb"
"""The column that selects weights, as the driver and the reports name it."""
SHARE = 20
"""A curve that takes a second to read is read again after this many seconds."""


class LiveCurve:
    """The lines of a curve, as in `metrics.jsonl`, by step.

    Args:
        how: its file and columns; None: the command writes none.
        run: its `out/` or log has the curve.
        since: byte of the log at which its lines begin.
        former: lines of earlier attempts that this one continues, which its file may lack.

    Attributes:
        problem: why an expected curve is missing.
    """

    def __init__(
        self, how: CurveFormat | None, run: RunDir, since: int = 0, former: Iterable[dict[str, Any]] = ()
    ) -> None:
        self._how = how
        self._run = run
        self._since = since
        self._due = 0.0
        self._seen: Any = None
        self.lines = {line["step"]: line for line in former}
        self.problem: str | None = None

    def take(self, ended: bool = False) -> bool:
        """Read new lines; whether there are any. A line has only numbers; non-finite ones become None.

        Args:
            ended: the command has ended, so a missing file will not appear.
        """
        if self._how is None or (not ended and time.monotonic() < self._due):
            return False
        of_log = self._how.file == LOG
        path = self._run.log if of_log else self._how.newest(self._run.path / "out")
        if path is None:
            self.problem = f"there is no {self._how.file} in {{out}}"
            return False
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        seen = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        if seen == self._seen:
            return False
        self._seen, self.problem, began = seen, None, time.monotonic()
        try:
            rows = self._how.read(path, self._since if of_log else 0)
        except (InputError, OSError) as error:
            self.problem, rows = str(error).replace(f"{self._run.path}/", ""), []
        self._due = time.monotonic() + SHARE * (time.monotonic() - began)
        before, now = self.lines, {"time": time.time()}
        first = min((row["step"] for row in rows), default=math.inf)
        self.lines = {step: line for step, line in before.items() if step < first}
        for row in rows:
            numbers = {name: v if math.isfinite(v) else None for name, v in row.items()}
            step = int(row["step"])
            self.lines[step] = {"time": before.get(step, now)["time"], **numbers, "step": step}
        return self.lines != before

    @property
    def ordered(self) -> list[dict[str, Any]]:
        return [self.lines[step] for step in sorted(self.lines)]

    @property
    def state(self) -> dict[str, Any]:
        """Its fields of `state.json`: the highest step, and the highest validation PESQ."""
        rated = [line[VALUE] for line in self.lines.values() if line.get(VALUE) is not None]
        return {
            "step": max(self.lines, default=0),
            "val_pesq_wb": max(rated, default=None),
            "curve_problem": self.problem,
        }

    def lost(self) -> str | None:
        """A loss whose last value is not finite."""
        last = {name: value for line in self.ordered for name, value in line.items()}
        return next((name for name, value in last.items() if value is None and "loss" in name), None)


def log_start(run: RunDir) -> int:
    """The byte of a run's log at which the attempts behind its output begin."""
    anew = [line.get("log", 0) for line in run.attempts() if not line.get("resumed")]
    return anew[-1] if anew else 0


def reread(run: RunDir, planned: Mapping[str, Any]) -> None:
    """Read a finished command's curve again if its plan now describes the curve differently."""
    how = TrainingCommand.model_validate(planned).curve
    if how == TrainingCommand.model_validate(run.spec["train"]).curve or not (run.path / "out").is_dir():
        return
    with suppress(RunLockedError), run.lock():
        curve = LiveCurve(how, run, log_start(run))
        curve.take(ended=True)
        run.write_metrics(curve.ordered)
        found = curve.state
        steps = found["step"] or 1
        summary = run.summary | {"val_pesq_wb": found["val_pesq_wb"]}
        rate = summary["seconds"] / steps if "seconds" in summary else summary.get("seconds_per_step")
        run.write_summary(summary | {"seconds_per_step": rate})
        run.update_state(**found | {"step": steps, "steps": steps, "seconds_per_step": rate})
        run.write_spec(run.spec | {"train": dict(planned)})
