from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from ablate.training.metrics import score_with_errors
from ablate.training.metrics.registry import METRICS


def test_noise_lowers_it_and_the_reference_itself_is_best() -> None:
    if find_spec("visqol") is None or find_spec("ai_edge_litert") is None:
        pytest.skip("visqol-python is not installed")
    rng = np.random.default_rng(0)
    time = np.arange(16000 * 4) / 16000
    speech = sum(np.sin(2 * np.pi * k * 140 * time) / k for k in range(1, 40))
    speech = 0.05 * speech * np.clip(np.sin(2 * np.pi * 2 * time), 0, None) + 1e-4 * rng.standard_normal(
        64000
    )
    same, little, much = (
        score_with_errors(speech, speech + level * rng.standard_normal(64000), 16000, ["visqol"]).values[
            "visqol"
        ]
        for level in (0.0, 0.0003, 0.003)
    )
    assert 1 <= much < little < same
    assert same > 4


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visqol", None)
    found = score_with_errors(np.ones(16000), np.ones(16000), 16000, ["visqol"])
    assert METRICS["visqol"].extra == "visqol"
    assert "visqol" in str(found.errors)
    assert "pip install" in str(found.errors)
