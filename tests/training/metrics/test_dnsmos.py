"""DNSMOS against figures that the published script gave for signals that anyone can make again."""

import subprocess
import sys

import numpy as np
import pytest

from ablate.training.metrics import score_with_errors
from ablate.training.metrics.dnsmos import mel_levels

RATE = 16_000
PUBLISHED = {
    3.0: {"sig": 2.517019, "bak": 2.352680, "ovrl": 1.758179},
    12.0: {"sig": 2.517019, "bak": 2.352681, "ovrl": 1.758180},
}
"""Seconds of `hum` -> scores of `speechmos.dnsmos.run`, version 0.0.1.1."""


def hum(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * k * 140 * time) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2 * time), 0, None)
    return 0.05 * voice * syllables + 0.005 * np.sin(2 * np.pi * 3000 * time)


@pytest.mark.numerics
@pytest.mark.parametrize("seconds", PUBLISHED)
def test_the_published_script_gives_the_same(seconds: float) -> None:
    pytest.importorskip("onnxruntime")
    signal = hum(seconds)
    values = score_with_errors(signal, signal, RATE, [f"dnsmos_{part}" for part in PUBLISHED[seconds]]).values
    assert values == pytest.approx(
        {f"dnsmos_{part}": value for part, value in PUBLISHED[seconds].items()}, abs=1e-4
    )


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None; import numpy as np\n"
        "from ablate.training.metrics import score_with_errors\n"
        "print(score_with_errors(np.ones(16000), np.ones(16000), 16000, ['dnsmos_sig']).errors)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ablate-speech[dnsmos]'" in done.stdout


def slaney(mel: float) -> float:
    return 200 / 3 * mel if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def test_the_mel_levels_in_plain_words() -> None:
    signal = hum(0.2)
    edges = [slaney(m) for m in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 122)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(321) / 321)
    padded = np.concatenate([np.zeros(160), signal, np.zeros(160)])
    rows = []
    for start in range(0, len(padded) - 320, 160):
        power = np.abs(np.fft.rfft(padded[start : start + 321] * hann)) ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for index, value in enumerate(power):
                place = index * 16000 / 321
                inside = min((place - low) / (middle - low), (high - place) / (high - middle))
                total += max(inside, 0.0) * 2 / (high - low) * value
            row.append(total)
        rows.append(row)
    levels = 10 * np.log10(np.maximum(rows, 1e-10) / np.max(rows))
    assert mel_levels(signal) == pytest.approx((np.maximum(levels, -80) + 40) / 40, abs=1e-3)


def test_the_published_script_gives_the_same_p808() -> None:
    pytest.importorskip("onnxruntime")
    for seconds in PUBLISHED:
        found = score_with_errors(hum(seconds), hum(seconds), RATE, ["dnsmos_p808"]).values
        assert found == pytest.approx({"dnsmos_p808": 2.0302172}, abs=1e-4)
