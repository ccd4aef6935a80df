"""Mirrors run directories to MLflow, live or later.

The run directories are the source of truth; training never contacts MLflow. A separate process reads them and
updates the tracking store in idempotent passes. A store that is down or slow does not affect training, and a
later pass sends what is missing.

`store` connects to MLflow and wraps its experiments and runs, `run_mirror` mirrors a run, `passes` mirrors a
study, and `process` runs the mirror next to the driver.
"""

from .passes import Mirror, Mirrored, mirror
from .process import TrackerProcess
from .store import TrackingError, connect, default_uri, prepare, resolve_uri

__all__ = ["Mirror", "Mirrored", "TrackerProcess", "TrackingError"]
__all__ += ["connect", "default_uri", "mirror", "prepare", "resolve_uri"]
