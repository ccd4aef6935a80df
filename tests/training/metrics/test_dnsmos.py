"""DNSMOS against figures that the published script gave for signals that anyone can make again."""

import subprocess
import sys

import numpy as np
import pytest

from ablate.training.metrics import score_with_errors

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
    assert "pip install 'ablate[dnsmos]'" in done.stdout
