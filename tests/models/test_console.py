from dataclasses import dataclass, field
from typing import Annotated

import typer
from typer.testing import CliRunner

from ablate.models.console import Format, takes
from ablate.models.errors import InputError


@dataclass(frozen=True)
class Options:
    name: Annotated[str, typer.Argument(help="Whom.")]
    times: Annotated[int, typer.Option("--repeat", help="How often.")] = 1
    words: Annotated[list[str], typer.Option(help="What else.")] = field(default_factory=list)
    format: Format = "table"


def test_a_command_takes_a_dataclass_of_options() -> None:
    app = typer.Typer()
    got = []

    @app.command()
    @takes(Options)
    def greet(options: Options) -> None:
        """Greet."""
        got.append(options)

    assert CliRunner().invoke(app, ["you", "--repeat", "2", "--words", "a", "--words", "b"]).exit_code == 0
    assert CliRunner().invoke(app, ["me"]).exit_code == 0
    assert got == [Options("you", 2, ["a", "b"]), Options("me")]
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert all(word in told for word in ("Greet.", "Whom.", "--repeat", "How often.", "table or json."))
    refused = CliRunner().invoke(app, ["me", "--format", "xml"]).exception
    assert isinstance(refused, InputError)
    assert str(refused) == "unknown format 'xml'; known: table, json"
