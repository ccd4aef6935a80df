from __future__ import annotations

import subprocess
import sys


def test_the_front_door_imports_nothing_heavy():
    heavy = ("torch", "mlflow", "optuna", "pandas", "numpy", "scipy", "matplotlib", "pydantic", "statsmodels")
    script = f"import sys, ablate.reports.cli; print([m for m in {heavy!r} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
