"""The run of a whole study: progress, note with the report's table, figure of all curves."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import curves
from .curves import Curve
from .run_mirror import Child, Mode
from .store import COMPARED, Record, compare_link
from .study import Study, stamp

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

REDRAW_EVERY = 60.0
"""Seconds between two drawings of the study's curves while it runs."""
NOTE_LIMIT = 7500
"""Characters of a note; MLflow refuses tags beyond 8000."""


class Parent:
    """Mirrors what concerns a study as a whole into its parent run, which is made where it is missing."""

    def __init__(self, study: Study, client: MlflowClient, experiment: str, found: Run | None) -> None:
        self._study = study
        self._experiment = experiment
        self._stamps: dict[Path, tuple[int, ...]] = {}
        self._shown: dict[str, list[Curve]] = {}
        self._drawn = 0.0
        if found is None:
            tags = {**study.tags(), "ablate.kind": "study", "mlflow.runName": study.name}
            start = int(study.plan["created"] * 1000)
            found = client.create_run(experiment, start_time=start, tags=tags, run_name=study.name)
        self.record = Record(client, found)
        self.record.log_params(_params(study.plan))
        client.log_inputs(self.record.run_id, study.datasets())
        client.log_artifact(self.record.run_id, str(study.folder / "plan.json"))

    def mirror(self, mode: Mode, children: list[Child]) -> None:
        """Bring the parent run up to date with the children, of which there is one for each cell x seed."""
        records = [child.record for child in children if child.record is not None]
        done = sum(record.status == "FINISHED" for record in records)
        failed = sum(record.status == "FAILED" for record in records)
        progress = f"{done} of {len(children)} done" + (f", {failed} failed or diverged" if failed else "")
        self.record.log_tags(
            {
                "ablate.progress": progress,
                "ablate.seeds": ",".join(str(seed) for seed in self._study.plan.get("seeds", [])),
                "mlflow.note.content": self._note(progress, [record.run_id for record in records]),
            }
        )
        self._log_files()
        if mode != "live" or time.monotonic() - self._drawn > REDRAW_EVERY:
            self._draw_curves(children)
        if mode == "live" or not all(record.ended for record in records):
            status = "RUNNING"
        elif failed and done + failed == len(children):
            status = "FAILED"
        else:
            status = "FINISHED" if done == len(children) else "KILLED"
        if status != self.record.status:
            self.record.set_status(status)

    def _note(self, progress: str, run_ids: list[str]) -> str:
        head = [f"**{progress}.**"]
        if run_ids:
            link = compare_link(self._experiment, run_ids)
            which = "these runs" if len(run_ids) <= COMPARED else f"the first {COMPARED} runs"
            head.append(f"[Compare {which}]({link}).")
        if self._study.plan["corpus"].get("is_demo"):
            head.append("Demo corpus: for trying the harness, not for conclusions.")
        note = " ".join(head)
        table = self._study.folder / "report" / "table.md"
        if not table.exists():
            return note
        text = table.read_text()
        room = NOTE_LIMIT - len(note) - 2
        if len(text) > room:
            rows = text[: max(0, room - 80)].rpartition("\n")[0]
            text = f"{rows}\n\n(cut; the whole table is the artifact report/table.md)"
        return f"{note}\n\n{text}"

    def _log_files(self) -> None:
        """The report, and the clean and noisy clips that all runs share."""
        report = self._study.folder / "report"
        found = [(path, path.parent.relative_to(report.parent)) for path in sorted(report.rglob("*"))]
        found += [(path, Path("audio")) for path in sorted(self._study.references.glob("*.wav"))]
        for path, where in found:
            now = stamp(path)
            if path.is_file() and not path.name.startswith(".") and self._stamps.get(path) != now:
                self.record.client.log_artifact(self.record.run_id, str(path), str(where))
                self._stamps[path] = now

    def _draw_curves(self, children: list[Child]) -> None:
        cells: dict[str, list[Curve]] = {}
        for child in children:
            if child.slot.step_fraction == 1.0 and (curve := child.curve):
                cells.setdefault(child.slot.cell["name"], []).append(curve)
        if cells and cells != self._shown:
            noisy = [child.noisy for child in children if child.noisy is not None]
            with tempfile.TemporaryDirectory(prefix="ablate-artifacts-") as staging:
                figure = Path(staging) / "pesq_curves.png"
                title = f"{self._study.name}: validation PESQ by cell"
                curves.draw(figure, cells, noisy[-1] if noisy else None, title)
                self.record.client.log_artifact(self.record.run_id, str(figure))
            self._drawn = time.monotonic()
        self._shown = cells


def _params(plan: dict[str, Any]) -> dict[str, Any]:
    names = ("base", "baseline", "design", "recipe", "endpoint")
    return {name: plan.get(name) for name in names} | {"corpus": plan["corpus"]["name"]}
