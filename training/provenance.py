"""Where a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def git_commit(folder: Path) -> str | None:
    """The commit checked out in a folder whose files git keeps, `-dirty` where they differ; else None."""
    git = ["git", "-C", str(folder)]
    try:
        for command in (
            ["ls-files", "--error-unmatch", "."],
            ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        ):
            done = subprocess.run([*git, *command], capture_output=True, text=True, timeout=10)
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def machine() -> str:
    """This host in a line."""
    return f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores"
