from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from ablate.training.metrics import score_with_errors


def test_noise_lowers_it_and_level_does_not_change_it() -> None:
    if find_spec("distillmos") is None:
        pytest.skip("distillmos is not installed")
    time = np.arange(16000 * 3) / 16000
    speech = sum(np.sin(2 * np.pi * k * 140 * time) / k for k in range(1, 20))
    speech = 0.05 * speech * np.clip(np.sin(2 * np.pi * 2 * time), 0, None)
    noisy = speech + 0.05 * np.random.default_rng(0).standard_normal(len(time))
    clean, other, soft = (
        score_with_errors(speech, signal, 16000, ["distillmos"]).values["distillmos"]
        for signal in (speech, noisy, 0.1 * speech)
    )
    assert 1 <= other < clean <= 5
    assert soft == pytest.approx(clean, abs=1e-3)
    assert "torchaudio" not in sys.modules or hasattr(sys.modules["torchaudio"], "__version__")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    found = score_with_errors(np.ones(16000), np.ones(16000), 16000, ["distillmos"])
    assert "pip install 'ablate-speech[distillmos]'" in str(found.errors)
