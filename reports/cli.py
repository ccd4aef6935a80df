"""The command line: the commands of all packages. A command imports what it needs when it is called."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ablate.ablations import commands as ablations
from ablate.models import commands as models
from ablate.models.console import run
from ablate.models.distribution import clash, version_of
from ablate.studies import commands as studies
from ablate.training import commands as training

from . import commands as reports

app = typer.Typer(
    name="ablate", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ablate {version_of('ablate')}")
        raise typer.Exit


@app.callback()
def _front(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Which of my changes cost the PESQ? Ablations of speech-enhancement networks, with intervals.

    Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 internal error,
    2 usage, 3 some runs failed or diverged, 4 incomplete, 5 refused, 130 interrupted.
    """


studies.register(app, write_report=reports.write_report)
reports.register(app)
ablations.register(app)
models.register(app)
training.register(app)


class _AsWritten(TyperCommand):
    """A command whose help shows square brackets literally, not as rich's markup."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        from rich.markup import escape

        self.help = escape(self.help or "")
        for parameter in self.params:
            parameter.help = escape(getattr(parameter, "help", None) or "")  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


for listed in (app, *(group.typer_instance for group in app.registered_groups)):
    for command in listed.registered_commands if listed is not None else ():
        command.cls = _AsWritten
        command.short_help = (inspect.getdoc(command.callback) or "").partition("\n\n")[0]


def main() -> None:
    """Run the command line."""
    if problem := clash():
        print(f"warning: {problem}", file=sys.stderr)
    run(app)
