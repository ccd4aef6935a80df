from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ablate.models import ModelConfig, build_model
from ablate.models.errors import InputError
from ablate.training import environment
from ablate.training.environment import (
    Environment,
    InstructionSet,
    OtherLoad,
    PeakMemory,
    choose_device,
    git_commit,
    host,
    prepared,
)


def git(folder: Path, *arguments: str) -> str:
    names = {
        f"GIT_{who}_{what}": "nobody@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | names,
    )
    return done.stdout.strip()


def test_the_commit_of_a_folder_that_git_keeps(tmp_path):
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == git_commit(tmp_path / "kept") == head
    (tmp_path / "kept" / "a.txt").write_text("2")
    assert git_commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "b.txt").write_text("1")
    assert git_commit(tmp_path / "installed") is None
    assert git_commit(tmp_path / "missing") is None


def test_the_machine_in_a_line():
    assert f"{os.cpu_count()} cores" in host()


CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_instruction_set_follows_the_environment():
    code = (
        "from ablate.training.environment import instruction_set; print(instruction_set().model_dump_json())"
    )
    limits = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "avx2", "NUMBA_CPU_NAME": "generic"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | limits
    )
    found = InstructionSet.model_validate_json(done.stdout)
    assert (found.onednn, found.numba, found.numba_features) == ("AVX2", "generic", "")
    assert found.torch in ("DEFAULT", "NO AVX", "default")


def test_differences_name_what_can_change_a_result():
    one = Environment.of(torch.nn.Identity(), CPU, "fp32")
    assert one.differences(one) == []
    elsewhere = one.model_copy(update={"machine": "other", "threads": one.threads + 1, "precision": "bf16"})
    assert one.differences(elsewhere) == ["precision", "threads"]
    assert one.device_name
    assert Environment.model_validate(one.model_dump()) == one


def test_it_is_prepared_and_then_as_before():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    before = torch.backends.cudnn.rnn.fp32_precision
    with prepared(CPU, "fp32", threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        for operator in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
            assert operator.fp32_precision == "ieee"
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.rnn.fp32_precision == before


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="unknown device 'tpux'"):
        choose_device("tpux")
    with pytest.raises(InputError, match="cuda:99 not found"):
        choose_device("cuda:99")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("sampled", [False, True])
def test_peak_memory_is_that_of_the_run_and_not_of_the_process(sampled, monkeypatch):
    if sampled:
        monkeypatch.setattr(environment, "_reset_high_water_mark", lambda: False)
    size = 200_000_000
    ballast = np.ones(2 * size // 8)
    with PeakMemory(CPU) as large:
        held = np.ones(size // 8)
        time.sleep(0.3)
        del held
        peak = large.bytes()
    del ballast
    before = psutil.Process().memory_info().rss
    with PeakMemory(CPU) as small:
        assert small.bytes() < before + size // 2
    assert peak > before + size
    assert large.method == ("sampled" if sampled else small.method)


def test_the_load_of_others_is_measured():
    load = OtherLoad()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1)
        assert load.cores() > 0.2
    finally:
        busy.kill()
        busy.wait()


def flags() -> tuple[bool, bool, str]:
    """Torch's old flags of precision, which raise where they and the new ones disagree."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()


def test_old_flags_of_precision_may_be_read():
    before = flags()
    with prepared(CPU, "fp32", 1):
        assert flags() == (False, False, "highest")
    assert flags() == before
    torch.set_float32_matmul_precision("medium")
    try:
        with environment._single_precision("tf32"):
            assert flags() == (True, True, "high")
        assert flags() == (True, before[1], "medium")
    finally:
        torch.set_float32_matmul_precision(before[2])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert flags() == before


def test_a_slow_scan_is_logged_with_its_reason(monkeypatch, caplog):
    monkeypatch.setattr("ablate.models.scan.choose_backend", lambda _: ("chunked", "triton: no compiler"))
    network = build_model(ModelConfig(channels=8, layers=1, core="mamba"))
    assert Environment.of(network, CPU, "fp32").scan_backend == "chunked"
    assert "slow backend 'chunked' on cpu: triton: no compiler" in caplog.text
    assert Environment.of(torch.nn.Identity(), CPU, "fp32").scan_backend is None
