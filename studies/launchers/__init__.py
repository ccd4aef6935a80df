"""Launchers, which start runs on slots. Each is one file here and one line in `LAUNCHERS`."""

from ablate.models.registry import Registry

from .base import Ended, Job, Launcher

LAUNCHERS = Registry(
    "launcher",
    {
        "inline": "ablate.studies.launchers.inline:InlineLauncher",
        "local": "ablate.studies.launchers.local:LocalLauncher",
        "slurm": "ablate.studies.launchers.slurm:SlurmLauncher",
    },
)

__all__ = ["LAUNCHERS", "Ended", "Job", "Launcher"]
