"""The run of a whole study: progress, and a note with the report's table."""

from __future__ import annotations

from pathlib import Path

from ablate.training.rundir import RunDir

from ..plan import Plan, study_path
from .run_mirror import Child, Mode, Place, stamp
from .store import COMPARED, Record, compare_link

NOTE_LIMIT = 7500
"""Characters of a note; MLflow refuses tags beyond 8000."""


class Parent:
    """Mirrors what concerns a study as a whole into its parent run, which is made where it is missing."""

    def __init__(self, plan: Plan, place: Place, record: Record | None) -> None:
        self._plan, self._place = plan, place
        self._folder = study_path(place.root, plan.name)
        self._stamps: dict[Path, tuple[int, ...]] = {}
        client = place.client
        if record is None:
            tags = {**place.tags, "ablate.kind": "study"}
            start = int(plan.created * 1000)
            record = Record(client, client.create_run(place.experiment, start, tags, run_name=plan.name))
        self.record = record
        params = plan.model_dump(mode="json", include={"base", "baseline", "design", "recipe", "endpoint"})
        record.log_params(params | {"corpus": plan.corpus.name})
        client.log_inputs(record.run_id, place.datasets)

    def mirror(self, mode: Mode, children: list[Child]) -> None:
        """Bring the parent run up to date with the children, of which there is one for each cell x seed."""
        records = [child.record for child in children if child.record is not None]
        statuses = [record.status for record in records]
        done, failed = statuses.count("FINISHED"), statuses.count("FAILED")
        progress = f"{done} of {len(children)} done" + (f", {failed} failed or diverged" if failed else "")
        self.record.log_tags(
            {
                "ablate.progress": progress,
                "ablate.seeds": ",".join(map(str, self._plan.seeds)),
                "mlflow.note.content": self._note(progress, [record.run_id for record in records]),
            }
        )
        self._log_files()
        if mode == "live" or "RUNNING" in statuses:
            status = "RUNNING"
        elif failed and done + failed == len(children):
            status = "FAILED"
        else:
            status = "FINISHED" if done == len(children) else "KILLED"
        if status != self.record.status:
            self.record.set_status(status)

    def _note(self, progress: str, run_ids: list[str]) -> str:
        note = f"**{progress}.**"
        if run_ids:
            which = "these runs" if len(run_ids) <= COMPARED else f"the first {COMPARED} runs"
            note += f" [Compare {which}]({compare_link(self._place.experiment, run_ids)})."
        if self._plan.corpus.is_demo:
            note += " Demo corpus: for trying out ablate, not for conclusions."
        table = self._folder / "report" / "table.md"
        if not table.exists():
            return note
        text, room = table.read_text(), NOTE_LIMIT - len(note) - 2
        if len(text) > room:
            rows = text[: max(0, room - 80)].rpartition("\n")[0]
            text = f"{rows}\n\n(cut; the whole table is the artifact report/table.md)"
        return f"{note}\n\n{text}"

    def _log_files(self) -> None:
        """The plan, the report, and the clean and noisy clips that all runs share."""
        clips = RunDir(self._place.root / "runs" / "any").references(self._plan.corpus.test_digest)
        files = dict.fromkeys(clips.glob("*.wav"), "audio") | {self._folder / "plan.json": ""}
        for path in self._folder.glob("report/**/*"):
            if path.is_file() and not path.name.startswith("."):
                files[path] = str(path.parent.relative_to(self._folder))
        for path, where in files.items():
            if self._stamps.get(path) != (now := stamp(path)):
                self._place.client.log_artifact(self.record.run_id, str(path), where or None)
                self._stamps[path] = now
