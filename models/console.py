"""Shared code of all commands: options, tables, and how an error ends a command."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, get_type_hints

import typer

from .errors import InputError, storage_problem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 10_000
ROOT = Path("ablate-runs")
Root = Annotated[
    Path, typer.Option("--root", envvar="ABLATE_ROOT", help="Folder of studies, runs and caches.")
]
Plugins = Annotated[
    list[Path], typer.Option("--plugin", help="Python file that registers parts (repeatable).")
]


def formats(*known: str, panel: str | None = None) -> Any:
    """The option `--format` with these values; any other value raises an `InputError`."""

    def check(value: str) -> str:
        if value not in known:
            raise InputError(f"unknown format {value!r}; known: {', '.join(known)}")
        return value

    words = f"{', '.join(known[:-1])} or {known[-1]}."
    return typer.Option(
        "--format",
        help=words,
        callback=check,
        autocompletion=lambda: known,
        rich_help_panel=panel,
        metavar="FORM",
    )


Format = Annotated[str, formats("table", "json")]


def options_from(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that takes one dataclass: each field, annotated for Typer, becomes an option."""
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default if field.default_factory is MISSING else field.default_factory(),
            annotation=hints[field.name],
        )
        for field in fields(options)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            command(options(**values))

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__annotations__ = hints
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def table(*columns: str) -> Table:
    """An empty table; it has no header if no column has a name."""
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE, show_header=any(columns))


def console(out: TextIO | None = None) -> Console:
    """A console on standard output or another stream, without markup.

    If the stream is not a terminal, the console does not wrap lines or cut cells.
    """
    from rich.console import Console

    out = sys.stdout if out is None else out
    return Console(file=out, highlight=False, markup=False, width=None if out.isatty() else WIDE)


def print_table(table: Table, out: Console | None = None, spare: Sequence[str] = ()) -> None:
    """Print a table, and below it the columns that `fit` left out."""
    out = console() if out is None else out
    left_out = fit(table, out, spare)
    out.print(table)
    if left_out:
        out.print(left_out, style="dim", markup=False)


def fit(table: Table, out: Console, spare: Sequence[str] = ()) -> str:
    """Make a table fit a console: drop columns of `spare`, in order, until it fits; if needed, fold cells.

    Returns:
        A sentence on the dropped columns.
    """

    def too_wide() -> bool:
        return out.measure(table, options=out.options.update(max_width=WIDE)).maximum > out.width

    gone: list[str] = []
    for heading in spare:
        if too_wide() and any(column.header == heading for column in table.columns):
            table.columns = [column for column in table.columns if column.header != heading]
            gone.append(heading)
    for index, column in enumerate(table.columns):
        column._index = index
        column.overflow = "fold"
        column.no_wrap &= not too_wide()
    return f"columns left out because the terminal is too narrow: {', '.join(gone)}" if gone else ""


def plain(value: Any) -> Any:
    """Convert a nested value to JSON types; non-finite numbers become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    typer.echo(json.dumps(plain(value), indent=1))


def run(app: Callable[[], Any]) -> None:
    """Run a command line and turn exceptions into exit codes.

    An `InputError`, or a full or read-only disk, prints one line and exits with 2. Any other exception is an
    internal error: it prints type and message and exits with 1. `ABLATE_DEBUG=1` shows the traceback.
    """
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ABLATE_DEBUG"):
            traceback.print_exc()
        if problem := storage_problem(error):
            error = InputError(problem)
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        words = " ".join(str(error).split())
        print(f"internal error: {type(error).__name__}: {words}", file=sys.stderr)
        if not os.environ.get("ABLATE_DEBUG"):
            print("set ABLATE_DEBUG=1 for the traceback", file=sys.stderr)
        sys.exit(1)
