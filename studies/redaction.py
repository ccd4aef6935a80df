"""Keeps passwords in URLs out of messages, logs and command lines."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote

from ablate.models.errors import InputError

_SECRET_KEY = re.compile(r"(pass|pwd|secret|token|key|credential|auth|signature|sig$|user)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)[^\s]*@")


def redact(uri: str) -> str:
    """A URI without user, password and secret query values."""
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
    """A message without the secrets of `uri` and of MLflow's environment variables."""
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
    """Raise InputError if a URI with a secret is on this process's command line, which every user of the
    machine can read."""
    if redact(uri) != uri and any(uri in word for word in sys.argv):
        raise InputError(
            f"{option} {redact(uri)}: other users of this machine can read a password on a command line; "
            f"set the address in the environment variable {variable} instead"
        )


def brief(error: BaseException) -> str:
    """The first line of an error's message, with the error's type."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
