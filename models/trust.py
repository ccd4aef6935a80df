"""Trusted code: code that the user has named, recorded by digest in the user's configuration.

`--plugin`, a study file and `ablate import --trust-plugins` name code. Plans, run directories, tracking
servers and checkpoints only mention code: it is imported only if the user has named exactly this code before.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from .errors import InputError


def folder() -> Path:
    """`$XDG_CONFIG_HOME/ablate/trusted`, by default `~/.config/ablate/trusted`: a file for each digest."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".config") / "ablate" / "trusted"


def grant(code: Path, digest: str) -> None:
    """Trust the code at a path as long as it has this digest, in all processes of the user.

    Raises:
        InputError: the user's configuration cannot be written.
    """
    if is_trusted(code, digest):
        return
    mark = _mark(code, digest)
    try:
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=mark.parent, prefix=".", delete=False) as draft:
            draft.write(f"{code}\n")
        os.replace(draft.name, mark)
    except OSError as error:
        raise InputError(
            f"cannot write to {mark.parent} that you trust {code}: {error.strerror}; set XDG_CONFIG_HOME "
            "to a writable folder"
        ) from None


def is_trusted(code: Path, digest: str) -> bool:
    """Whether the user trusts this code at this path."""
    try:
        return _mark(code, digest).read_text() == f"{code}\n"
    except OSError:
        return False


def is_known(digest: str) -> bool:
    """Whether the user trusts this code at any path."""
    return any(folder().glob(f"{digest}-*"))


def _mark(code: Path, digest: str) -> Path:
    return folder() / f"{digest}-{sha256(str(code).encode()).hexdigest()[:16]}"
