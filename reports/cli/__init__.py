"""The command line: a thin front door that imports what a command needs when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

MODULES = ("study", "report", "audit", "tracking", "model", "audio", "data")

app = typer.Typer(
    name="ablate",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which of my changes cost the PESQ? Ablations of speech-enhancement networks, with intervals.",
)


@app.callback()
def _front() -> None:
    """Which of my changes cost the PESQ? Ablations of speech-enhancement networks, with intervals.

    Data goes to standard output, everything else to standard error. Exit codes: 0 done, 2 usage,
    3 some runs failed or diverged, 4 incomplete, 5 refused, 130 interrupted.
    """


for _module in MODULES:
    import_module(f"ablate.reports.cli.{_module}").register(app)


def main() -> None:
    """Run the command line; an error in the input is one line and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {_words(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _words(error: Exception) -> str:
    if hasattr(error, "errors"):
        from ablate.training.config import explain

        return explain(error)  # type: ignore[arg-type]
    return str(error)
