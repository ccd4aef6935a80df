"""Runs compiled code on blocks of rows in parallel threads, and caches compiled code on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    """The thread pool of this process; a pool inherited through a fork has no threads and is replaced."""
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    return _pools[key]


def over_rows(rows: int, work: Callable[[int, int, int], object]) -> None:
    """Split rows into one block per torch thread and call `work(block, start, stop)` for each in parallel."""
    blocks = max(1, min(rows, torch.get_num_threads()))
    edges = [rows * i // blocks for i in range(blocks + 1)]
    spans = list(zip(range(blocks), edges, edges[1:], strict=False))
    futures = [_pool(blocks).submit(work, *span) for span in spans[1:]]
    work(*spans[0])
    for future in futures:
        future.result()


def cache_folder() -> Path:
    """A writable folder for compiled code: in the user's cache, or else a temporary one."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablate" / "numba"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home
    except OSError:
        pass
    folder = Path(tempfile.gettempdir()) / f"ablate-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def cached_on_disk() -> Iterator[None]:
    """Cache functions that numba decorates in the block, in `NUMBA_CACHE_DIR` or `cache_folder()`."""
    import numba

    if os.environ.get("NUMBA_CACHE_DIR"):
        yield
        return
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        config.CACHE_DIR = before
