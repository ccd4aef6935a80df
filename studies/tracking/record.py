"""A run of the tracking store, and what it is known to hold."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

History = dict[str, dict[int, float]]
"""key -> step -> value"""


class Record:
    """A run of the store; parameters, tags and status are sent where they differ from what it holds."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.status: str = run.info.status
        self.start: int = run.info.start_time or 0
        self.params = set(run.data.params)
        self.tags = dict(run.data.tags)

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    def log_params(self, params: dict[str, Any]) -> None:
        """Log the parameters the run lacks; MLflow refuses to change one."""
        from mlflow.entities import Param

        named = {clean_key(key): value for key, value in params.items() if value is not None}
        missing = {key: value for key, value in named.items() if key not in self.params}
        items = [Param(key, _text(value)[:6000]) for key, value in missing.items()]
        for start in range(0, len(items), 100):
            self.client.log_batch(self.run_id, params=items[start : start + 100])
        self.params |= missing.keys()

    def log_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        changed = {key: value for key, value in tags.items() if self.tags.get(key, "") != value}
        if changed:
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in changed.items()])
            self.tags |= changed

    def log_metrics(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def log_last(self, values: dict[str, float], time: float) -> None:
        """Log final metrics that the run lacks or holds with another value."""
        from mlflow.entities import Metric

        known = self.client.get_run(self.run_id).data.metrics
        self.log_metrics(
            [
                Metric(clean_key(key), value, int(time * 1000), 0)  # at step 0 the UI draws bars
                for key, value in values.items()
                if key not in known or not same(known[key], value)
            ]
        )

    def set_status(self, status: str, ended: float | None = None) -> None:
        """Set the status, and with it when the run ended, in seconds; None: now."""
        if status == "RUNNING":
            self.client.update_run(self.run_id, status=status)
        else:
            self.client.set_terminated(self.run_id, status, None if ended is None else int(ended * 1000))
        self.status = status

    def history(self, keys: Iterable[str]) -> History | None:
        """What the store holds of some metrics; None if a step stands there twice."""
        found: History = {}
        for key in keys:
            history = self.client.get_metric_history(self.run_id, key)
            found[key] = {metric.step: metric.value for metric in history}
            if len(found[key]) < len(history):
                return None
        return found


def clean_key(key: str) -> str:
    """A key as MLflow takes it: letters, digits, `_ - . : / ` and blanks."""
    return re.sub(r"[^\w\-.:/ ]", "_", key)[:250]


def same(one: float, other: float) -> bool:
    """Whether two values agree up to what a store may round."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
