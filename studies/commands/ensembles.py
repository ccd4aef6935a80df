"""`ablate ensemble`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ablate.models.console import ROOT, Format, Root, print_json
from ablate.models.cores import usable_cores

from .options import StudyName


def ensemble(
    study: StudyName = None,
    device: Annotated[str, typer.Option(help="Torch device, or auto.")] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Threads and processes. [default: number of cores]")
    ] = None,
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """Score the averaged output of each cell's seeds, an upper bound. The study's report then includes it.

    The outputs of a cell's networks are averaged, and measured as those of one system.
    """

    from .. import ensembles
    from .. import plan as plans

    root = root.resolve()
    plan = plans.load(root, study)
    cores = jobs or usable_cores()
    metric = plan.endpoint.metric
    found = ensembles.score(
        plan,
        root,
        device=device,
        threads=cores,
        processes=cores,
        say=lambda line: print(line, file=sys.stderr),
    )
    means = {
        cell: {"seeds": average.seeds, metric: float(average.scores[metric].mean())}
        for cell, average in found.items()
    }
    if format == "json":
        print_json(means)
        return
    for cell, values in means.items():
        typer.echo(f"{cell}: {values[metric]:.3f} {metric}, {values['seeds']} seed ensemble")
