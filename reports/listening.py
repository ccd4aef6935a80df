"""Audio and spectrograms as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .model import AnalysisReport

if TYPE_CHECKING:
    import pandas as pd

    from ablate.studies.scores import RunInfo

BUDGET = 12_000_000
"""Maximum number of bytes of audio and pictures in a page."""
FRAME, HOP, ROWS, COLUMNS = 512, 128, 128, 320
FLOOR = -80.0
"""Lowest level shown in a spectrogram, in dB relative to the utterance's loudest point."""


@dataclass(frozen=True)
class Clip:
    """One sound of one utterance; `sound` and `picture` are data URIs."""

    label: str
    sound: str
    picture: str
    alternative: str
    score: str


@dataclass(frozen=True)
class Listening:
    """The clips of one utterance, noisy and clean first."""

    utterance: str
    condition: str
    clips: tuple[Clip, ...]


def listening(report: AnalysisReport, budget: int = BUDGET) -> tuple[list[Listening], str]:
    """The fixed utterances of the study: noisy, clean, baseline, base, and as many other cells as fit.

    Returns:
        The utterances, and a sentence on what was left out to keep the page small, or "".
    """
    runs = _runs(report)
    if not runs:
        return [], ""
    folder = runs[0].audio
    assert folder is not None
    names = sorted(path.name.removesuffix("-clean.wav") for path in folder.glob("*-clean.wav"))
    scores = report.scores[report.scores["utterance"].isin(names)]
    groups: dict[str, list[Clip]] = {name: [] for name in names}
    used, left_out = 0, []
    for kind, run in [("noisy", runs[0]), ("clean", runs[0]), *(("enhanced", run) for run in runs)]:
        label = report.short(run.cell) if kind == "enhanced" else kind
        made = {}
        for name in names:
            path = Path(str(run.audio)) / f"{name}-{kind}.wav"
            if path.exists():
                made[name] = _clip(path, label, _score(scores, report, run, kind, name))
        size = sum(len(clip.sound) + len(clip.picture) for clip in made.values())
        if used + size > budget and used:
            left_out.append(label)
            continue
        used += size
        for name, clip in made.items():
            groups[name].append(clip)
    result = [
        Listening(name, _condition(scores, name), tuple(clips)) for name, clips in groups.items() if clips
    ]
    note = f"Left out to keep the page small: {', '.join(left_out)}." if left_out else ""
    return result, note


def _runs(report: AnalysisReport) -> list[RunInfo]:
    """The first run with audio of each cell; baseline, base and cells with one change come first."""
    first: dict[str, RunInfo] = {}
    trainings: set[str] = set()
    for run in report.info.runs:
        if run.cell in first or run.training in trainings or run.audio is None:
            continue
        if any(run.audio.glob("*-enhanced.wav")):
            first[run.cell] = run
            trainings.add(run.training)

    def rank(run: RunInfo) -> tuple[int, int]:
        if run.cell == report.analysis.baseline:
            return 0, 0
        levels = report.info.cells[run.cell].levels if run.cell in report.info.cells else {}
        on = sum(level != report.analysis.base.get(factor) for factor, level in levels.items())
        return 1, on if on != len(levels) else 1

    return sorted(first.values(), key=rank)


def _score(scores: pd.DataFrame, report: AnalysisReport, run: RunInfo, kind: str, utterance: str) -> str:
    column = report.analysis.metric if kind == "enhanced" else f"noisy_{report.analysis.metric}"
    if kind == "clean" or column not in scores.columns:
        return ""
    found = scores[(scores["cell"] == run.cell) & (scores["seed"] == run.seed)]
    value = found.loc[found["utterance"] == utterance, column].mean()
    return f"{report.metric} {value:.2f}" if np.isfinite(value) else ""


def _condition(scores: pd.DataFrame, utterance: str) -> str:
    rows = scores[scores["utterance"] == utterance]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    parts = []
    for column, unit in (("speaker", ""), ("noise", ""), ("snr", " dB")):
        value = row.get(column)
        if value is not None and value == value:
            parts.append(f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}")
    return ", ".join(parts)


def _clip(path: Path, label: str, score: str) -> Clip:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = samples[:, 0]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), rate, format="FLAC", subtype="PCM_16")
    seconds = len(samples) / rate
    return Clip(
        label=label,
        sound=_uri("audio/flac", buffer.getvalue()),
        picture=_uri("image/png", spectrogram(samples)),
        alternative=f"Spectrogram, {label}: {seconds:.1f} s, 0 to {rate / 2000:g} kHz",
        score=score,
    )


def spectrogram(samples: np.ndarray) -> bytes:
    """A PNG of the levels of a signal `(time,)`, low frequencies at the bottom, 80 dB deep."""
    from matplotlib import colormaps
    from PIL import Image

    padded = np.pad(samples, (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=-1)) ** 2
    level = 10 * np.log10(np.maximum(power, 1e-12)).T
    level = np.clip((level - level.max()) / -FLOOR + 1, 0, 1)
    indices = (255 * level[::-1]).astype(np.uint8)
    picture = Image.fromarray(indices).resize((min(COLUMNS, indices.shape[1]), ROWS), Image.Resampling.BOX)
    palette = (255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    picture = picture.convert("L").convert("P")
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
