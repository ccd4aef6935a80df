"""Speech from eSpeak NG, with the library and voices of `espeakng-loader`.

The library keeps state between utterances and draws its breath noise from the C library's random numbers. A
batch is therefore spoken in a fresh process: the same batch gives the same samples.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ... import subprocess_env
from ...audio import resample

_RETRIEVAL = 1
_DO_NOT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """A text with its eSpeak voice such as `en-us+f2`, words a minute, and pitch in 0..99."""

    text: str
    voice: str
    words_per_minute: int = 165
    pitch: int = 50


def engine() -> str:
    """Name and version of the speech engine's wheel."""
    return f"espeakng-loader {version('espeakng-loader')}"


def speak(utterances: list[Utterance]) -> list[np.ndarray]:
    """`(sample,)` float32 at 16 kHz for each utterance, the same on every call.

    Raises:
        RuntimeError: the speech engine failed, e.g. because a voice is unknown.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "speech.npz"
        done = subprocess.run(
            subprocess_env.command(__name__, str(output)),
            input=json.dumps([asdict(utterance) for utterance in utterances]),
            capture_output=True,
            text=True,
            env=subprocess_env.environment(),
        )
        if done.returncode:
            raise RuntimeError(f"eSpeak NG failed ({done.returncode}): {done.stderr.strip()[-500:]}")
        with np.load(output) as speech:
            return [
                resample(speech[str(index)].astype(np.float32) / 32_768, int(speech["rate"]))
                for index in range(len(utterances))
            ]


class _Engine:
    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self._library.espeak_Initialize(_RETRIEVAL, 0, data, _DO_NOT_EXIT)
        if self.rate <= 0:
            raise RuntimeError(f"espeak_Initialize gave {self.rate}")
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, utterance: Utterance) -> np.ndarray:
        """`(sample,)` int16 at `self.rate` Hz."""
        self._chunks.clear()
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if self._library.espeak_SetVoiceByName(utterance.voice.encode()):
            raise RuntimeError(f"no voice {utterance.voice}")
        self._library.espeak_SetParameter(_RATE, utterance.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        self._library.espeak_SetParameter(_RANGE, 60, 0)
        text = utterance.text.encode()
        size = ctypes.c_size_t(len(text) + 1)
        if self._library.espeak_Synth(text, size, 0, 1, 0, _CHARACTERS_UTF8, None, None):
            raise RuntimeError(f"cannot say {utterance.text!r}")
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks)


def _main() -> None:
    talker = _Engine()
    requests = [Utterance(**request) for request in json.load(sys.stdin)]
    spoken = {str(index): talker.say(request) for index, request in enumerate(requests)}
    np.savez(sys.argv[1], rate=np.array(talker.rate), **spoken)  # type: ignore[arg-type]


if __name__ == "__main__":
    _main()
