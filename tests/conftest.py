"""What the tests of several rooms share."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

ON = {"a": 0.25, "b": 0.1}


def score_table(seeds=3, utterances=12, noise=0.03, seed=0, factors=("a", "b"), metric="pesq_wb"):
    """Scores of a two-level grid and its baseline `ref`."""
    rng = np.random.default_rng(seed)
    by_utterance = rng.normal(0, 0.2, utterances)
    parts = []
    for at in [*product(("off", "on"), repeat=len(factors)), None]:
        levels = dict(zip(factors, at, strict=True)) if at else dict.fromkeys(factors)
        name = "+".join(f for f, v in levels.items() if v == "on") or ("base" if at else "ref")
        mean = 3.0 if at is None else 2.6 + sum(ON.get(f, 0) for f, v in levels.items() if v == "on")
        for s in range(1, seeds + 1):
            scores = mean + by_utterance + rng.normal(0, noise) + rng.normal(0, noise, utterances)
            parts.append(
                pd.DataFrame(
                    {
                        "cell": name,
                        **levels,
                        "seed": s,
                        "utterance": [f"u{i}" for i in range(utterances)],
                        metric: scores,
                        "speaker": [f"p{i % 2}" for i in range(utterances)],
                        "snr": [(i % 4) * 5.0 for i in range(utterances)],
                        "noise": "cafe",
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def make():
    """`make(**options)` draws a table of scores; see `score_table`."""
    return score_table
