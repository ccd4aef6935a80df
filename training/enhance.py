"""Enhances audio files of any rate, length and number of channels with a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from torch import Tensor, nn

from ablate.models.errors import InputError
from ablate.models.interface import Interface

from .audio import below
from .evaluate import device_of, enhance_batch
from .files import atomic_write
from .pcs import stretch

CHUNK_SECONDS = 20.0
"""Longer recordings are enhanced in chunks of this length, shorter ones whole, as in evaluation."""
OVERLAP_SECONDS = 2.0
"""Overlap and cross-fade of neighbouring chunks."""
BLOCK = 1 << 16

_LOSSLESS = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64"})
_KEPT_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})

Blocks = Iterable[NDArray[np.float32]]
"""A recording in pieces of (sample, channel)."""


def plan_outputs(inputs: Sequence[Path], folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The output file of each input: files by name, folders with all audio below them by relative path.

    Returns:
        (source, target) of each file, with a lossless target, and why other files cannot be read as audio.

    Raises:
        InputError: an input does not exist, a folder has no audio, or no file can be read; or an output would
            overwrite its input or another output.
    """
    refused: list[str] = []
    sources: dict[Path, Path] = {}
    for given in inputs:
        if given.is_dir():
            files = list(below(given))
            if not files:
                raise InputError(f"no audio file below {given}")
            named = [(file, file.relative_to(given)) for file in files]
        elif given.is_file():
            named = [(given, Path(given.name))]
        else:
            raise InputError(f"{given} does not exist")
        for source, name in named:
            try:
                target = folder / name.with_suffix(_form(_info(source), source)[2])
            except InputError as error:
                refused.append(str(error))
                continue
            if target in sources:
                raise InputError(f"{sources[target]} and {source} would both be written to {target}")
            if target.exists() and target.samefile(source):
                raise InputError(f"{source} would be overwritten; give another output folder than {folder}")
            sources[target] = source
    if not sources:
        raise InputError("; ".join(refused))
    return [(source, target) for target, source in sources.items()], refused


def enhance_file(
    model: nn.Module,
    source: Path,
    target: Path,
    *,
    pcs: bool = False,
    chunk_seconds: float = CHUNK_SECONDS,
    overlap_seconds: float = OVERLAP_SECONDS,
) -> float:
    """Enhance one file, each channel alone.

    The result has the input's sample rate, number of samples and channels, and its sample format if that is
    lossless (else 16 bits). It is written atomically. Memory does not grow with the length of the file.

    Args:
        model: a network with an `Interface`.
        target: its suffix fits the format (`plan_outputs`).
        pcs: perceptual contrast stretching; the loudest sample of all channels becomes 1.

    Returns:
        The length of the file in seconds.

    Raises:
        InputError: the file is not audio, or has samples that are not finite.
    """
    info = _info(source)
    rate, channels, samples = info.samplerate, info.channels, info.frames
    its = Interface.of(model).sample_rate
    enhanced = enhance_blocks(
        model,
        resampled(_read(source), rate, its, channels),
        finish=stretch if pcs else lambda waveform: waveform,
        chunk=round(chunk_seconds * its),
        overlap=round(overlap_seconds * its),
    )
    blocks = exactly(resampled(enhanced, its, rate, channels), samples, channels)
    kind, subtype, _ = _form(info, source)
    with atomic_write(target) as partial:
        if not pcs:
            _write(partial, blocks, rate, channels, kind, subtype)
        else:
            unscaled = partial.with_name(f"{partial.name}.level")
            try:
                peak = _write(unscaled, blocks, rate, channels, "W64", "FLOAT")
                gain = np.float32(1 / peak if peak > 0 else 1)
                _write(partial, (gain * block for block in _read(unscaled)), rate, channels, kind, subtype)
            finally:
                unscaled.unlink(missing_ok=True)
    return samples / rate


def enhance_blocks(
    model: nn.Module, blocks: Blocks, *, finish: Callable[[Tensor], Tensor], chunk: int, overlap: int
) -> Iterator[NDArray[np.float32]]:
    """Enhance a recording in pieces, at the network's rate.

    A recording that fits into a chunk is enhanced whole. Longer ones are enhanced in chunks of equal length
    (the last begins earlier instead of being short), cross-faded linearly over `overlap`.

    Args:
        model: a network with an `Interface`.
        finish: post-processing of each chunk, (1, sample) -> (1, sample).
        chunk: samples.
        overlap: samples, at most half a chunk.

    Raises:
        ValueError: the overlap is not above 0 and at most half a chunk.
    """
    if not 0 < 2 * overlap <= chunk:
        raise ValueError(f"an overlap of {overlap} samples is over half of a chunk ({chunk})")
    hop = chunk - overlap
    rise = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None]
    held: NDArray[np.float32] | None = None
    yielded = 0
    tail: NDArray[np.float32] | None = None

    def enhance(piece: NDArray[np.float32], known: int = 0) -> NDArray[np.float32]:
        """A piece but for its `known` first samples, faded in from the tail of the one before."""
        channels = [
            enhance_batch(model, [np.ascontiguousarray(channel)], lambda x, _: finish(x), device_of(model))[0]
            for channel in piece.T
        ]
        enhanced = np.stack(channels, axis=1)[known:]
        if tail is not None:
            enhanced[:overlap] = rise * enhanced[:overlap] + (1 - rise) * tail
        return enhanced

    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        while len(held) > yielded + chunk:
            enhanced = enhance(held[yielded : yielded + chunk])
            tail = enhanced[hop:]
            yield enhanced[:hop]
            held = held[yielded:]
            yielded = hop
    if held is not None and len(held) > yielded:
        begin = max(0, min(yielded, len(held) - chunk))
        yield enhance(held[begin:], yielded - begin)


def resampled(blocks: Blocks, rate: int, to: int, channels: int) -> Iterator[NDArray[np.float32]]:
    """Resample a recording in pieces of (sample, channel)."""
    if rate == to:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, to, channels, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def exactly(blocks: Blocks, samples: int, channels: int) -> Iterator[NDArray[np.float32]]:
    """The first `samples` samples of a recording in pieces, with zeros if it is shorter."""
    left = samples
    for block in blocks:
        yield block[:left]
        left -= min(len(block), left)
    if left:
        yield np.zeros((left, channels), np.float32)


def checkpoint_of_run(root: Path, run: str) -> Path:
    """The selected checkpoint of a run.

    Args:
        root: folder of `runs/`.
        run: training signature or its first digits.

    Raises:
        InputError: no run or several runs match, or the run has no selected checkpoint yet.
    """
    folder = root / "runs"
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = [name for name in names if run and name.startswith(run)]
    if not found:
        known = ", ".join(name[:12] for name in names[:5]) or "none"
        raise InputError(f"no run {run!r} in {folder} (there: {known}{', ...' * (len(names) > 5)})")
    if len(found) > 1:
        raise InputError(f"{run!r} matches {len(found)} runs: {', '.join(name[:16] for name in found[:5])}")
    path = folder / found[0] / "checkpoints" / "best.pt"
    if (own := folder / found[0] / "out").is_dir():
        raise InputError(f"run {found[0][:12]} was trained by a command; enhance with its program ({own})")
    if not path.exists():
        raise InputError(f"run {found[0][:12]} has no selected checkpoint yet ({path})")
    return path


def _info(source: Path) -> soundfile._SoundFileInfo:
    try:
        return soundfile.info(source)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{source} cannot be read as audio: {error.error_string}") from None


def _form(info: soundfile._SoundFileInfo, source: Path) -> tuple[str, str, str]:
    """Format, sample format and suffix of the output for an input."""
    if info.format not in _LOSSLESS:
        return "WAV", "PCM_16", ".wav"
    kept = info.subtype in _KEPT_SUBTYPES and soundfile.check_format(info.format, info.subtype)
    return info.format, info.subtype if kept else "PCM_16", source.suffix


def _read(source: Path) -> Iterator[NDArray[np.float32]]:
    try:
        with soundfile.SoundFile(source) as file:
            for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
                if not np.isfinite(block).all():
                    raise InputError(
                        f"{source} has {int((~np.isfinite(block)).sum())} samples that are not finite"
                    )
                yield block
    except soundfile.LibsndfileError as error:
        raise InputError(f"{source} cannot be read to its end: {error.error_string}") from None


def _write(target: Path, blocks: Blocks, rate: int, channels: int, kind: str, subtype: str) -> float:
    """Write a file; returns the largest magnitude of its samples."""
    peak = 0.0
    with soundfile.SoundFile(target, "w", rate, channels, subtype=subtype, format=kind) as file:
        for block in blocks:
            file.write(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
    return peak
