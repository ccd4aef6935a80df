"""The table of a test: a row per utterance, with its facts and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import Evaluation
from .data.alignment import fit
from .data.corpus import Pair
from .data.noisy import noisy_scores
from .metrics import MetricPool
from .metrics.passport import KEY, passports
from .metrics.registry import usual

if TYPE_CHECKING:
    import pandas as pd


def measured(
    pairs: Sequence[Pair],
    enhanced: Iterable[tuple[int, np.ndarray]],
    evaluation: Evaluation,
    pool: MetricPool,
    *,
    cache: Path,
) -> pd.DataFrame:
    """Score the enhanced speech of a test set.

    Args:
        enhanced: index into `pairs` and enhanced speech, (sample,), each once, in any order.
        evaluation: names metrics beside the usual ones.
        cache: folder of the cache, for the scores of the noisy input.

    Returns:
        A row per utterance, in the order of the pairs: `utterance, speaker, snr, noise`, the metrics (missing
            if the
        clean recording cannot be a reference, the floor if the enhanced speech cannot be measured), `seconds`
            (its
        length), `error` (the reasons, or missing), `broken` (the metrics at their floor for that reason, or
            missing),
        `noisy_pesq_wb, noisy_stoi`; if some enhanced speech is certainly more than 10 ms earlier or later
            than the
        clean, `lag_ms`. Its `attrs` have the passport of each metric (`metrics.passport`), which Parquet
            keeps.

    Raises:
        MetricProcessError: the processes that measured an utterance died.
    """
    order: list[int] = []
    lags: dict[int, float] = {}

    def signals() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, signal in enhanced:
            order.append(index)
            found = fit(pairs[index].clean, signal, pairs[index].sample_rate)
            if found.late:
                lags[index] = 1000 * found.lag
            yield pairs[index].clean[: len(signal)], signal

    rate = pairs[0].sample_rate
    rows: list[dict[str, Any]] = [{} for _ in pairs]
    names = (*usual(), *(name for name in evaluation.metrics if name not in usual()))
    for position, scored in enumerate(pool.map(signals(), names, sample_rate=rate)):
        pair = pairs[order[position]]
        rows[order[position]] = {
            **known_of(pair),
            **scored.with_floors(),
            "seconds": pair.seconds,
            **scored.failures(),
        }
    frame = table(rows, pairs, pool, cache=cache)
    if lags:
        frame["lag_ms"] = [lags.get(index, math.nan) for index in range(len(pairs))]
    frame.attrs[KEY] = passports(names, (pair.rate for pair in pairs))
    return frame


def known_of(pair: Pair) -> dict[str, Any]:
    """The facts of an utterance from names and logs."""
    return {"utterance": pair.name, "speaker": pair.speaker, "snr": pair.snr, "noise": pair.noise}


def table(
    rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], pool: MetricPool, *, cache: Path
) -> pd.DataFrame:
    """Rows in the order of the pairs as a table, with the scores of the noisy input."""
    import pandas as pd

    text = dict.fromkeys(("speaker", "noise", "error", "broken"), "str")
    frame = pd.DataFrame(rows).astype({**text, "snr": "float64"})
    noisy = noisy_scores(pairs, pool, cache=cache)
    return frame.assign(noisy_pesq_wb=noisy["pesq_wb"], noisy_stoi=noisy["stoi"])
