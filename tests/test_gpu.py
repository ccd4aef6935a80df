"""The command that proves the GPU path, where there is no GPU and little is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)


@pytest.mark.slow
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
    assert all(row["twice"] and row["killed"] for row in results["same bits"]["figures"])
    timed = {(row["network"], row["scan"]) for row in results["step times"]["figures"]}
    assert {("mbsnet", "numba"), ("mbsnet", "chunked"), ("bsrnn", "none")} <= timed
    assert found["machine"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


def test_a_failed_check_is_told_by_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    def broken(setting: object) -> None:
        raise RuntimeError("the card is on fire")

    monkeypatch.setitem(gpu.CHECKS, "waits", broken)
    monkeypatch.setattr(gpu, "apart", lambda work, **_: {"device_name": "a card"})
    found = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "waits", "--json", str(found)])
    assert gpu.main() == 1
    assert json.loads(found.read_text())["results"][0]["detail"] == "RuntimeError: the card is on fire"
