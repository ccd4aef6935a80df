"""`ablate export` and `ablate import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ablate.models.console import ROOT, Root

from .study import Study


def export(
    study: Study = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File; default: STUDY.tar.gz.")
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write a study to one file: plan, scores, curves, report, environment; no audio, no weights."""
    from .. import plan as plans
    from ..archive import export as write

    name = plans.find(root, study)
    target = output or Path(f"{name}.tar.gz")
    manifest = write(root, name, target)
    size = target.stat().st_size / 1e6
    print(f"{manifest['runs']} done runs, {len(manifest['files'])} files, {size:.2f} MB", file=sys.stderr)
    print(target)


def import_(
    file: Annotated[Path, typer.Argument(help="A file of `ablate export`.")],
    root: Root = ROOT,
    trust_plugins: Annotated[
        bool, typer.Option("--trust-plugins", help="Let the study's plug-ins run; read them first.")
    ] = False,
) -> None:
    """Put an exported study under a root, to report it or to go on with it; nothing of it is run."""
    from ..archive import import_ as read

    plan = read(file, root, trust_plugins=trust_plugins)
    print(f"study {plan.name}: ablate report {plan.name} --root {root}", file=sys.stderr)
    print(plan.name)
