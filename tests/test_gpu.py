"""The command that proves the GPU path, where there is no GPU and little is installed."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
ABSENT = (
    "mlflow",
    "optuna",
    "pesq",
    "pystoi",
    "soundfile",
    "soxr",
    "typer",
    "rich",
    "yaml",
    "jinja2",
    "matplotlib",
)


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "benchmarks/gpu.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_checks_pass_or_are_skipped_by_name(tmp_path: Path) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}')")
    done = run("--device", "cpu", "--tiny", "--json", str(tmp_path / "found.json"), path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    results = {row["check"]: row for row in found["results"]}
    assert [name for name, row in results.items() if row["state"] == "skipped"] == [
        "PESQ",
        "judge lag",
        "grid",
    ]
    assert results["PESQ"]["detail"] == "without pesq"
    assert results["grid"]["detail"].startswith("without mlflow, optuna, pesq")
    for row in results["same bits"]["figures"]:
        assert all(row[name] for name in ("moved", "twice", "resumed", "graph", "to graph", "from graph"))
        assert row["replayed"] == "the device is cpu"
    assert results["same bits"]["figures"][-1]["killed"]
    assert {"stft", "istft", "discriminator", "mbsnet"} <= {
        row["of"] for row in results["agreement"]["figures"]
    }
    timed = {(row["network"], row["scan"]) for row in results["step times"]["figures"]}
    assert {("mbsnet", "numba"), ("mbsnet", "chunked"), ("bsrnn", "none")} <= timed
    assert found["machine"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/gpu.py` by another name: a checkout's folder may be called `gpu` too."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("ablate_test_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_failed_check_is_told_by_the_exit_code(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(setting: object) -> None:
        raise RuntimeError("the card is on fire")

    monkeypatch.setitem(gpu.CHECKS, "waits", broken)
    monkeypatch.setattr(gpu, "apart", lambda work, **_: {"device_name": "a card"})
    found = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "waits", "--json", str(found)])
    assert gpu.main() == 1
    assert json.loads(found.read_text())["results"][0]["detail"] == "RuntimeError: the card is on fire"


def test_what_was_found_is_written_after_each_check_and_time_may_run_out(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = tmp_path / "found.json"

    def first(setting: object) -> Any:
        return gpu.Result("waits", "passed", "as wanted")

    def second(setting: object) -> None:
        (row,) = json.loads(found.read_text())["results"]
        assert row["detail"] == "as wanted"
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "apart", lambda work, **_: {"device_name": "a card"})
    monkeypatch.setattr(gpu, "CHECKS", {"waits": first, "grid": second})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", str(found), "--only", "waits,grid"])
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "waits", "--json", str(found), "--minutes", "1e-9"])
    assert gpu.main() == 0
    assert json.loads(found.read_text())["results"][0]["state"] == "skipped"


def test_packages_come_from_a_folder_of_wheels(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    about = "brought-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "brought-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought.py", "value = 7\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    gpu.add_wheels(tmp_path)
    assert importlib.import_module("brought").value == 7
    program = "import brought; print(brought.value)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "7\n"
    sys.modules.pop("brought")


def test_a_card_whose_kernels_do_nothing_does_not_agree(gpu: ModuleType) -> None:
    agreement = importlib.import_module("gpu_agreement")
    wanted = [torch.tensor([1.0, -2.0]), torch.tensor([1j])]
    assert agreement.difference(wanted, wanted) == 0
    assert agreement.difference([x * 0 for x in wanted], wanted) == 1
    assert agreement.difference([x * math.nan for x in wanted], wanted) == math.inf
    assert max(agreement.LIMITS.values()) < 1
