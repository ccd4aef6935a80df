"""The 16 kHz cache: built once, by whoever comes first, and never half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablate.training.audio import FilesError
from ablate.training.data import cache as module
from ablate.training.data.cache import CachedSplit, mapped
from ablate.training.data.pairing import pair_folders


def open_split(clean: Path, noisy: Path, cache: Path, *more: object) -> CachedSplit:
    return module.open_split(pair_folders(clean, noisy).pairs, cache, *more)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "clean", tmp_path / "noisy"
    rng = np.random.default_rng(0)
    for folder in made:
        folder.mkdir()
        for index in range(12):
            soundfile.write(folder / f"{index:02d}.wav", 0.1 * rng.standard_normal(5000 + index), 16_000)
    return made


def test_several_processes_build_one_entry(folders: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "cache"
    script = (
        "import sys; from pathlib import Path; from ablate.training.data.cache import open_split; "
        "from ablate.training.data.pairing import pair_folders; "
        "clean, noisy, cache = map(Path, sys.argv[1:]); "
        "print(open_split(pair_folders(clean, noisy).pairs, cache).folder.name)"
    )
    command = [sys.executable, "-P", "-c", script, *map(str, folders), str(root)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [process.communicate(timeout=120)[0].strip() for process in racing]
    assert len(set(names)) == 1
    built = [path.name for path in (root / "corpora").iterdir() if path.is_dir() and path.name != "known"]
    assert built == names[:1]


def test_entries_place_the_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    split = open_split(*folders, tmp_path / "cache")
    flat = mapped(split.folder / "noisy.f32")
    assert [entry.name for entry in split.entries] == [f"{index:02d}" for index in range(12)]
    assert sum(entry.samples for entry in split.entries) == len(flat)
    audio, _ = soundfile.read(folders[1] / "07.wav", dtype="float32")
    entry = split.entries[7]
    np.testing.assert_array_equal(flat[entry.start : entry.start + entry.samples], audio)


def test_a_second_opening_reads_no_audio(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_split(*folders, tmp_path / "cache")

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "_content_key", refuse)
    monkeypatch.setattr(module, "_build", refuse)
    assert open_split(*folders, tmp_path / "cache") == first


def test_a_touched_corpus_is_hashed_but_not_built_again(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_split(*folders, tmp_path / "cache")
    os.utime(folders[0] / "03.wav", (1, 1))
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("built again"))
    assert open_split(*folders, tmp_path / "cache") == first


def test_an_equal_size_with_an_old_time_is_noticed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = open_split(*folders, tmp_path / "cache")
    path = folders[0] / "03.wav"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_split(*folders, tmp_path / "cache").folder != first.folder


def test_what_a_killed_builder_left_is_replaced(folders: tuple[Path, Path], tmp_path: Path) -> None:
    expected = open_split(*folders, tmp_path / "a")
    partial = tmp_path / "b" / "corpora" / f".{expected.folder.name}.partial"
    partial.mkdir(parents=True)
    (partial / "clean.f32").write_bytes(b"half")
    split = open_split(*folders, tmp_path / "b")
    assert split.entries == expected.entries
    assert not partial.exists()


def test_progress_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_split(*folders, tmp_path / "cache", lambda *row: told.append(row))
    assert told[-1] == ("reading", 12, 12)
    assert ("hashing", 12, 12) in told


def test_many_faults_are_counted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for index in range(7):
        soundfile.write(folders[0] / f"{index:02d}.wav", np.zeros(5000 + index), 16_000)
    with pytest.raises(FilesError, match=r"(?s)7 problems in 12 pairs.*and 2 more") as caught:
        open_split(*folders, tmp_path / "cache")
    assert len(caught.value.problems) == 7
