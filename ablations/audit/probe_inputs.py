"""Inputs for the audit's probes, and a check that a network runs at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.models.errors import InputError, told
from ablate.models.interface import Interface
from ablate.models.spectral import HOP
from ablate.training.audio import SAMPLE_RATE

SEED = 20


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python inside the block; restore their random states afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def before_calls(model: nn.Module, tell: Callable[[str, Any, Any], object]) -> Iterator[None]:
    """Call `tell(path, args, kwargs)` before each module of a network runs."""
    with ExitStack() as hooks:
        for path, module in model.named_modules():

            def hook(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                tell(path, args, kwargs)

            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@dataclass(frozen=True)
class Tone:
    """A synthetic pair: voiced syllables, clean and in coloured noise; both `(sample,)` at one rate."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray


def speech_like(seconds: float, count: int = 4, seed: int = SEED, rate: int = SAMPLE_RATE) -> list[Tone]:
    """Pairs that look like noisy speech to a network: gliding harmonics in syllables, pink noise, 0-15 dB."""
    rng = np.random.default_rng(seed)
    samples = max(int(seconds * rate), 2 * HOP * 3)
    t = np.arange(samples) / rate
    pairs = []
    for index in range(count):
        pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(2, 5) * t))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        clean = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 30))
        clean = clean * np.clip(np.sin(2 * np.pi * rng.uniform(3, 5) * t + rng.uniform(0, 6)), 0.02, None)
        clean = clean + 0.02 * rng.standard_normal(samples) * np.clip(np.sin(2 * np.pi * 7 * t), 0, None)
        clean = 0.06 * clean / np.sqrt(np.mean(clean**2))
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 20), samples)
        noise = noise / np.sqrt(np.mean(noise**2)) * 0.06 * 10 ** (-5 * index / 20)
        noisy = clean + noise
        pairs.append(Tone(f"tone{index}", clean.astype(np.float32), noisy.astype(np.float32)))
    return pairs


def try_out(network: nn.Module, interface: Interface, signals: Tensor) -> None:
    """Run a network once on the first of two signals, and once on both.

    Raises:
        InputError: the network fails, or its output does not match its interface.
    """
    kind = "waveforms" if interface.waveform else "complex spectrograms"
    for count in (1, 2):
        batch = signals[:count]
        why = "; its shape is wrong for one item, so it depends on the batch size" if count == 2 else ""
        try:
            with isolated(0), torch.no_grad():
                outputs = interface.outputs(network, batch)
        except Exception as error:
            shapes = " and ".join(str(tuple(a.shape)) for a in interface.arguments(batch))
            raise InputError(f"the network does not run on {shapes}: {told(error)}{why}") from error
        try:
            out = interface.enhanced(outputs, batch)
        except InputError as error:
            raise InputError(f"{error}{why}") from error
        if not isinstance(out, Tensor) or out.shape != batch.shape or out.is_complex() != batch.is_complex():
            what = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise InputError(
                f"the network gives {what} for {kind} {tuple(batch.shape)}{why}; return {kind} of the "
                "same shape, or declare its inputs and outputs (docs/plugins.md)"
            )
