"""What this process asked of the phantom GPU since `reset`."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

_library = ctypes.CDLL(None)


def loaded() -> bool:
    """Whether this process runs on the phantom."""
    return hasattr(_library, "phantom_dump")


def reset() -> None:
    _library.phantom_reset()


def counts() -> dict[str, int]:
    """How often each thing was asked for; kernels begin with `K `, what waits with `SYNC `."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "counts")
        _library.phantom_dump(os.fsencode(path))
        rows = (line.split("\t", 1) for line in path.read_text().splitlines())
        return {name: int(number) for number, name in rows}


def launches(found: Mapping[str, int]) -> int:
    return sum(number for name, number in found.items() if name.startswith("K "))


def waits(found: Mapping[str, int]) -> dict[str, int]:
    """What made the processor wait: the kind, and copies that are not from or to pinned memory."""
    return {name: number for name, number in found.items() if name.startswith("SYNC") or "PAGEABLE" in name}


def allocated() -> int:
    """Bytes that torch's allocator holds of the phantom's memory."""
    _library.phantom_allocated.restype = ctypes.c_size_t
    return int(_library.phantom_allocated())
