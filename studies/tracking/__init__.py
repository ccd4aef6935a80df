"""Mirrors run directories into MLflow, at once or later.

The run directories are the truth; a training never talks to MLflow. A mirroring process reads them and brings
the tracking store up to date, pass by pass, so that a store that is down or slow costs a training nothing and
whatever was missed is sent by a later pass. Every pass is idempotent.

`store` connects and has experiments and runs, `run_mirror` mirrors a cell x seed, `passes` a study, `process`
runs beside the driver.
"""

from .passes import Mirror, Mirrored, mirror
from .process import TrackerProcess
from .store import TrackingError, connect, default_uri, prepare, resolve_uri

__all__ = ["Mirror", "Mirrored", "TrackerProcess", "TrackingError"]
__all__ += ["connect", "default_uri", "mirror", "prepare", "resolve_uri"]
