"""Enhance whole utterances with a network, and score them. Evaluation never cuts or pads an utterance."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ablate.models.heads import FilterHead
from ablate.models.interface import Interface
from ablate.models.spectral import utterance_frames

from .audio import SAMPLE_RATE
from .config import Evaluation
from .data.corpus import Pair
from .determinism import tolerantly
from .environment import OtherLoad
from .metrics import MetricPool
from .pcs import pcs
from .score_table import measured
from .transfer import to_device, to_host

if TYPE_CHECKING:
    import pandas as pd

BATCH_SECONDS = {"cpu": 30.0, "cuda": 120.0}
"""Limit on the audio in a batch of several utterances, by device type. It is fixed and in a run's summary,
since batching changes the last bits of scores."""
POST_PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda waveform: waveform, "pcs": pcs}
"""Values of `Evaluation.post_processing`: (batch, sample) -> (batch, sample)."""

Finish = Callable[[Tensor, Tensor], Tensor]
"""From enhanced and noisy waveforms (batch, sample) to the scored ones, of the same shape."""


def finishing(evaluation: Evaluation) -> Finish:
    """The post-processing of an evaluation."""
    share, after = evaluation.mix_back, POST_PROCESSING[evaluation.post_processing]

    def finish(enhanced: Tensor, noisy: Tensor) -> Tensor:
        return after(torch.lerp(enhanced, noisy, share) if share else enhanced)

    return finish


class Averaged(nn.Module):
    """The mean of several networks' output spectrograms (batch, 257, frame), and so of their waveforms."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, noisy: Tensor) -> Tensor:
        return torch.stack([member(noisy) for member in self.members]).mean(dim=0)


@contextmanager
def using_taps(model: nn.Module, taps: int) -> Iterator[None]:
    """Limit filter heads to some of their taps."""
    heads = [module for module in model.modules() if isinstance(module, FilterHead)]
    try:
        for head in heads:
            head.used = taps
        yield
    finally:
        for head in heads:
            head.used = 3


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval and inference mode; restores every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def enhance_utterances(
    model: nn.Module,
    waveforms: Sequence[np.ndarray],
    *,
    evaluation: Evaluation = Evaluation(),  # noqa: B008
    device: torch.device | str | None = None,
    batch_seconds: float | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Enhance whole utterances.

    Only utterances of equal frame count share a batch (of equal length, if a network has its own transform or
    none), because padding would change the result of normalisation over time. Between two results the model
    is in its previous mode.

    Args:
        model: a network with an `Interface`.
        waveforms: (sample,) each, at the network's rate.
        batch_seconds: limit on the audio in a batch of several utterances; None: `BATCH_SECONDS`.

    Yields:
        Index into `waveforms` and the enhanced one, (sample,) float32, ordered by frame count.

    Raises:
        ValueError: an utterance is empty.
    """
    place = device_of(model) if device is None else torch.device(device)
    finish = finishing(evaluation)
    interface = Interface.of(model)
    bound = batch_bound(place) if batch_seconds is None else batch_seconds
    bound *= interface.sample_rate / SAMPLE_RATE
    for batch in equal_frames([len(waveform) for waveform in waveforms], bound, interface.alike):
        with using_taps(model, evaluation.taps):
            results = enhance_batch(model, [waveforms[i] for i in batch], finish, place)
        yield from zip(batch, results, strict=True)


def batch_bound(device: torch.device) -> float:
    """Seconds of `BATCH_SECONDS` of a device."""
    return BATCH_SECONDS.get(device.type, BATCH_SECONDS["cpu"])


def equal_frames(
    lengths: Sequence[int], batch_seconds: float, alike: Callable[[int], int] = utterance_frames
) -> list[list[int]]:
    """Indices in batches of equal frame count, each within the limit of audio or with one utterance."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[alike(length)].append(index)
    batches = []
    for _, group in sorted(groups.items()):
        size = max(1, int(batch_seconds * SAMPLE_RATE / max(1, *(lengths[i] for i in group))))
        batches += [group[k : k + size] for k in range(0, len(group), size)]
    return batches


def enhance_batch(
    model: nn.Module, waveforms: list[np.ndarray], finish: Finish, device: torch.device
) -> list[np.ndarray]:
    """Enhance utterances of equal frame count together, on the device of the model.

    Args:
        waveforms: (sample,) each, that share a batch (`equal_frames`).
        finish: from enhanced and noisy speech to the result, (sample,) float32 each.
    """
    interface = Interface.of(model)
    with evaluating(model):
        noisy = [to_device(torch.from_numpy(np.array(w, np.float32)), device)[None] for w in waveforms]
        signal = torch.cat([interface.whole(waveform) for waveform in noisy])
        signals = tolerantly(lambda: interface(model, signal))
        enhanced = [
            to_host(finish(interface.utterance(signal[None], waveform.shape[-1]), waveform)[0].float())
            for signal, waveform in zip(signals, noisy, strict=True)
        ]
        return [waveform().numpy() for waveform in enhanced]


def score_test(
    model: nn.Module,
    pairs: Sequence[Pair],
    evaluation: Evaluation,
    pool: MetricPool,
    *,
    cache: Path,
    device: torch.device | str | None = None,
    keep: Callable[[Pair, np.ndarray], None] | None = None,
) -> pd.DataFrame:
    """Enhance and score a test set: the table of `score_table.measured`.

    Args:
        model: a network with an `Interface`.
        cache: folder of the cache, for the scores of the noisy input.
        keep: gets each pair with its enhanced speech, (sample,) float32.

    Raises:
        MetricProcessError: the processes that measured an utterance died.
    """
    waveforms = [pair.noisy for pair in pairs]

    def enhanced() -> Iterator[tuple[int, np.ndarray]]:
        for index, signal in enhance_utterances(model, waveforms, evaluation=evaluation, device=device):
            if keep is not None:
                keep(pairs[index], signal)
            yield index, signal

    return measured(pairs, enhanced(), evaluation, pool, cache=cache)


def measure_speed(
    model: nn.Module, pairs: Sequence[Pair], *, device: torch.device | str | None = None, utterances: int = 3
) -> dict[str, float]:
    """Seconds of work per second of audio: the median over the first few utterances, one at a time, after a
    warm-up.

    Returns:
        `real_time_factor`, by the clock, which other load slows down; `processor_time_factor`, by the
            processor
        time of all threads of this process, which other load hardly changes; `one_thread_factor`, the same on
            one
        thread of the processor; `other_cores_busy`, how many cores other processes kept busy meanwhile.
    """
    chosen = [pair.noisy for pair in pairs[:utterances]]
    place = device_of(model) if device is None else torch.device(device)
    as_it_is = finishing(Evaluation())
    enhance_batch(model, [chosen[0]], as_it_is, place)
    load = OtherLoad()
    by_clock, by_processor = [], []
    for waveform in chosen:
        seconds = len(waveform) / pairs[0].sample_rate
        clock, processor = time.perf_counter(), time.process_time()
        enhance_batch(model, [waveform], as_it_is, place)
        by_clock.append((time.perf_counter() - clock) / seconds)
        by_processor.append((time.process_time() - processor) / seconds)
    busy = load.cores()
    one_thread = processor_time = float(np.median(by_processor))
    if place.type != "cpu" or torch.get_num_threads() > 1:
        rate = pairs[0].sample_rate
        one_thread = _one_thread_factor(model, chosen[0][: 2 * rate], rate)
    return {
        "real_time_factor": float(np.median(by_clock)),
        "processor_time_factor": processor_time,
        "one_thread_factor": one_thread,
        "other_cores_busy": busy,
    }


def _one_thread_factor(model: nn.Module, waveform: np.ndarray, rate: int) -> float:
    """Processor seconds per second of audio on one thread: the fastest of three passes."""
    copied, threads = copy.deepcopy(model).cpu(), torch.get_num_threads()
    torch.set_num_threads(1)
    passed = []
    try:
        for _ in range(4):
            began = time.process_time()
            enhance_batch(copied, [waveform], finishing(Evaluation()), torch.device("cpu"))
            passed.append(time.process_time() - began)
        return min(passed[1:]) / (len(waveform) / rate)
    finally:
        torch.set_num_threads(threads)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
