import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.models.errors import InputError
from ablate.training import checkpoint
from ablate.training.checkpoint import BEST, LATEST, PREVIOUS, CheckpointError, ForeignCheckpointError
from ablate.training.rundir import file_digest

TINY = ModelConfig(channels=16, layers=1, crossband_layers=1, decoder_expansion=1)


def content(step: int = 1) -> dict:
    return {
        "kind": "training",
        "step": step,
        "weights": {"a": torch.arange(20_000.0)},
        "history": [{"x": None}],
    }


def weights_file(path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(TINY)
    checkpoint.write(
        path, {"kind": "weights", "model": TINY.model_dump(mode="json"), "weights": model.state_dict()}
    )
    return path


def test_written_and_read(tmp_path):
    checkpoint.write(tmp_path / "deep" / "a.pt", content(7))
    found = checkpoint.read(tmp_path / "deep" / "a.pt", "training")
    assert found["step"] == 7
    assert found["history"] == [{"x": None}]
    assert (found["weights"]["a"] == torch.arange(20_000.0)).all()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.pt"]


@pytest.mark.parametrize("kept", [0, 10, 1000, -10])
def test_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.pt"
    checkpoint.write(path, content())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"a\.pt is truncated"):
        checkpoint.read(path)


def test_one_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.write(path, content())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(path)


def test_foreign_files_are_refused(tmp_path):
    text, plain, other = tmp_path / "text.pt", tmp_path / "plain.pt", tmp_path / "other.pt"
    text.write_text("hello")
    torch.save({"fc.weight": torch.zeros(2)}, plain)
    torch.save({"format": checkpoint.FORMAT, "version": 99, "kind": "training"}, other)
    with pytest.raises(CheckpointError, match="truncated or is not a checkpoint"):
        checkpoint.read(text)
    with pytest.raises(CheckpointError, match="import-checkpoint"):
        checkpoint.read(plain)
    with pytest.raises(ForeignCheckpointError, match="version 99"):
        checkpoint.read(other)
    with pytest.raises(InputError, match="missing"):
        checkpoint.read(tmp_path / "missing.pt")


def test_wrong_kind_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds weights, not training"):
        checkpoint.read(weights_file(tmp_path / "w.pt"), "training")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "x": Bomb(tmp_path / "exploded")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="safely"):
        checkpoint.read(tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


def test_the_one_before_is_used_when_the_latest_is_damaged(tmp_path):
    assert checkpoint.read_latest(tmp_path) == (None, [])
    for step in (1, 2, 3):
        checkpoint.write_latest(tmp_path, content(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, PREVIOUS]
    assert checkpoint.read_latest(tmp_path)[0]["step"] == 3
    with (tmp_path / LATEST).open("r+b") as handle:
        handle.truncate(500)
    found, problems = checkpoint.read_latest(tmp_path)
    assert found["step"] == 2
    assert len(problems) == 1
    assert LATEST in problems[0]
    (tmp_path / LATEST).unlink()
    assert checkpoint.read_latest(tmp_path)[0]["step"] == 2


def test_the_one_before_is_used_when_the_latest_cannot_be_read(tmp_path):
    for step in (1, 2):
        checkpoint.write_latest(tmp_path, content(step))
    (tmp_path / LATEST).unlink()
    (tmp_path / LATEST).mkdir()  # reading it is an OSError, as on a broken disk
    found, problems = checkpoint.read_latest(tmp_path)
    assert (found["step"], len(problems)) == (1, 1)
    (tmp_path / PREVIOUS).unlink()
    with pytest.raises(OSError, match="directory"):
        checkpoint.read_latest(tmp_path)


@pytest.mark.parametrize("name", [LATEST, PREVIOUS])
def test_a_whole_checkpoint_of_another_version_is_not_passed_over(tmp_path, name):
    if name == PREVIOUS:
        (tmp_path / LATEST).write_bytes(b"damaged")
    torch.save({"format": checkpoint.FORMAT, "version": 99, "kind": "training"}, tmp_path / name)
    with pytest.raises(
        ForeignCheckpointError, match="format version 99, but this version of ablate reads 1; use"
    ):
        checkpoint.read_latest(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.write_latest(tmp_path, content(1))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_latest(tmp_path, content(2))
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]
    assert checkpoint.read_latest(tmp_path)[0]["step"] == 1


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"may not mount: {mounted.stderr.decode().strip()}")
    try:
        checkpoint.write_latest(disk, content(1))
        with pytest.raises(OSError, match=r"disk full|No space"):
            checkpoint.write_latest(disk, {**content(2), "more": torch.rand(500_000)})
        assert [path.name for path in disk.iterdir()] == [LATEST]
        assert checkpoint.read_latest(disk)[0]["step"] == 1
        checkpoint.write_latest(disk, content(3))
        assert checkpoint.read_latest(disk)[0]["step"] == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_load_model_reads_best_and_imported_files(tmp_path):
    path = weights_file(tmp_path / BEST)
    model = checkpoint.load_model(path)
    assert not model.training
    assert model.config == TINY
    imported = tmp_path / "imported.pt"
    torch.save({"model": TINY.model_dump(mode="json"), "weights": model.state_dict()}, imported)
    other = checkpoint.load_model(str(imported))
    spectrum = torch.randn(1, 257, 5, dtype=torch.complex64)
    with torch.no_grad():
        assert (model(spectrum) == other(spectrum)).all()


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    weights = build_model(TINY).state_dict()
    torch.save({"model": TINY.model_copy(update={"channels": 24}).model_dump(), "weights": weights}, path)
    with pytest.raises(CheckpointError, match=r"a\.pt do not fit"):
        checkpoint.load_model(path)


def test_file_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.slow
def test_killed_while_writing_one_of_the_two_is_whole(tmp_path):
    script = textwrap.dedent(
        f"""
        import torch
        from pathlib import Path
        from ablate.training import checkpoint
        for step in range(100000):
            content = {{"kind": "training", "step": step, "weights": torch.full((300_000,), float(step))}}
            checkpoint.write_latest(Path({str(tmp_path)!r}), content)
            print(step, flush=True)
        """
    )
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        for _ in range(random.randrange(3, 12)):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        found, problems = checkpoint.read_latest(tmp_path)
        assert not problems
        assert (found["weights"] == found["step"]).all()
