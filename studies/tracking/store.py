"""The tracking store: its URI, schema, experiments, pages and runs."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import quote, unquote

from ablate.training.files import atomic_write, locked

from ..redaction import brief, keep_secret, redact, scrub

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment of clients and of the server of `ablate ui`, without retries, jobs and telemetry."""
COMPARED = 60
"""Maximum number of runs in a comparison link."""
VIEW = "ablate"
"""Name of the shared view of an experiment's runs."""
CHARTS = {"val": True, "test": True, "train": True, "selected": False, "noisy": False, "cost": False}
"""Group of charts in that view -> whether it is open; in display order."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps(
        {
            "searchFilter": "tags.`ablate.kind` = 'run'",
            "groupBy": {
                "aggregateFunction": "average",
                "groupByKeys": [{"mode": "param", "groupByData": "cell"}],
            },
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": [],
            "compareRunSections": [
                {"uuid": f"{VIEW}-{name}", "name": name, "display": shown}
                | {"isReordered": False, "isGenerated": True}
                for name, shown in CHARTS.items()
            ],
            "isAccordionReordered": True,
        }
    ),
}
"""Tags of an experiment, for a model-development page with runs grouped by cell."""
History = dict[tuple[str, int], float]
"""(key, step) -> value"""


class TrackingError(RuntimeError):
    """The tracking store failed; the message does not contain secrets."""


def default_uri(root: Path | str) -> str:
    """The URI of the store that does not need a server: an SQLite file in the root."""
    return _sqlite_uri(Path(root).resolve() / "mlflow.db")


def _sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file.

    If its path needs quoting, the URI also names the driver, because MLflow creates the folders of a plain
    `sqlite:///` URI without unquoting it.
    """
    plain = not set("?%") & set(str(path))
    return f"sqlite:///{path}" if plain else f"sqlite+pysqlite:///{quote(str(path), safe=' +/')}"


def _sqlite_file(uri: str) -> Path | None:
    driver, slashes, path = uri.partition(":///")
    if not (slashes and driver.startswith("sqlite")):
        return None
    path = path.partition("?")[0]
    return Path(unquote(path) if "+" in driver else path)


def resolve_uri(root: Path | str, tracking_uri: str | None = None) -> str:
    """The tracking URI: the one given, else `MLFLOW_TRACKING_URI`, else the root's own file."""
    if tracking_uri:
        keep_secret(tracking_uri, "--tracking-uri", URI_VARIABLE)
    return tracking_uri or os.environ.get(URI_VARIABLE) or default_uri(root)


def connect(uri: str) -> MlflowClient:
    """A client of the tracking store without retries and telemetry."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    utils.MAX_RETRY_COUNT = 1  # not ten tries with growing pauses: whoever waits here tries again by itself
    return MlflowClient(tracking_uri=uri)


def prepare(uri: str) -> None:
    """Create the schema of the tracking store, in one process at a time, since concurrent migrations fail.

    A killed migration cannot be repaired, so a new SQLite file gets its final name only with its schema.

    Raises:
        TrackingError: the store does not answer.
    """
    database = _sqlite_file(uri)
    if database is not None:
        lock = database.with_name(f"{database.name}.lock")
    else:
        digest = sha256(uri.encode()).hexdigest()[:16]
        lock = Path(tempfile.gettempdir()) / f"ablate-{os.getuid()}-{digest}.lock"
    with locked(lock), answering(uri):
        if database is not None and not database.exists():
            with atomic_write(database) as draft:
                connect(_sqlite_uri(draft)).search_experiments(max_results=1)
        connect(uri).search_experiments(max_results=1)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn errors of a store into a `TrackingError`, without the secrets of its URI."""
    try:
        yield
    except Exception as error:
        raise TrackingError(f"{redact(uri)} does not answer: {scrub(brief(error), uri)}") from None


def find_experiment(client: MlflowClient, study: str, identity: str) -> Any:
    """The experiment of a root's study: `study@identity`, else the one with the study's name, else None."""
    return client.get_experiment_by_name(f"{study}@{identity}") or client.get_experiment_by_name(study)


def open_experiment(
    client: MlflowClient,
    study: str,
    identity: str,
    of_root: Callable[[list[Run]], list[Run]],
    artifacts: str | None,
) -> tuple[str, list[Run]]:
    """Find, create or restore the experiment of a root's study.

    It has the study's name, or `study@identity` if another root already uses that name.

    Args:
        of_root: selects the runs that this root created.
        artifacts: URI for the artifacts of a new experiment. Default: chosen by the server.

    Returns:
        Its identifier, and the root's runs in it, the oldest first.
    """
    name, found = study, find_experiment(client, study, identity)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        runs = all_runs(client, found.experiment_id)
        ours = of_root(runs)
        if ours or not runs or found.name != study:
            for key, value in EXPERIMENT_TAGS.items():
                if found.tags.get(key) != value:
                    client.set_experiment_tag(found.experiment_id, key, value)
            return found.experiment_id, ours
        name = f"{study}@{identity}"
    return client.create_experiment(name, artifacts, tags=EXPERIMENT_TAGS), []


def runs_link(experiment_id: str) -> str:
    """The MLflow page of an experiment's runs, grouped by cell and charted, relative to the server."""
    return (
        f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    )


def compare_link(experiment_id: str, run_ids: list[str]) -> str:
    """The part after `#` in the URL of the MLflow page that compares some runs, as a relative link."""
    runs = quote(json.dumps(run_ids[:COMPARED], separators=(",", ":")))
    experiments = quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def all_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The active runs of an experiment, the oldest first."""
    from mlflow.utils import get_results_from_paginated_fn

    def page(count: int, token: str | None) -> Any:
        order = ["attributes.start_time ASC"]
        return client.search_runs([experiment_id], max_results=count, order_by=order, page_token=token)

    return get_results_from_paginated_fn(page, 1000)


class Record:
    """A run in the store. Parameters, tags and status are sent only if they differ."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.status: str = run.info.status
        self.params = set(run.data.params)
        self.metrics = dict(run.data.metrics)
        self.tags = dict(run.data.tags)

    def log_params(self, params: dict[str, Any]) -> None:
        """Log the parameters that the run lacks; MLflow refuses to change existing ones."""
        from mlflow.entities import Param

        texts = {
            clean_key(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in params.items()
            if value is not None
        }
        lacking = [Param(key, text[:6000]) for key, text in texts.items() if key not in self.params]
        self.client.log_batch(self.run_id, params=lacking)

    def log_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        changed = {key: value for key, value in tags.items() if self.tags.get(key, "") != value}
        if changed:
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in changed.items()])
            self.tags |= changed

    def log_last(self, values: dict[str, float], time: float) -> None:
        """Log final metrics that the run lacks or has with another value."""
        from mlflow.entities import Metric

        named = {clean_key(key): value for key, value in values.items()}
        changed = {k: v for k, v in named.items() if not same(self.metrics.get(k, math.nan), v)}
        last = [Metric(k, v, int(time * 1000), 0) for k, v in changed.items()]  # at step 0 the UI draws bars
        self.client.log_batch(self.run_id, metrics=last)
        self.metrics |= changed

    def set_status(self, status: str, ended: float | None = None) -> None:
        """Set the status, and the time when the run ended in seconds since the epoch (default: now)."""
        if status == "RUNNING":
            self.client.update_run(self.run_id, status=status)
        else:
            self.client.set_terminated(self.run_id, status, None if ended is None else int(ended * 1000))
        self.status = status

    def history(self, keys: Iterable[str]) -> History | None:
        """The store's values of some metrics; None if a step occurs twice."""
        lists = [self.client.get_metric_history(self.run_id, key) for key in keys]
        found = {(metric.key, metric.step): metric.value for metrics in lists for metric in metrics}
        return found if len(found) == sum(map(len, lists)) else None


def clean_key(key: str) -> str:
    """A valid key for MLflow: letters, digits, `_ - . : /` and spaces."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)[:250]


def same(one: float, other: float) -> bool:
    """Whether two values agree up to rounding in a store."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
