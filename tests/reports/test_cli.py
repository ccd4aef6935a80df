from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from ablate.reports.cli import app


def test_the_front_door_imports_nothing_heavy():
    heavy = ("torch", "mlflow", "optuna", "pandas", "numpy", "scipy", "matplotlib", "pydantic", "statsmodels")
    script = f"import sys, ablate.reports.cli; print([m for m in {heavy!r} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "offered"),
    [("ablate rep", "report"), ("ablate run --gr", "--grid"), ("ablate report --format m", "md")],
)
@pytest.mark.slow
def test_a_shell_completes_commands_options_and_values(line, offered):
    script = "import sys, ablate.reports.cli as cli; sys.argv = ['ablate']; cli.main()"
    asked = {"_ABLATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    told = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [offered]


def test_help_says_what_each_command_does_to_the_end_and_what_exit_codes_mean():
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert "Exit codes" in told
    assert "..." not in told.replace("[ARGS]...", "")
    assert "each seed. Completed runs are skipped." in " ".join(told.split())
    assert "leaks, wrong pairs." in CliRunner().invoke(app, ["data", "--help"]).stdout


def test_the_version_is_shown():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"ablate {version('ablate-speech')}\n"
