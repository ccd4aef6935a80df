"""Ways to get a run onto a slot. A launcher is one file here and one line in `LAUNCHERS`."""

from models.registry import Registry

from .base import Ended, Launcher, Task

LAUNCHERS = Registry(
    "launcher",
    {
        "inline": "studies.launchers.inline:InlineLauncher",
        "local": "studies.launchers.local:LocalLauncher",
        "slurm": "studies.launchers.slurm:SlurmLauncher",
    },
)

__all__ = ["LAUNCHERS", "Ended", "Launcher", "Task"]
