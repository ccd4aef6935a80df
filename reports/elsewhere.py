"""Results trained elsewhere: the options that `ablate report` and `ablate import-runs` share for them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ablate.models.console import ROOT, Root
from ablate.models.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from .sources import StudyInfo


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Options that name results and how to compare them."""

    scores: Annotated[
        str | None,
        typer.Option(
            help="Results trained elsewhere: a table, a pattern such as 'runs/{core}-{seed}.jsonl', or "
            "mlflow:EXPERIMENT."
        ),
    ] = None
    enhanced: Annotated[
        str | None,
        typer.Option(help="Folders of enhanced speech to score, e.g. 'exp/{core}/seed{seed}/enhanced'."),
    ] = None
    clean: Annotated[Path | None, typer.Option(help="Folder of clean references for --enhanced.")] = None
    noisy: Annotated[
        Path | None, typer.Option(help="The folder of noisy files for --enhanced, scored as they are.")
    ] = None
    pairs: Annotated[
        str | None, typer.Option(help="A pattern by which files of --enhanced pair, if names are unequal.")
    ] = None
    factors: Annotated[
        str | None,
        typer.Option(
            help="Columns of --scores, or fields of the pattern, that define the cells, separated by commas."
        ),
    ] = None
    column: Annotated[
        list[str], typer.Option(help="Name of a column in --scores, e.g. pesq_wb=PESQ (repeatable).")
    ] = field(default_factory=list)
    take: Annotated[str, typer.Option(help="Value of a curve to use: last, max or min.")] = "last"
    base: Annotated[
        str | None, typer.Option(help='Levels of --scores that are off, e.g. "bidirectional=off,core=lstm".')
    ] = None
    baseline: Annotated[str | None, typer.Option(help="Baseline cell of --scores.")] = None
    metric: Annotated[
        str | None, typer.Option(help="Metric to compare, e.g. stoi. [default: the study's endpoint]")
    ] = None
    guardrail: Annotated[
        str | None, typer.Option(help="Guardrail metrics, to see trade-offs, e.g. cbak,si_sdr.")
    ] = None
    direction: Annotated[
        list[str],
        typer.Option(
            metavar="METRIC=higher|lower",
            help="Whether higher or lower is better, for an unknown metric of --scores (repeatable).",
        ),
    ] = field(default_factory=list)
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow server of a study, or of mlflow:EXPERIMENT.")
    ] = None
    root: Root = ROOT

    @property
    def guardrails(self) -> list[str]:
        return _listed(self.guardrail)

    @property
    def better(self) -> dict[str, str]:
        """Metric -> `higher` or `lower`."""
        return dict(text.partition("=")[::2] for text in self.direction)

    def read(self) -> tuple[pd.DataFrame, StudyInfo]:
        """The scores, and facts about them.

        Raises:
            InputError: an option is missing, or its files cannot be read or compared.
            TrackingError: a server does not answer.
        """
        from ablate.models.fields import split_settings

        from .ingest import parse_levels
        from .sources import scores_from_elsewhere
        from .sources.elsewhere import Take, table_of

        columns = dict(split_settings(self.column, "pesq_wb=PESQ", "column"))
        metric, base = self.metric or "pesq_wb", self.base or ""
        if self.take not in get_args(Take):
            raise InputError(f"unknown --take {self.take}; use last, max or min")
        if self.enhanced is not None:
            table, factors = self._measured(metric)
        else:
            factors = _listed(self.factors) or list(parse_levels(base))
            if self.clean or self.noisy:
                raise InputError("--clean and --noisy are folders for --enhanced")
            if not factors:
                raise InputError(
                    "--scores does not say which columns are factors; give --factors core,direction "
                    'or --base "bidirectional=off"'
                )
            wanted = columns.get(metric, metric)
            table = table_of(str(self.scores), wanted, self.take, self.tracking_uri)  # type: ignore[arg-type]
        source = str(self.enhanced or self.scores)
        return scores_from_elsewhere(table, source, factors, base, self.baseline, metric, columns)

    def _measured(self, metric: str) -> tuple[pd.DataFrame, list[str]]:
        from ablate.models.cores import usable_cores
        from ablate.training.metrics import MetricPool
        from ablate.training.metrics.registry import METRICS, check_available

        from .sources.enhanced import measured
        from .sources.patterns import places

        if self.clean is None:
            raise InputError("--enhanced needs --clean, the folder of the clean references")
        found = places(str(self.enhanced))
        asked = [name for name in (metric, *self.guardrails) if name in METRICS]
        check_available(asked)
        with MetricPool(usable_cores()) as pool:
            cache, beside = self.root / "cache", (self.noisy, self.pairs)
            table = measured(found, self.clean, cache, pool, asked, _progress, *beside)
        factors = _listed(self.factors) or [name for name in found[0].fields if name != "seed"]
        return table, factors


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _progress(pairs: Iterable[Any]) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True, file=sys.stderr)
    return track(pairs, "measuring", console=console, transient=True, disable=not console.is_terminal)
