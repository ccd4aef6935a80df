"""A few test utterances of each run for listening."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .audio import write_wav
from .data.corpus import Pair
from .files import atomic_folder

if TYPE_CHECKING:
    import pandas as pd

COUNT = 6

Keep = Callable[[Pair, np.ndarray], None]
"""Takes each pair with its enhanced speech `(sample,)`, and writes the selected ones."""


def fixed_utterances(pairs: Sequence[Pair], noisy: pd.DataFrame, count: int = COUNT) -> tuple[Pair, ...]:
    """The utterances for listening: pairs at even ranks of `noisy_scores`, including lowest and highest."""
    pesq = dict(zip(noisy["utterance"], noisy["pesq_wb"].fillna(0.0), strict=True))
    ranked = sorted(pairs, key=lambda pair: (pesq[pair.name], pair.name))
    ranks = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return tuple(ranked[rank] for rank in ranks)


@contextmanager
def kept(folder: Path, pairs: Sequence[Pair], references: Path) -> Iterator[Keep]:
    """Keep the enhanced speech of some pairs in a folder, which appears whole if the block succeeds.

    It gets `<utterance>-enhanced.wav`, and links to the clean and noisy files; `references` gets
    `<utterance>-clean.wav` and `<utterance>-noisy.wav`, once for all runs.
    """
    names = {pair.name for pair in pairs}

    def keep(pair: Pair, enhanced: np.ndarray) -> None:
        if pair.name not in names:
            return
        write_wav(partial / f"{pair.name}-enhanced.wav", enhanced, pair.sample_rate)
        for kind, audio in (("clean", pair.clean), ("noisy", pair.noisy)):
            shared = references / f"{pair.name}-{kind}.wav"
            if not shared.exists():
                write_wav(shared, audio, pair.sample_rate)
            (partial / shared.name).symlink_to(os.path.relpath(shared, folder))

    with atomic_folder(folder) as partial:
        yield keep
