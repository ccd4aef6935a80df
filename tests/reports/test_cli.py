from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_the_front_door_imports_nothing_heavy():
    heavy = ("torch", "mlflow", "optuna", "pandas", "numpy", "scipy", "matplotlib", "pydantic", "statsmodels")
    script = f"import sys, ablate.reports.cli; print([m for m in {heavy!r} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "offered"),
    [("ablate rep", "report"), ("ablate run --gr", "--grid"), ("ablate report --format m", "md")],
)
def test_a_shell_completes_commands_options_and_values(line, offered):
    script = "import sys, ablate.reports.cli as cli; sys.argv = ['ablate']; cli.main()"
    asked = {"_ABLATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    told = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [offered]
