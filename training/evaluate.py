"""Whole utterances through a network, and their measures. Evaluation never cuts nor pads an utterance."""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import Evaluation
from .data.corpus import Pair
from .metrics import MetricPool, Scored
from .metrics.registry import usual
from .pcs import pcs
from .spectral import SAMPLE_RATE, analyse, synthesise, utterance_frames

if TYPE_CHECKING:
    import pandas as pd

BATCH_SECONDS = 30.0
VALIDATION_METRICS = ("pesq_wb", "stoi")
POST_PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda waveform: waveform, "pcs": pcs}
"""What `Evaluation.post_processing` may name: (batch, sample) -> (batch, sample)."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval and inference mode; afterwards every module is in the mode it was in."""
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
    post_processing: str = "none",
    device: torch.device | str | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[tuple[int, np.ndarray]]:
    """Enhance whole utterances.

    Only utterances of equal frame count share a batch: normalisation over time makes padding change
    the result. Between two results the model is in the mode it was in before.

    Args:
        model: maps (batch, 257, frame) complex to the same shape.
        waveforms: (sample,) each, at 16 kHz.
        post_processing: a name in `POST_PROCESSING`.
        device: where the model is; None: where its parameters are.
        batch_seconds: bound on the audio in a batch of more than one utterance.

    Yields:
        Index into `waveforms` and the enhanced one, (sample,) float32; in the order of frame counts.

    Raises:
        ValueError: the post-processing is unknown or an utterance is empty.
    """
    if post_processing not in POST_PROCESSING:
        raise ValueError(f"unknown post-processing {post_processing!r}. Known: {', '.join(POST_PROCESSING)}")
    place = device_of(model) if device is None else torch.device(device)
    finish = POST_PROCESSING[post_processing]
    for batch in equal_frames([len(waveform) for waveform in waveforms], batch_seconds):
        results = enhance_batch(model, [waveforms[i] for i in batch], finish, place)
        yield from zip(batch, results, strict=True)


def equal_frames(lengths: Sequence[int], batch_seconds: float) -> list[list[int]]:
    """Indices in batches of equal frame count that hold at most so much audio, or one utterance."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[utterance_frames(length)].append(index)
    batches = []
    for _, group in sorted(groups.items()):
        size = max(1, int(batch_seconds * SAMPLE_RATE / max(1, *(lengths[i] for i in group))))
        batches += [group[k : k + size] for k in range(0, len(group), size)]
    return batches


def enhance_batch(
    model: nn.Module, waveforms: list[np.ndarray], finish: Callable[[Tensor], Tensor], device: torch.device
) -> list[np.ndarray]:
    """Enhance utterances of equal frame count together.

    Args:
        model: on `device`.
        waveforms: (sample,) each, at 16 kHz, with equal `utterance_frames`.
        finish: post-processing, (batch, sample) -> (batch, sample).
        device: where it is done.

    Returns:
        (sample,) float32 each.
    """
    with evaluating(model):
        noisy = [torch.from_numpy(np.array(w, dtype=np.float32)).to(device)[None] for w in waveforms]
        spectrograms = model(torch.cat([analyse(waveform) for waveform in noisy]))
        return [
            finish(synthesise(spectrogram[None], waveform.shape[-1]))[0].float().cpu().numpy()
            for spectrogram, waveform in zip(spectrograms, noisy, strict=True)
        ]


class Validation:
    """A validation under way: the network has done its part, the pool measures.

    Args:
        futures: by utterance, in the order of the pairs.
    """

    def __init__(self, futures: dict[str, Future[Scored]]) -> None:
        self._futures = futures

    def done(self) -> bool:
        """Whether `collect` would return at once."""
        return all(future.done() for future in self._futures.values())

    def collect(self) -> dict[str, float]:
        """Wait; means of `val/pesq_wb` and `val/stoi` over the utterances where they could be measured."""
        scored = [future.result().values for future in self._futures.values()]
        return {f"val/{name}": _mean([values[name] for values in scored]) for name in VALIDATION_METRICS}

    def errors(self) -> dict[str, str]:
        """Wait; the utterances with a failed metric, with the reasons."""
        reasons = {name: _error_text(future.result()) for name, future in self._futures.items()}
        return {name: reason for name, reason in reasons.items() if reason}


def start_validation(
    model: nn.Module,
    pairs: Sequence[Pair],
    pool: MetricPool,
    *,
    device: torch.device | str | None = None,
) -> Validation:
    """Enhance the pairs now and have them measured in the pool; training may go on meanwhile."""
    futures: dict[str, Future[Scored]] = {}
    for index, enhanced in enhance_utterances(model, [pair.noisy for pair in pairs], device=device):
        pair = pairs[index]
        futures[pair.name] = pool.submit(pair.clean, enhanced, VALIDATION_METRICS)
    return Validation({pair.name: futures[pair.name] for pair in pairs})


def validate(
    model: nn.Module,
    pairs: Sequence[Pair],
    pool: MetricPool,
    *,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """`start_validation` and wait: `{"val/pesq_wb": ..., "val/stoi": ...}`."""
    return start_validation(model, pairs, pool, device=device).collect()


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
    """Enhance and measure a test set.

    Args:
        model: maps (batch, 257, frame) complex to the same shape.
        pairs: of the test set.
        evaluation: what is done with the enhanced speech.
        pool: where it is measured.
        cache: folder of the cache, for the scores of the noisy input.
        device: where the model is; None: where its parameters are.
        keep: is given each pair with its enhanced speech, (sample,) float32.

    Returns:
        A row per utterance, in the order of the pairs: `utterance, speaker, snr, noise`, the nine
        metrics (NaN where one failed), `seconds` (its length), `error` (the reasons, or missing),
        `noisy_pesq_wb, noisy_stoi`.
    """
    import pandas as pd

    waveforms = [pair.noisy for pair in pairs]
    order: list[int] = []

    def enhanced_pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, enhanced in enhance_utterances(
            model, waveforms, post_processing=evaluation.post_processing, device=device
        ):
            order.append(index)
            if keep is not None:
                keep(pairs[index], enhanced)
            yield pairs[index].clean, enhanced

    rows: list[dict[str, Any]] = [{} for _ in pairs]
    for position, scored in enumerate(pool.map(enhanced_pairs())):
        pair = pairs[order[position]]
        rows[order[position]] = {
            "utterance": pair.name,
            "speaker": pair.speaker,
            "snr": pair.snr,
            "noise": pair.noise,
            **scored.values,
            "seconds": pair.seconds,
            "error": _error_text(scored),
        }
    frame = pd.DataFrame(rows).astype({"speaker": "str", "noise": "str", "error": "str", "snr": "float64"})
    noisy = noisy_scores(pairs, pool, cache=cache)
    return frame.assign(noisy_pesq_wb=noisy["pesq_wb"], noisy_stoi=noisy["stoi"])


def noisy_scores(pairs: Sequence[Pair], pool: MetricPool, *, cache: Path) -> pd.DataFrame:
    """PESQ-WB and STOI of the noisy input, measured once for all runs.

    They are kept in the cache by the content of the pairs; of several processes that ask at once, one
    measures and the others wait.

    Returns:
        `utterance, pesq_wb, stoi`, a row per pair, in their order.
    """
    import pandas as pd

    content = "".join(f"{pair.name} {pair.clean_sha256} {pair.noisy_sha256}\n" for pair in pairs)
    path = cache / "noisy-scores" / f"{sha256(content.encode()).hexdigest()[:32]}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                scored = pool.map(((pair.clean, pair.noisy) for pair in pairs), VALIDATION_METRICS)
                rows = [{"utterance": p.name, **s.values} for p, s in zip(pairs, scored, strict=True)]
                write_parquet(path, pd.DataFrame(rows))
    return pd.read_parquet(path)


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Replace a parquet file as a whole: written beside it, synced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            frame.to_parquet(handle, index=False)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fixed_utterances(pairs: Sequence[Pair], noisy: pd.DataFrame, n: int = 6) -> tuple[Pair, ...]:
    """The utterances kept to listen to: `n` pairs at even ranks of the noisy PESQ, lowest and highest too.

    Args:
        pairs: of the test set.
        noisy: their `noisy_scores`.
        n: how many; all where there are no more.
    """
    pesq = dict(zip(noisy["utterance"], noisy["pesq_wb"].fillna(0.0), strict=True))
    ranked = sorted(pairs, key=lambda pair: (pesq[pair.name], pair.name))
    ranks = np.unique(np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int))
    return tuple(ranked[rank] for rank in ranks)


def write_audio(folder: Path, pair: Pair, enhanced: np.ndarray | None = None, *, label: str = "") -> None:
    """Write an utterance to listen to, 16 bits at 16 kHz.

    Args:
        folder: where `<utterance>-noisy.wav` and `<utterance>-clean.wav` go if they are not there.
        pair: the utterance.
        enhanced: (sample,); written to `<utterance>-enhanced<label>.wav`.
        label: tells several enhanced ones apart, as "-first".
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, waveform in (("noisy", pair.noisy), ("clean", pair.clean)):
        path = folder / f"{pair.name}-{name}.wav"
        if not path.exists():
            _write_wav(path, waveform)
    if enhanced is not None:
        _write_wav(folder / f"{pair.name}-enhanced{label}.wav", enhanced)


def real_time_factor(
    model: nn.Module,
    pairs: Sequence[Pair],
    *,
    device: torch.device | str | None = None,
    utterances: int = 3,
) -> float:
    """Seconds of work per second of audio, for whole utterances one at a time; the median of a few.

    The utterances are the first of the pairs; one more is enhanced before, not timed. Measure it while
    nothing else runs.
    """
    chosen = [pair.noisy for pair in pairs[:utterances]]
    place = device_of(model) if device is None else torch.device(device)
    factors = []
    for waveform in [chosen[0], *chosen]:
        start = time.perf_counter()
        enhance_batch(model, [waveform], POST_PROCESSING["none"], place)
        factors.append((time.perf_counter() - start) * SAMPLE_RATE / len(waveform))
    return float(np.median(factors[1:]))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _write_wav(path: Path, waveform: np.ndarray) -> None:
    import soundfile

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(temporary, np.asarray(waveform), SAMPLE_RATE, subtype="PCM_16", format="WAV")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _error_text(scored: Scored) -> str | None:
    """`metric: reason; ...` in the order of the metrics, equal reasons once."""
    metrics_of: dict[str, list[str]] = defaultdict(list)
    for metric in usual():
        if metric in scored.errors:
            metrics_of[scored.errors[metric]].append(metric)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in metrics_of.items()) or None
