"""`ablate sync` and `ablate ui`: update MLflow from the run directories, and show it."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from ablate.models.console import ROOT, Root
from ablate.models.errors import InputError

from .options import studies_of_root

TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="Address of MLflow. [default: $MLFLOW_TRACKING_URI, else an SQLite file in the root]",
        show_default=False,
    ),
]


def sync(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Name of the study. [default: all under the root]", autocompletion=studies_of_root
        ),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Send the runs that MLflow does not have yet. Safe to repeat."""
    from ..plan import names
    from ..tracking import TrackingError, mirror

    chosen = [study] if study else names(root)[::-1]
    if not chosen:
        raise InputError(f"no studies in {root / 'studies'}; give another --root, or run `ablate run`")
    incomplete = False
    for name in chosen:
        try:
            outcome = mirror(root, name, tracking_uri)
        except TrackingError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(4) from None
        typer.echo(outcome.message, err=True)
        incomplete |= not outcome
    if incomplete:
        raise typer.Exit(4)


def ui(
    study: Annotated[
        str | None,
        typer.Argument(help="Study to open. [default: the most recent]", autocompletion=studies_of_root),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1; 0 for a free one. [default: 5000, or a free one]")
    ] = None,
) -> None:
    """Open MLflow's pages with the runs. Press Ctrl-C to stop."""
    from ..tracking import TrackingError
    from ..ui import serve

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with serve(root, study, tracking_uri, port) as window:
            typer.echo(window.runs)
            if window.process is not None:
                typer.echo("press Ctrl-C to stop", err=True)
                code = window.process.wait()
                raise TrackingError(f"the MLflow server stopped with exit code {code}")
    except KeyboardInterrupt:
        typer.echo("ended", err=True)
    except TrackingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
