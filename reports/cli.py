"""The command line: the commands of all rooms. What a command needs is imported when it is called."""

from __future__ import annotations

import typer

from ablate.ablations import commands as ablations
from ablate.models import commands as models
from ablate.models.console import run
from ablate.studies import commands as studies
from ablate.training import commands as training

from . import commands as reports

app = typer.Typer(
    name="ablate",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which of my changes cost the PESQ? Ablations of speech-enhancement networks, with intervals.",
)


@app.callback()
def _front() -> None:
    """Which of my changes cost the PESQ? Ablations of speech-enhancement networks, with intervals.

    Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 a fault, 2 usage,
    3 some runs failed or diverged, 4 incomplete, 5 refused, 130 interrupted.
    """


studies.register(app, write_report=reports.write_report)
reports.register(app)
ablations.register(app)
models.register(app)
training.register(app)


def main() -> None:
    """Run the command line."""
    run(app)
