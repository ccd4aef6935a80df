"""What is stored of the findings' studies: their files, scores as parquet, what plan and runs say as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna

from ablate.models.errors import plural
from ablate.studies import plan as plans
from ablate.studies.scores import scores_of_runs
from ablate.studies.study import Study
from ablate.studies.study_file import read_file
from ablate.studies.trials import open_storage
from ablate.training.config import Recipe
from ablate.training.metrics.registry import METRICS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "findings"
STUDIES = {
    "a": "the question as it was asked",
    "b": "what really happened",
    "c": "what the gap is made of",
    "d": "equal tuning",
    "e": "equal tuning, judged on all validation files",
    "f": "the question as it was asked, fresh seeds",
    "g": "what the gap is made of, fresh seeds",
    "h": "the question as it was asked, longer",
    "i": "the question as it was asked, wider",
}


def request(name: str) -> Study:
    """A study as its file asks for it."""
    return Study.model_validate(read_file(FOLDER / f"{name}.yaml"))


def recipe_of(name: str) -> Recipe:
    """The recipe that every cell of a study is trained with, but for what was tuned."""
    return request(name).grid.cells()[0].config.recipe


def take(root: Path, name: str) -> None:
    """Store the scores of a study and what its plan says, without a path or a machine's name.

    Step budgets that have runs left are left out.
    """
    plan = plans.load(root, request(name).name)
    (FOLDER / "scores").mkdir(exist_ok=True)
    planned, runs, validation = 0, [], []
    for at in plan.every_step_fraction():
        scores, found = scores_of_runs(at, root)
        planned += len(found)
        if left := sum(not run.scored and run.state != "diverged" for run in found):
            print(f"study {name}, {at.step_fraction:g} of its steps: {left} runs left, not stored")
            continue
        runs += found
        if at.step_fraction == 1.0:
            validation = [
                [r.cell, r.seed, r.training, r.summary.get("val_pesq_wb")] for r in found if r.scored
            ]
        kept = ["cell", *(factor.name for factor in plan.factors), "seed", "training", "status", "utterance"]
        kept += ["speaker", "snr", "noise", *(m for m in METRICS if m in scores), "noisy_pesq_wb"]
        table = scores[kept]
        numbers = dict.fromkeys(table.select_dtypes("float"), "float32")
        path = stored(name, at.step_fraction)
        table.astype(numbers).round(4).to_parquet(path, index=False, compression="zstd")
    said = {
        "parameters": {cell.name: cell.parameters for cell in plan.cells},
        "planned": planned,
        "scored": sum(run.scored for run in runs),
        "diverged": sum(run.state == "diverged" for run in runs),
        "tuned": {cell.name: cell.tuned for cell in plan.cells if cell.tuned},
        "tried": tried(root, plan) if plan.tune is not None else {},
        "validation": validation,
        "corpus": plan.corpus.model_dump(include={"train", "validation", "test"}),
        "waived": plan.audit.waived,
        "skipped_audit": plan.audit.skipped,
        "errors": sorted({f["code"] for f in plan.audit.findings if f["severity"] == "error"}),
    }
    stored(name).with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n")


def tried(root: Path, plan: plans.Plan) -> dict[str, list[dict[str, float]]]:
    """The settings that each cell was tuned with, and the validation PESQ-WB of each."""
    storage = open_storage(plans.study_path(root, plan.name))
    found = {}
    for cell in plan.cells:
        trials = optuna.load_study(study_name=f"{plan.name}/tune/{cell.name}", storage=storage).trials
        values = [{**trial.params, "validation": trial.value} for trial in trials if trial.value is not None]
        found[cell.name] = sorted(values, key=lambda each: tuple(each.values()))
    return found


def stored(name: str, length: float = 1.0) -> Path:
    return FOLDER / "scores" / (f"{name}.parquet" if length == 1.0 else f"{name}-{length:g}.parquet")


def facts_of(name: str) -> dict[str, Any]:
    """What is stored of a study beside its scores."""
    return json.loads(stored(name).with_suffix(".json").read_text())


def audit_line(facts: dict[str, Any]) -> str:
    """What the audit of a study came to."""
    if facts["skipped_audit"]:
        return "The audit was skipped."
    if facts["waived"]:
        return f"The audit's findings {', '.join(facts['waived'])} were waived, as they are what is studied."
    return f"The audit found {plural(len(facts['errors']), 'error')}."
