"""`ablate export` and `ablate import`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ablate.models.console import ROOT, Root
from ablate.models.errors import InputError

from .options import StudyName


def export(
    study: StudyName = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. [default: STUDY.tar.gz]")
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
    for path in manifest["left_out"]:
        print(f"left out: plug-in {path}, whose code has changed since the plan", file=sys.stderr)
    print(target)


def import_command(write_report: Callable[[Path, str], None]) -> Callable[..., None]:
    """The command `ablate import`, which calls `write_report(root, study)` at its end."""

    def import_(
        file: Annotated[Path, typer.Argument(help="File written by `ablate export`.")],
        root: Root = ROOT,
        trust_plugins: Annotated[
            bool, typer.Option("--trust-plugins", help="Trust the study's plug-ins. Read them first.")
        ] = False,
    ) -> None:
        """Import an exported study so that you can report on it or continue it. Runs no code from it."""
        from ..imported import import_ as read
        from ..imported import untrusted

        plan = read(file, root, trust_plugins=trust_plugins)
        try:
            write_report(root, plan.name)
        except InputError as error:
            print(f"no report: {error}", file=sys.stderr)
        for path in untrusted(plan):
            print(
                f"plug-in {path} is not trusted; reports do not need it. To train or audit, read it, then "
                "import with --trust-plugins",
                file=sys.stderr,
            )
        print("its scores were imported, not measured here", file=sys.stderr)
        print(f"study {plan.name}: ablate report {plan.name} --root {root}", file=sys.stderr)
        print(plan.name)

    return import_
