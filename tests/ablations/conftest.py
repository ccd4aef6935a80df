from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """The module of planted faults, with its parts registered."""
    name = "ablate_test_faults"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "faults.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        module.register()
    return sys.modules[name]
