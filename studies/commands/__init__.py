"""The commands about studies, from planning one to its archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from . import archive, audit, check, ensembles, next, power, run, status, tracking


def register(app: typer.Typer, write_report: Callable[[Path, str], None]) -> None:
    """Add the commands of this package.

    Args:
        write_report: writes the report of a study, given the root and its name.
    """
    app.command()(run.command(write_report))
    app.command()(run.retry_command(write_report))
    app.command()(check.check)
    app.command()(status.status)
    app.command()(status.logs)
    app.command("next")(next.next_)
    app.command()(ensembles.ensemble)
    app.command()(audit.audit)
    app.command()(power.power)
    app.command()(tracking.sync)
    app.command()(tracking.ui)
    app.command()(archive.export)
    app.command("import")(archive.import_command(write_report))
