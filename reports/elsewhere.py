"""`ablate report` on results trained elsewhere: its options, and the scores that they name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from ablate.models.errors import InputError
from ablate.models.fields import split_settings

from .ingest import parse_levels
from .sources import StudyInfo, scores_from_elsewhere
from .sources.elsewhere import Take, table_of
from .sources.enhanced import measured
from .sources.patterns import places


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Where results are, and what of them is compared.

    Attributes:
        scores: a table, a pattern, or `mlflow:EXPERIMENT` (`sources.elsewhere.table_of`).
        enhanced: a pattern of folders of enhanced speech, measured against `clean`.
        factors: columns or fields that make the cells; of enhanced speech all fields but `seed` by default.
        columns: `ours=theirs` texts.
        take: which value of a curve counts.
        cache: folder in which measured scores are kept.
    """

    scores: str | None = None
    enhanced: str | None = None
    clean: Path | None = None
    factors: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    take: Take = "last"
    tracking_uri: str | None = None
    base: str = ""
    baseline: str | None = None
    metric: str = "pesq_wb"
    guardrails: tuple[str, ...] = ()
    cache: Path = Path("ablate-runs/cache")

    def read(self) -> tuple[pd.DataFrame, StudyInfo]:
        """The scores, and what is known of them.

        Raises:
            InputError: an option is missing, or what it names cannot be read or compared.
        """
        columns = dict(split_settings(self.columns, "pesq_wb=PESQ", "column"))
        if self.take not in get_args(Take):
            raise InputError(f"--take {self.take}: give last, max or min")
        if self.enhanced is not None:
            table, factors, source = *self._measured(), self.enhanced
        else:
            source, factors = str(self.scores), self.factors or tuple(parse_levels(self.base))
            if not factors:
                raise InputError(
                    '--scores needs the factors: --factors core,direction, or --base "bidirectional=off"'
                )
            wanted = columns.get(self.metric, self.metric)
            table = table_of(source, wanted, self.take, self.tracking_uri)
        return scores_from_elsewhere(table, source, factors, self.base, self.baseline, self.metric, columns)

    def _measured(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        from ablate.training.metrics import MetricPool
        from ablate.training.metrics.registry import METRICS, check_available

        if self.clean is None:
            raise InputError("--enhanced needs --clean, the folder of the references")
        found = places(str(self.enhanced))
        asked = [name for name in (self.metric, *self.guardrails) if name in METRICS]
        check_available(asked)
        with MetricPool(len(os.sched_getaffinity(0))) as pool:
            table = measured(found, self.clean, self.cache, pool, asked, _progress)
        factors = self.factors or tuple(name for name in found[0].fields if name != "seed")
        return table, factors


def _progress(pairs: Iterable[Any]) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True, file=sys.stderr)
    return track(pairs, "measuring", console=console, transient=True, disable=not console.is_terminal)
