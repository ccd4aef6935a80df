"""`ablate sync` and `ablate ui`: MLflow from the run directories, and a window on it."""

from __future__ import annotations

import signal
from pathlib import Path

import typer

ROOT = typer.Option(
    Path("ablate-runs"), "--root", envvar="ABLATE_ROOT", help="Folder of all that ablate writes."
)
TRACKING_URI = typer.Option(
    None,
    "--tracking-uri",
    help="MLflow's store; default: $MLFLOW_TRACKING_URI, else an SQLite file in the root.",
    show_default=False,
)


def sync(
    study: str | None = typer.Argument(None, help="Study; default: all under the root."),
    root: Path = ROOT,
    tracking_uri: str | None = TRACKING_URI,
) -> None:
    """Bring MLflow up to date with the run directories; may be repeated at any time."""
    from ablate.studies.plan import names
    from ablate.studies.tracking import TrackingError, mirror

    chosen = [study] if study else names(root)[::-1]
    if not chosen:
        raise FileNotFoundError(
            f"no studies under {root / 'studies'}; give --root, or run `ablate run` first"
        )
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
    study: str | None = typer.Argument(None, help="Study to open on; default: the newest."),
    root: Path = ROOT,
    tracking_uri: str | None = TRACKING_URI,
    port: int | None = typer.Option(
        None, help="Port on 127.0.0.1; 0: a free one. Default: 5000, or a free one if taken."
    ),
) -> None:
    """Show the runs in MLflow's own pages until Ctrl-C."""
    from ablate.studies.tracking import TrackingError
    from ablate.studies.ui import serve

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


def register(app: typer.Typer) -> None:
    app.command()(sync)
    app.command()(ui)
