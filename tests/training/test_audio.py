"""Files are found, paired and read in one way everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablate.models.errors import InputError
from ablate.training.audio import FilesError, audio_files, below, read_mono, resample, write_wav
from ablate.training.data.pairing import pair_folders
from ablate.training.metrics.files import pair_paths


def put(path: Path, samples: int = 800, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones((samples, channels)), 16_000)


def test_hidden_foreign_and_headerless_files_are_no_audio(tmp_path):
    for name in ("b.wav", "a.FLAC", "c.aiff"):
        put(tmp_path / name)
    for name in ("._b.wav", "notes.txt", "x.raw", ".c.aif.12"):
        (tmp_path / name).write_bytes(b"x")
    assert list(audio_files(tmp_path)) == ["a", "b", "c"]
    put(tmp_path / "deep" / "d.wav")
    assert list(audio_files(tmp_path)) == ["a", "b", "c", "d"]
    assert [path.name for path in below(tmp_path)] == ["a.FLAC", "b.wav", "c.aiff", "d.wav"]
    put(tmp_path / "b.flac")
    with pytest.raises(FilesError, match=r"b\.flac and b\.wav"):
        audio_files(tmp_path)
    with pytest.raises(InputError, match="holds no audio file"):
        audio_files(Path(__file__).parent)


def test_files_pair_by_name_whatever_their_suffix(tmp_path):
    clean, other = tmp_path / "clean", tmp_path / "other"
    put(clean / "a.wav")
    put(other / "a.flac")
    paired = pair_folders(clean, other)
    assert [pair[:3] for pair in paired.pairs] == [("a", clean / "a.wav", other / "a.flac")]
    assert pair_paths(clean, other) == paired
    assert pair_paths(clean / "a.wav", other / "a.flac").pairs[0].name == "a"
    put(clean / "b.wav")
    with pytest.raises(FilesError, match=r"(?s)2 files in .*do not pair.*b\.wav has no partner in .*other"):
        pair_folders(clean, other)
    with pytest.raises(InputError, match="two files or two folders"):
        pair_paths(clean, other / "a.flac")


def test_channels_are_averaged_and_a_rate_of_16_khz_is_left_alone(tmp_path):
    put(tmp_path / "a.wav", channels=2)
    audio, rate, channels = read_mono(tmp_path / "a.wav")
    assert (audio.shape, audio.dtype, rate, channels) == ((800,), np.float32, 16_000, 2)
    assert resample(audio, 16_000) is audio
    assert resample(audio, 8_000).shape == (1_600,)
    assert resample(audio, 8_000).dtype == np.float32


def test_a_written_file_is_there_as_a_whole(tmp_path, monkeypatch):
    write_wav(tmp_path / "deep" / "a.wav", np.full(100, 0.5))
    assert soundfile.info(tmp_path / "deep" / "a.wav").frames == 100
    monkeypatch.setattr(soundfile, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_wav(tmp_path / "deep" / "a.wav", np.full(50, 0.5))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.wav"]
