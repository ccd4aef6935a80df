"""Mirrors run directories into MLflow, at once or later.

The run directories are the truth; a training never talks to MLflow. A mirroring process reads them and brings
the tracking store up to date, pass by pass, so that a store that is down or slow costs a training nothing and
whatever was missed is sent by a later pass. Every pass is idempotent.

`store` connects and hides secrets, `record` is one run of the store, `experiment` what the runs are in,
`child` mirrors a cell x seed, `parent` the study, `passes` all of it, `process` runs beside the driver.
"""

from .experiment import compare_link, runs_link
from .passes import Mirror, Mirrored, mirror
from .process import TrackerProcess
from .store import TrackingError, connect, default_uri, prepare, redact, resolve_uri, scrub

__all__ = [
    "Mirror",
    "Mirrored",
    "TrackerProcess",
    "TrackingError",
    "compare_link",
    "connect",
    "default_uri",
    "mirror",
    "prepare",
    "redact",
    "resolve_uri",
    "runs_link",
    "scrub",
]
