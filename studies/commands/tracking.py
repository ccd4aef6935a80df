"""`ablate sync` and `ablate ui`: MLflow from the run directories, and a window on it."""

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
        help="MLflow's store; default: $MLFLOW_TRACKING_URI, else an SQLite file in the root.",
        show_default=False,
    ),
]


def sync(
    study: Annotated[
        str | None, typer.Argument(help="Study; default: all under the root.", autocompletion=studies_of_root)
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Bring MLflow up to date with the run directories; may be repeated at any time."""
    from ..plan import names
    from ..tracking import TrackingError, mirror

    chosen = [study] if study else names(root)[::-1]
    if not chosen:
        raise InputError(f"no studies under {root / 'studies'}; give --root, or run `ablate run` first")
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
        typer.Argument(help="Study to open on; default: the newest.", autocompletion=studies_of_root),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port on 127.0.0.1; 0: a free one. Default: 5000, or a free one if taken."),
    ] = None,
) -> None:
    """Show the runs in MLflow's own pages until Ctrl-C."""
    from ..tracking import TrackingError
    from ..ui import serve

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with serve(root, study, tracking_uri, port) as window:
            typer.echo(window.runs)
            if window.compare:
                typer.echo(f"all runs side by side: {window.compare}", err=True)
            if window.process is not None:
                typer.echo("Ctrl-C ends it", err=True)
                code = window.process.wait()
                raise TrackingError(f"the MLflow server ended by itself with code {code}")
    except KeyboardInterrupt:
        typer.echo("ended", err=True)
    except TrackingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(4) from None
