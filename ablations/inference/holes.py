"""Adjusts each run's mean for missing utterances.

An additive model with a term per run and one per utterance is fitted by least squares to the whole table. A
missing score is replaced by its fitted value, so a run's mean becomes its adjusted mean.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import bmat, csr_array
from scipy.sparse.csgraph import connected_components

from .engine import Array


def islands(measured: Array) -> Array:
    """(run,) number of the connected set of runs that each run belongs to; all 0 if there is one set.

    Runs of different sets do not share utterances. `measured` is (run, utterance).
    """
    links = csr_array(measured.astype(float))
    return connected_components(bmat([[None, links], [links.T, None]]), directed=False)[1][: len(measured)]


def filled(values: Array) -> Array:
    """Scores (run, utterance) with fitted values in place of missing ones (NaN); see `islands`."""
    measured = np.isfinite(values)
    scores = np.where(measured, values, 0.0)
    mask = measured.astype(float)
    heard = mask.sum(0)
    shared = mask / heard
    normal = np.diag(mask.sum(1)) - shared @ mask.T
    level = np.linalg.lstsq(normal, scores.sum(1) - shared @ scores.sum(0), rcond=None)[0]
    of_utterance = (scores.sum(0) - mask.T @ level) / heard
    return np.where(measured, values, level[:, None] + of_utterance)
