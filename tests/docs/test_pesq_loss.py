"""The example of a differentiable PESQ: its filter is right, it follows PESQ, and gradients flow."""

from __future__ import annotations

import importlib.util
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from ablate.models.spectral import stft
from ablate.training.config import RECIPES
from ablate.training.losses import WeightedLoss
from ablate.training.metrics import score

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "pesq_loss.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("pesq_loss", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speech_like(seconds: float = 3.0) -> np.ndarray:
    time = np.arange(int(16000 * seconds)) / 16000
    voice = sum(np.sin(2 * np.pi * k * 140 * time) / k for k in range(1, 20))
    return 0.05 * voice * np.clip(np.sin(2 * np.pi * 2 * time), 0, None)


def test_the_filter_is_scipys(example):
    waves = np.random.default_rng(0).standard_normal((2, 9000))
    b, a = signal.butter(5, [325, 3250], fs=16000, btype="band")
    found = example.lfilter(torch.as_tensor(waves), torch.as_tensor(a), torch.as_tensor(b))
    assert np.allclose(found.numpy(), signal.lfilter(b, a, waves), atol=1e-8)


def test_it_falls_as_pesq_rises_and_has_gradients(example):
    if find_spec("torch_pesq") is None:
        pytest.skip("torch-pesq is not installed")
    clean = speech_like()
    noise = np.random.default_rng(1).standard_normal(len(clean))
    noisy = [clean + level * noise for level in (0.0003, 0.003, 0.03)]
    loss = WeightedLoss.of(
        RECIPES["quick"].model_copy(
            update={"complex_weight": 0.0, "magnitude_weight": 0.0, "losses": {"pesq": 1.0}}
        )
    )
    target = stft(torch.as_tensor(clean, dtype=torch.float32)[None])
    distances = []
    for wave in noisy:
        estimate = stft(torch.as_tensor(wave, dtype=torch.float32)[None]).requires_grad_()
        found = loss(estimate, target)
        found.backward()
        assert torch.isfinite(torch.view_as_real(estimate.grad)).all()
        assert estimate.grad.abs().sum() > 0
        distances.append(found.item())
    measured = [score(clean, wave, 16000)["pesq_wb"] for wave in noisy]
    assert distances == sorted(distances)
    assert measured == sorted(measured, reverse=True)
    assert not any(
        name in sys.modules and not hasattr(sys.modules[name], "__file__") for name in example.STAND_INS
    )
