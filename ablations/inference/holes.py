"""Utterances that some runs lack: every run's mean is adjusted for which ones it has.

The fit is additive, a run's level plus an utterance's, by least squares over the whole table. A missing
score is replaced by its fitted value, which makes the mean of a run its adjusted mean; every contrast is then
a sum of the same means.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import bmat, csr_array
from scipy.sparse.csgraph import connected_components

from .engine import Array


def islands(measured: Array) -> Array:
    """(run,) numbers of the sets of runs that share no utterance with each other; all 0: there is one set.

    measured (run, utterance).
    """
    links = csr_array(measured.astype(float))
    return connected_components(bmat([[None, links], [links.T, None]]), directed=False)[1][: len(measured)]


def filled(values: Array) -> Array:
    """Scores (run, utterance) with every missing one (NaN) as the additive fit has it; see `islands`."""
    measured = np.isfinite(values)
    scores = np.where(measured, values, 0.0)
    mask = measured.astype(float)
    heard = mask.sum(0)
    shared = mask / heard
    normal = np.diag(mask.sum(1)) - shared @ mask.T
    level = np.linalg.lstsq(normal, scores.sum(1) - shared @ scores.sum(0), rcond=None)[0]
    of_utterance = (scores.sum(0) - mask.T @ level) / heard
    return np.where(measured, values, level[:, None] + of_utterance)
