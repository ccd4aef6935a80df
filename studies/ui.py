"""The MLflow UI of a root's tracking store: a small server on loopback, and the pages of the runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ablate.models.errors import InputError

from .identity import root_identity
from .plan import find
from .plan import names as study_names
from .redaction import redact, scrub
from .tracking.store import (
    TrackingError,
    connect,
    default_uri,
    find_experiment,
    prepare,
    resolve_uri,
    runs_link,
)

HOST = "127.0.0.1"
PORT = 5000
START_TIMEOUT = 90.0
"""Timeout for the start of a server in seconds."""


@dataclass(frozen=True)
class Pages:
    """URLs of the server and of a study's runs, and the server process if it was started here."""

    server: str
    runs: str
    process: subprocess.Popen[bytes] | None


@contextmanager
def serve(
    root: Path | str, study: str | None = None, tracking_uri: str | None = None, port: int | None = None
) -> Iterator[Pages]:
    """Run the MLflow UI while the context is open; a tracking URI that is a server is used as it is.

    Args:
        study: the study to open. Default: the most recent, or the list of experiments if there is none.
        port: the port, or 0 for a free one. Default: 5000, or a free one if that is taken.

    Raises:
        InputError: the study does not exist, nothing is mirrored yet, or the port is taken.
        TrackingError: the server does not start.
    """
    root = Path(root).resolve()
    uri = resolve_uri(root, tracking_uri)
    names = [find(root, study)] if study else study_names(root)
    if uri == default_uri(root) and not (root / "mlflow.db").exists():
        raise InputError(
            f"no run under {root} is in MLflow yet; `ablate run` sends runs while they train, `ablate "
            "sync` sends existing runs"
        )
    if uri.startswith(("http://", "https://")):
        server = redact(uri).rstrip("/")
        yield Pages(server, server + _page(root, uri, names), None)
        return
    prepare(uri)
    chosen = _free_port(port)
    server = f"http://{HOST}:{chosen}"
    with _running(uri, root, chosen) as process:
        yield Pages(server, server + _page(root, uri, names), process)


def _page(root: Path, uri: str, names: list[str]) -> str:
    """The page of the first of these studies that is in the store, else the page of all experiments."""
    client = connect(uri)
    for name in names:
        experiment = find_experiment(client, name, root_identity(root))
        if experiment is not None and experiment.lifecycle_stage == "active":
            return runs_link(experiment.experiment_id)
    return "/#/experiments?workflowType=machine_learning"


def _free_port(port: int | None) -> int:
    """A free port.

    Raises:
        InputError: the requested one is taken.
    """
    for candidate in [port] if port is not None else [PORT, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, candidate))
                return probe.getsockname()[1]
    raise InputError(f"port {port} of {HOST} is in use; choose another --port, or 0 for a free one")


@contextmanager
def _running(uri: str, root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, once it answers. The URI is passed in the environment, since it may have a password.

    Raises TrackingError if it does not start.
    """
    (root / "mlartifacts").mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-P", "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--workers", "1", "--artifacts-destination", str(root / "mlartifacts")),
    ]
    log = root / "mlflow-ui.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=root,
            env={**os.environ, "MLFLOW_BACKEND_STORE_URI": uri},
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(f"http://{HOST}:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = scrub("\n".join(log.read_text(errors="replace").splitlines()[-15:]), uri)
                raise TrackingError(f"the MLflow server on {redact(uri)} does not answer:\n{tail}")
            time.sleep(0.2)
        yield process
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, end)
                process.wait(5)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
