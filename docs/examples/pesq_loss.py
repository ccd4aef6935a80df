"""A differentiable PESQ as a loss: `torch-pesq` of 2022 (MIT), with stand-ins for what does not load here.

pip install --no-deps torch-pesq
ablate run --plugin docs/examples/pesq_loss.py --grid recipe.losses.pesq=0,0.1 --study pesq-loss
ablate report pesq-loss --guardrail si_sdr,estoi

Its price shows in the guardrail metrics: a network can learn what PESQ likes and listeners do not
(arXiv:2406.03460).
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from scipy import signal
from torch import Tensor, nn

from ablate.training import losses

RESPONSE = 4096
"""Samples of a filter's impulse response; both filters have died away by then."""


def lfilter(waves: Tensor, a: Tensor, b: Tensor, clamp: bool = False) -> Tensor:
    """`waves` (batch, sample) through a recursive filter, as a product of spectra."""
    impulse = [1.0] + [0.0] * (RESPONSE - 1)
    response = signal.lfilter(b.double().cpu().numpy(), a.double().cpu().numpy(), impulse)
    length = waves.shape[-1] + RESPONSE
    spectrum = torch.fft.rfft(torch.as_tensor(response, device=waves.device), length)
    filtered = torch.fft.irfft(torch.fft.rfft(waves.double(), length) * spectrum, length)
    return filtered[..., : waves.shape[-1]].to(waves.dtype)


class Spectrogram(nn.Module):
    """Power, (batch, bin, frame), of frames that start within the signal."""

    def __init__(self, n_fft: int, win_length: int, hop_length: int, window_fn: Any, **_: Any) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop_length
        self.register_buffer("window", window_fn(win_length), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        found = torch.stft(waves, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        return found.abs().square()


class _AnyType:
    def __getitem__(self, _: object) -> type:
        return Tensor


STAND_INS: dict[str, dict[str, Any]] = {
    "torchaudio": {},
    "torchaudio.functional": {"lfilter": lfilter},
    "torchaudio.transforms": {"Spectrogram": Spectrogram, "Resample": lambda old, new: nn.Identity()},
    "typeguard": {"typechecked": lambda function: function},
    "torchtyping": {"TensorType": _AnyType()},
}


@cache
def pesq_of(device: torch.device) -> nn.Module:
    """The distance at 16 kHz; the stand-ins are there while the package is loaded, and no longer."""
    before = {name: sys.modules.get(name) for name in STAND_INS}
    for name, content in STAND_INS.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        return import_module("torch_pesq").PesqLoss(1.0, sample_rate=16000).to(device)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def pesq(pair: losses.Estimated) -> Tensor:
    """Mean distance of the estimated waves to the clean ones; it falls as PESQ rises."""
    estimate, clean = pair.waves
    return pesq_of(estimate.device)(clean.float(), estimate.float()).mean()


losses.register("pesq", pesq)
