"""Identity of a root, for databases and servers that several roots share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from ablate.training.files import locked
from ablate.training.rundir import write_text


def root_identity(root: Path) -> str:
    """A unique name of a root. A moved root keeps its name; a copy of an existing root gets another."""
    root = root.resolve()
    name, place = _read(root)
    if name and place == str(root):
        return name
    root.mkdir(parents=True, exist_ok=True)
    with suppress(OSError), locked(root / "identity.lock"):
        name, place = _read(root)
        if place != str(root):
            if not name or (place and _read(Path(place))[0] == name):
                name = token_hex(6)
            write_text(root / "identity", f"{name}\n{root}\n")
    return name


def _read(root: Path) -> tuple[str, str]:
    """The name of a root and its path when it was named; both empty if it is not named yet."""
    try:
        name, _, place = (root / "identity").read_text().partition("\n")
    except OSError:
        return "", ""
    return name.strip(), place.strip()
