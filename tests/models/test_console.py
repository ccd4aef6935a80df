import io
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from pydantic import BaseModel, model_validator
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from ablate.models import ModelConfig
from ablate.models.console import Format, console, options_from, print_table, run
from ablate.models.errors import InputError, readable


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
    @options_from(Options)
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


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        raise InputError("no such thing; give another")

    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such thing; give another\n"


def test_a_fault_is_told_apart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise ValueError("shapes\ndiffer")

    with pytest.raises(SystemExit) as ended:
        run(app)
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.splitlines()[0] == "internal error: ValueError: shapes differ"
    assert "ABLATE_DEBUG=1" in told
    assert "Traceback" not in told
    monkeypatch.setenv("ABLATE_DEBUG", "1")
    with pytest.raises(SystemExit):
        run(app)
    assert 'raise ValueError("shapes' in capsys.readouterr().err


def test_what_a_configuration_refuses_is_readable() -> None:
    with pytest.raises(InputError, match=r"channels: Input should be .* \(got -1\)"), readable():
        ModelConfig(channels=-1)
    with pytest.raises(InputError, match=r"refuses all of it$"), readable():
        Refusing(size=3)


class Refusing(BaseModel):
    size: int

    @model_validator(mode="after")
    def _refused(self) -> "Refusing":
        raise InputError("refuses all of it")


def wide_table() -> Table:
    table = Table("cell", "digests", "seed", box=None)
    table.add_row("bidirectional+decoder4x", " ".join(["0123456789abcdef"] * 40), "12345")
    return table


def test_where_there_is_no_terminal_no_cell_is_cut_and_no_line_broken(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    print_table(wide_table(), console(out), spare=("digests",))
    console(out).print("a word " * 60)
    _, row, words, *rest = out.getvalue().splitlines()
    assert row.split() == ["bidirectional+decoder4x", *["0123456789abcdef"] * 40, "12345"]
    assert words.split() == ["a", "word"] * 60
    assert not rest


def test_a_terminal_too_narrow_gets_fewer_columns_and_is_told_so() -> None:
    out = io.StringIO()
    print_table(wide_table(), Console(file=out, width=60), spare=("digests", "seed"))
    head, row, told = out.getvalue().splitlines()
    assert head.split() == ["cell", "seed"]
    assert row.split() == ["bidirectional+decoder4x", "12345"]
    assert told == "columns left out because the terminal is too narrow: digests"


def test_what_is_too_wide_even_so_is_folded() -> None:
    out = io.StringIO()
    table = Table("cell", box=None)
    table.columns[0].no_wrap = True
    table.add_row("0123456789" * 5)
    print_table(table, Console(file=out, width=20))
    assert "".join(out.getvalue().split()) == "cell" + "0123456789" * 5


def test_brackets_in_a_cell_are_no_markup() -> None:
    out = io.StringIO()
    table = Table("how")
    table.add_row("pip install '.[cuda]'")
    print_table(table, console(out))
    assert "pip install '.[cuda]'" in out.getvalue()
