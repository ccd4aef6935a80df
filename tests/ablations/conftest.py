from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
LISTS = {
    "core_fault": "CORE_FAULTS",
    "right_core": "RIGHT_CORES",
    "network_fault": "NETWORK_FAULTS",
    "right_network": "RIGHT_NETWORKS",
}
"""Argument of a test -> the list of `faults.py` that it runs over."""


def load_faults() -> ModuleType:
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


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """The module of planted faults, with its parts registered."""
    return load_faults()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument in LISTS.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(argument, list(getattr(load_faults(), LISTS[argument])))
