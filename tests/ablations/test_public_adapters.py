from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "public"
SHARED = {"clone.py", "mamba_stand_in.py"}

TRY = """
import sys
from ablate.models import PRESETS, build_model
from ablate.models.errors import InputError
from ablate.models.plugins import load
for path in sys.argv[1:]:
    before = set(PRESETS)
    load([path])
    (name,) = set(PRESETS) - before
    try:
        build_model(PRESETS[name])
    except InputError as error:
        assert "--option source=PATH" in str(error), (path, error)
    else:
        raise AssertionError(f"{path} builds a network without a clone")
"""


def test_each_adapter_brings_one_network_and_asks_for_its_clone() -> None:
    adapters = [str(path) for path in sorted(FOLDER.glob("*.py")) if path.name not in SHARED]
    assert len(adapters) > 20
    subprocess.run([sys.executable, "-c", TRY, *adapters], check=True)
