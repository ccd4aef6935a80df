"""Processes of their own for the checks of `gpu.py`, and the packages that they find."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Killed(Exception):
    """The process ended by a signal."""


def apart(work: Callable[..., Any], **arguments: Any) -> Any:
    """What a function returns in a fresh process.

    Raises:
        Killed: it was killed.
        RuntimeError: it failed; the message is its traceback.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        good, value = ours.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            raise Killed from None
        raise RuntimeError(f"{work.__name__} ended with {process.exitcode} and said nothing") from None
    process.join()
    if not good:
        raise RuntimeError(value)
    return value


def _send(pipe: Connection, work: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        pipe.send((True, work(**arguments)))
    except Exception:
        pipe.send((False, traceback.format_exc()))


def together(work: Callable[..., Any], cases: list[dict[str, Any]]) -> list[Any]:
    """What a function returns for each of some cases, in one fresh process for all of them."""
    from gpu_work import each

    return apart(each, function=work, cases=cases)


def absent(*packages: str) -> str:
    """Which of these cannot be imported; nothing where all can."""
    found = []
    for package in packages:
        try:
            import_module(package)
        except ImportError:
            found.append(package)
    return f"without {', '.join(found)}" if found else ""


def add_wheels(folder: Path) -> None:
    """Have this process and those that it starts find what the wheels of a folder hold; installs nothing.

    Raises:
        subprocess.CalledProcessError: pip refuses them.
    """
    target = tempfile.mkdtemp(prefix="ablate-gpu-wheels-")
    atexit.register(shutil.rmtree, target)
    wheels = sorted(map(str, folder.glob("*.whl")))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target]
    subprocess.run([*pip, *wheels], check=True)
    sys.path.insert(0, target)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [target, os.environ.get("PYTHONPATH")]))
