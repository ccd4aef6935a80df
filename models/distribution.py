"""This project's distribution: its version, its extras, and the PyPI project it clashes with."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution, version

DISTRIBUTION = "ablate-speech"
"""The name on PyPI. Command and package are called `ablate`, a name that another project has on PyPI."""
ABSENT = "not installed"


def version_of(package: str) -> str:
    """The installed version of a package; `ablate` means this project."""
    try:
        return version(DISTRIBUTION if package == "ablate" else package)
    except PackageNotFoundError:
        return ABSENT


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def clash() -> str | None:
    """A message if the other project called `ablate` is or was installed too; else None.

    Both install `ablate/__init__.py`: the later one overwrites it, and uninstalling either removes it.
    """
    again = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
    try:
        other = distribution("ablate")
    except PackageNotFoundError:
        other = None
    if other is not None and any(str(file) == "ablate/__init__.py" for file in other.files or ()):
        return (
            f"another project, ablate {other.version}, is installed here too. It and {DISTRIBUTION} both "
            f"bring ablate/__init__.py, so `import ablate` works for one of them only. To keep "
            f"{DISTRIBUTION}: pip uninstall ablate, then {again}"
        )
    if not hasattr(sys.modules["ablate"], "build_model"):
        return f"ablate/__init__.py of {DISTRIBUTION} is missing or was overwritten. To fix it: {again}"
    return None
