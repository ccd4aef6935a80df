"""Reads the scores of a study from an MLflow server alone."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pandas as pd

from ablate.ablations.grid import AnyCell
from ablate.models.errors import InputError
from ablate.studies.plan.store import read as read_plan
from ablate.studies.scores import RunInfo, join_scores
from ablate.training.files import read_lines
from ablate.training.rundir import read_json

from .study import StepBudgetScores, StudyInfo

FIRST_ALONE = "a tracking server only has the scores on the first test set; report from the run directories"


def scores_from_mlflow(
    tracking_uri: str, experiment: str, study: str | None = None
) -> tuple[pd.DataFrame, StudyInfo]:
    """The scores of a study that was mirrored to an MLflow server; run directories are not needed.

    Args:
        study: name of the parent run. Default: the most recent parent run with a plan.

    Raises:
        InputError: the experiment does not exist, lacks a parent run with a plan, or several roots mirror to
            it.
        TrackingError: the server does not answer, or refuses access.
    """
    from mlflow.exceptions import MlflowException

    from ablate.studies.redaction import redact
    from ablate.studies.tracking.store import all_runs, answering, connect

    client = connect(tracking_uri)
    shown = redact(tracking_uri)
    with answering(tracking_uri):
        name, _, identity = experiment.partition("@")
        found = client.get_experiment_by_name(experiment) or client.get_experiment_by_name(name)
        others = [e.name for e in client.search_experiments() if e.name.startswith(f"{name}@")]
    if found is not None and not identity and others:
        raise InputError(
            f"several roots have sent study {name!r} to {shown}; name one of {', '.join(others)}, or the "
            f"first, {name}@first"
        )
    if found is None:
        known = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
        raise InputError(f"no experiment {experiment!r} at {shown} (there: {known})")

    everything = all_runs(client, found.experiment_id)[::-1]
    parents = [run for run in everything if "mlflow.parentRunId" not in run.data.tags]
    if study is not None:
        parents = [run for run in parents if run.info.run_name == study.partition("@")[0]]
    with tempfile.TemporaryDirectory() as scratch:

        def download(run_id: str, path: str) -> Path | None:
            target = Path(scratch) / run_id
            target.mkdir(exist_ok=True)
            try:
                return Path(client.download_artifacts(run_id, path, str(target)))
            except (MlflowException, OSError):
                return None

        planned = ((run, download(run.info.run_id, "plan.json")) for run in parents)
        parent, path = next(((run, path) for run, path in planned if path), (None, None))
        if parent is None or path is None:
            named = f" named {study!r}" if study else ""
            raise InputError(f"no run{named} with a plan.json in experiment {experiment!r} at {shown}")
        plan = read_plan(path)
        children = {
            tuple(run.data.tags.get(f"ablate.{name}", "1") for name in ("cell", "seed", "length")): run
            for run in reversed(everything)
            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        }

        def run_of(fraction: float, cell: AnyCell, seed: int) -> tuple[RunInfo, Path]:
            child = children.get((cell.name, str(seed), f"{fraction:g}"))
            missing = Path(scratch) / "missing"
            signatures = cell.signatures[seed], cell.evaluations[seed]
            if child is None:
                return RunInfo(cell.name, seed, *signatures, state="pending"), missing
            files = ("scores.parquet", "summary.json", "metrics.jsonl")
            scores, summary, metrics = (download(child.info.run_id, file) for file in files)
            lines, tags = read_lines(metrics or missing), child.data.tags
            state = tags.get("ablate.state") or _state_of(child.info.status, scores is not None)
            info = RunInfo(
                cell=cell.name,
                seed=seed,
                training=tags.get("ablate.signature", signatures[0]),
                evaluation=signatures[1],
                state=state,
                cause=tags.get("ablate.cause"),
                step=max((int(line["step"]) for line in lines), default=0),
                steps=cell.config.steps,
                summary=(known := read_json(summary or missing) or {}),
                lost_steps=known.get("lost_steps", 0),
                metrics=lines,
                scored=scores is not None,
            )
            return info, scores or missing

        scores, infos = join_scores(plan, partial(run_of, 1.0))
        fractions = {
            at.step_fraction: StepBudgetScores(*join_scores(at, partial(run_of, at.step_fraction)))
            for at in plan.every_step_fraction()[1:]
        }
        source = f"{shown}, experiment {experiment}"
        more = {"step_fractions": fractions, "no_further": FIRST_ALONE}
        return scores, StudyInfo.of(plan, infos, source, **more)


def _state_of(status: str, scored: bool) -> str:
    if scored:
        return "done"
    return {"FAILED": "failed", "RUNNING": "running", "KILLED": "failed"}.get(status, "pending")
