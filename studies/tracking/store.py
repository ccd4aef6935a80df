"""Where the tracking store is, how it is reached, and how its secrets stay out of what is shown."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ablate.models.errors import InputError
from ablate.training.files import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment of whoever talks to the store: no retries of its own, nothing reported to anyone."""
_SECRET_KEY = re.compile(r"(pass|pwd|secret|token|key|credential|auth|signature|sig$|user)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)[^\s]*@")


class TrackingError(RuntimeError):
    """The tracking store did not take what was sent; the message holds no secret."""


def default_uri(root: Path | str) -> str:
    """The store that needs no server: an SQLite file in the root."""
    return f"sqlite:///{Path(root).resolve() / 'mlflow.db'}"


def resolve_uri(root: Path | str, tracking_uri: str | None = None) -> str:
    """The tracking URI in force: the one given, else `MLFLOW_TRACKING_URI`, else the root's own file."""
    if tracking_uri:
        keep_secret(tracking_uri, "--tracking-uri", URI_VARIABLE)
    return tracking_uri or os.environ.get(URI_VARIABLE) or default_uri(root)


def redact(uri: str) -> str:
    """A URI without its user, password and secret query values: fit to be shown, logged and stored."""
    head, _, query = uri.partition("?")
    if not head.startswith(("sqlite:", "file:")):
        if "://" in uri and "@" in query and "@" not in head:
            head, query = uri, ""
        head = _CREDENTIALS.sub(r"\g<scheme>***@", head)
    if query:
        pairs = [pair.partition("=") for pair in query.split("&")]
        query = "&".join(f"{k}{eq}{'***' if eq and _SECRET_KEY.search(k) else v}" for k, eq, v in pairs)
    return f"{head}?{query}" if query else head


def scrub(text: str, uri: str) -> str:
    """A message without the secrets of `uri`, nor those that MLflow takes from the environment."""
    secrets = {os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")}
    if found := _CREDENTIALS.match(uri):
        user, colon, password = uri[found.end("scheme") : found.end() - 1].partition(":")
        secrets |= {f"{user}:{password}", password, unquote(password)} if colon else {user, unquote(user)}
    for pair in uri.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if _SECRET_KEY.search(key):
            secrets |= {value, unquote(value)}
    text = text.replace(uri, redact(uri))
    for secret in sorted((s for s in secrets if len(s) > 2), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub(r"\g<scheme>***@", text)


def keep_secret(uri: str, option: str, variable: str) -> None:
    """Raises InputError where a URI with a secret in it stands on this process' command line, which everybody
    on this machine can read."""
    if redact(uri) != uri and any(uri in word for word in sys.argv):
        raise InputError(
            f"{option} {redact(uri)}: everybody on this machine can read a password on a command line; give "
            f"the address by the environment instead, in {variable}"
        )


def is_database(uri: str) -> bool:
    return uri.split(":", 1)[0].split("+", 1)[0] in {"sqlite", "postgresql", "mysql", "mssql"}


def connect(uri: str) -> MlflowClient:
    """A client of the tracking store that neither retries by itself nor reports usage to anyone."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    utils.MAX_RETRY_COUNT = 1  # not ten tries with growing pauses: whoever waits here tries again by itself
    return MlflowClient(tracking_uri=uri)


def prepare(uri: str) -> None:
    """Make the schema of the tracking store, in one process at a time: concurrent migrations fail.

    Raises:
        TrackingError: the store does not answer.
    """
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f"{database.name}.lock")
    else:
        digest = sha256(uri.encode()).hexdigest()[:16]
        lock = Path(tempfile.gettempdir()) / f"ablate-{os.getuid()}-{digest}.lock"
    with locked(lock):
        try:
            connect(uri).search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"{redact(uri)} does not answer: {scrub(brief(error), uri)}") from None


def brief(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
