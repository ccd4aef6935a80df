"""The options that several commands of this package share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ablate.models.console import ROOT


def studies_of_root(ctx: typer.Context) -> list[str]:
    """Study names for shell completion."""
    from ..plan import names

    return names(Path(ctx.params.get("root") or ROOT))


def option(panel: str, *names: str, metavar: str | None = None, **facts: Any) -> Any:
    """An option in a panel of the help."""
    return typer.Option(*names, rich_help_panel=panel, metavar=metavar, **facts)


StudyName = Annotated[
    str | None,
    typer.Argument(help="Name of the study. [default: the most recent]", autocompletion=studies_of_root),
]

COMPUTE = "Compute"
Launcher = Annotated[
    str | None,
    option(COMPUTE, metavar="NAME", help="Where runs start: inline, local or slurm. [default: local]"),
]
Jobs = Annotated[int | None, option(COMPUTE, metavar="N", help="Runs at once.")]
Gpus = Annotated[str | None, option(COMPUTE, metavar="0,2", help="GPUs to use; '' for the CPU.")]
RunsPerGpu = Annotated[int | None, option(COMPUTE, metavar="N", help="Runs on one GPU at once. [default: 1]")]
Slurm = Annotated[
    list[str], option(COMPUTE, metavar="NAME=VALUE", help="SLURM setting, e.g. partition=gpu; repeat.")
]
Storage = Annotated[
    str | None,
    option(COMPUTE, metavar="URL", envvar="ABLATE_STORAGE", help="Database of Optuna, e.g. postgresql://..."),
]
TrackingUri = Annotated[
    str | None, option(COMPUTE, metavar="URL", envvar="MLFLOW_TRACKING_URI", help="Address of MLflow.")
]


def compute_of(params: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Compute` that were given among a command's parameters."""
    from ..compute import Compute

    found = {name: params[name] for name in Compute.model_fields if name in params}
    return {name: value for name, value in found.items() if value not in (None, [])}
