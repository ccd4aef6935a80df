"""The experiment a study's runs are in: its tags, its shared view, the links to its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

COMPARED = 60
"""Runs that a comparison link names, at most."""
VIEW = "ablate"
"""Name of the shared view of an experiment's runs."""
SECTIONS = {"val": True, "test": True, "train": True, "selected": False, "noisy": False, "cost": False}
"""Groups of charts in that view, in order, and whether they are open."""


def open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Find or make an experiment, give it its tags, and bring it back if it was deleted.

    Args:
        artifacts: URI of the artifacts of an experiment that is made; none: the server decides.

    Returns:
        Its identifier.
    """
    tags = _experiment_tags()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.create_experiment(name, artifacts, tags=tags)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment.experiment_id


def _experiment_tags() -> dict[str, str]:
    """Tags that make an experiment model development in the UI and give it a shared view.

    The view groups the child runs by cell, so that a chart has one curve for each cell.
    """
    view = {
        "searchFilter": "tags.`ablate.kind` = 'run'",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "cell"}],
        },
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [],
        "compareRunSections": [
            {
                "uuid": f"{VIEW}-{name}",
                "name": name,
                "display": shown,
                "isReordered": False,
                "isGenerated": True,
            }
            for name, shown in SECTIONS.items()
        ],
        "isAccordionReordered": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def runs_link(experiment_id: str) -> str:
    """The MLflow page of an experiment's runs, grouped by cell and charted, relative to the server."""
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    )


def compare_link(experiment_id: str, run_ids: list[str]) -> str:
    """The part after `#` of the MLflow page that compares some runs, as a relative link."""
    runs = quote(json.dumps(run_ids[:COMPARED], separators=(",", ":")))
    experiments = quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """The active runs of an experiment, the oldest first."""
    page = None
    while True:
        found = client.search_runs(
            [experiment_id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=page
        )
        yield from found
        page = found.token
        if not page:
            return
