"""Tests for `make phantom`; without the phantom none of them is collected."""

from __future__ import annotations

import ctypes

import pytest

if hasattr(ctypes.CDLL(None), "phantom_dump"):
    collect_ignore_glob: list[str] = []
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def garbage_is_finite() -> None:
    """Kernels do nothing and numbers are what lay in memory: no training diverges."""
    import garbage  # noqa: F401
