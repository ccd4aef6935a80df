"""Scores of the noisy recordings, measured once for all runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_write, locked
from ..metrics import MetricPool
from ..metrics.passport import passports
from ..metrics.registry import VALIDATED
from .cache import Report

if TYPE_CHECKING:
    import pandas as pd

    from .pairs import Pair


def noisy_scores(
    pairs: Sequence[Pair], pool: MetricPool, *, cache: Path, report: Report | None = None
) -> pd.DataFrame:
    """PESQ-WB and STOI of the noisy recordings, missing if the clean one cannot be a reference.

    They are cached by the content of the pairs and the versions of the metrics. If several processes ask at
    once, one measures and the others wait.

    Returns:
        `utterance, pesq_wb, stoi`, a row per pair, in their order.

    Raises:
        MetricProcessError: the processes that measured a pair died; nothing is cached then.
    """
    import pandas as pd

    measures = json.dumps(passports(VALIDATED), sort_keys=True)
    content = measures + "".join(f"{pair.name} {pair.clean_sha256} {pair.noisy_sha256}\n" for pair in pairs)
    path = cache / "noisy-scores" / f"{sha256(content.encode()).hexdigest()[:32]}.parquet"
    if not path.exists():
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                rows = []
                signals = ((pair.clean, pair.noisy) for pair in pairs)
                measured = pool.map(signals, VALIDATED, sample_rate=pairs[0].sample_rate)
                for pair, scored in zip(pairs, measured, strict=True):
                    rows.append({"utterance": pair.name, **scored.with_floors()})
                    if report is not None:
                        report("scoring", len(rows), len(pairs))
                with atomic_write(path) as temporary:
                    pd.DataFrame(rows).to_parquet(temporary, index=False)
    return pd.read_parquet(path)
