"""The argument that several commands share: the name of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ablate.models.console import ROOT


def studies_of_root(ctx: typer.Context) -> list[str]:
    """The names that a shell may complete to."""
    from ..plan import names

    return names(Path(ctx.params.get("root") or ROOT))


Study = Annotated[
    str | None,
    typer.Argument(help="The study. [default: the last one]", autocompletion=studies_of_root),
]
