"""What a GPU has to prove, in one command (`make gpu`).

A table, JSON if asked for, and exit code 1 if a check failed. Each check runs in processes of its own; it
passes, fails, or is skipped for a reason that is named. All but the last three need no more than torch,
triton, numpy, numba, scipy, pandas, pyarrow, psutil, pydantic and pytest; `--wheels DIR` brings what is
missing. `--device cpu --tiny` goes the same ways on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
if find_spec("ablate") is None:  # not installed: the checkout is the package, whatever its folder is called
    above = tempfile.mkdtemp(prefix="ablate-gpu-")
    atexit.register(shutil.rmtree, above)
    Path(above, "ablate").symlink_to(ROOT, target_is_directory=True)
    sys.path.insert(0, above)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH")]))

from gpu_processes import Killed, absent, add_wheels, apart, together  # noqa: E402

WAITS = {False: 1, True: 2}
"""How often a step may wait, without and with a discriminator: for its results, and for waves to measure."""


@dataclass
class Result:
    """What came of a check."""

    check: str
    state: Literal["passed", "failed", "skipped"]
    detail: str
    seconds: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What is checked, and how large."""

    device: str
    tiny: bool
    steps: int

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Networks and precisions."""
        networks = ("mbsnet", "bsrnn") if self.tiny else ("mbsnet", "mbsnet-as-trained", "bsrnn")
        return list(product(networks, ("fp32",) if self.tiny else ("fp32", "bf16")))


def contract(setting: Setting) -> Result:
    """Every scan backend and convolution present agrees with the plain loop, on the device."""
    tests = ["tests/models/scan/test_scan.py", "tests/models/scan/test_convolution.py"]
    without = ["-p", "no:cacheprovider", "-p", "no:hydra_pytest"]
    command = [sys.executable, "-m", "pytest", "-q", *without, "-m", "not slow"]
    if setting.tiny:
        command += ["-k", "gradient_of_one_input or fused_convolution"]
    done = subprocess.run(
        [*command, "--device", setting.device, *tests], cwd=ROOT, capture_output=True, text=True
    )
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    passed = re.search(r"(\d+) passed", last)
    if done.returncode or not passed:
        return Result("contract", "failed", done.stdout[-4000:] + done.stderr[-2000:])
    return Result("contract", "passed", last)


def agreement(setting: Setting) -> Result:
    """Values, gradients and weights after two steps are those of the processor, up to rounding."""
    from gpu_agreement import networks, operations

    names = ["mbsnet", "bsrnn", "core=attention"] if setting.tiny else None
    figures = apart(operations, device=setting.device) + apart(networks, device=setting.device, names=names)
    wrong = [row for row in figures if not row["agrees"]]
    detail = f"{len(figures) - len(wrong)} of {len(figures)} agree with the processor"
    return Result("agreement", "failed" if wrong else "passed", detail, figures=figures)


def same_bits(setting: Setting) -> Result:
    """A training gives the same bits twice, where it was killed on the way, and replayed from CUDA graphs.

    A resume may switch between replayed steps and steps that are launched one by one.
    """
    from gpu_work import train

    names = [*((*case, False) for case in setting.cases), ("mbsnet", "fp32", True)]
    fixed = {"device": setting.device, "tiny": setting.tiny, "steps": setting.steps}
    cases = [{"preset": a, "precision": b, "judged": c, **fixed} for a, b, c in names]
    with tempfile.TemporaryDirectory() as folder:
        usual, replayed = ([Path(folder, f"{kind}{i}.pt") for i in range(len(cases))] for kind in "ug")

        def all_of(more: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
            return together(train, [case | more(i) for i, case in enumerate(cases)])

        first = all_of(lambda i: {"halfway": usual[i]})
        ways = {
            "twice": all_of(lambda i: {}),
            "resumed": all_of(lambda i: {"start": usual[i]}),
            "graph": all_of(lambda i: {"graph": True, "halfway": replayed[i]}),
            "to graph": all_of(lambda i: {"graph": True, "start": usual[i]}),
            "from graph": all_of(lambda i: {"start": replayed[i]}),
        }
        left = Path(folder, "killed.pt")
        try:
            apart(train, **cases[-1], halfway=left, killed=True)
        except Killed:
            killed = apart(train, **cases[-1], start=left)
        else:
            raise RuntimeError("the training that was to be killed went on to its end")
    figures = [
        {"network": name, "precision": precision, "discriminator": judged, "moved": one["moved"]}
        | {way: found[i]["digest"] == one["digest"] for way, found in ways.items()}
        | {"replayed": ways["graph"][i]["graph"]}
        for i, ((name, precision, judged), one) in enumerate(zip(names, first, strict=True))
    ]
    figures[-1]["killed"] = killed["digest"] == first[-1]["digest"]
    wrong = [
        row
        for row in figures
        if not all(value for key, value in row.items() if key in TRUTHS)
        or (setting.device == "cuda" and set(row["replayed"].split("; ")) != {"on"})
    ]
    detail = f"{len(figures) - len(wrong)} of {len(figures)} trainings have the same bits"
    return Result("same bits", "failed" if wrong else "passed", detail, figures=figures)


TRUTHS = ("moved", "twice", "resumed", "graph", "to graph", "from graph", "killed")


def precision(setting: Setting) -> Result:
    """Every kind of operator computes in the type that the recipe's precision names.

    Attention may be more exact than TF32: its fused form makes three products in TF32 of one in float32.
    """
    from gpu_work import computes_in, refused

    wanted = {"fp32": "float32", "tf32": "10 bits", "bf16": "bfloat16"}
    cases = [{"device": setting.device, "precision": name} for name in wanted]
    reasons = together(refused, cases)
    able = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    figures = [
        {"precision": case["precision"], **found}
        for case, found in zip(able, together(computes_in, able), strict=True)
    ]
    wrong = [
        f"{row['precision']}: {kind} in {got}"
        for row in figures
        for kind, got in row.items()
        if kind != "precision"
        and got != wanted[row["precision"]]
        and (row["precision"], kind, got) != ("tf32", "attention", "float32")
    ]
    detail = "; ".join(wrong or filter(None, reasons)) or "as named"
    return Result("precision", "failed" if wrong else "passed", detail, figures=figures)


def waits(setting: Setting) -> Result:
    """How often a training step makes the processor wait for the device."""
    from gpu_work import waits

    kinds = list(product(dict(setting.cases), (False, True)))
    fixed = {"device": setting.device, "tiny": setting.tiny}
    counts = together(waits, [{"preset": preset, "judged": judged, **fixed} for preset, judged in kinds])
    figures = [
        {"network": preset, "discriminator": judged, "waits": count, "allowed": WAITS[judged]}
        for (preset, judged), count in zip(kinds, counts, strict=True)
    ]
    wrong = [row for row in figures if row["waits"] > row["allowed"]]
    detail = f"{len(figures) - len(wrong)} of {len(figures)} trainings wait as often as allowed, or less"
    return Result("waits", "failed" if wrong else "passed", detail, figures=figures)


def step_times(setting: Setting) -> Result:
    """Seconds of a training step: networks x precisions x scan backends present, and replayed from graphs."""
    from gpu_work import step_seconds

    backends, missing = apart(scan_backends, device=setting.device)
    names = []
    for preset, kind in setting.cases:
        for scan in backends if preset.startswith("mbsnet") else ["none"]:
            if scan != "mamba_ssm" or preset != "mbsnet-as-trained":
                names.append((preset, kind, scan, False))
        names.append((preset, kind, "auto", True))
    sizes = {"device": setting.device, "steps": setting.steps, "tiny": setting.tiny}
    cases = [
        {"preset": preset, "precision": kind, "scan": "auto" if scan == "none" else scan, "graph": graph}
        for preset, kind, scan, graph in names
    ]
    rows = together(step_seconds, [case | sizes for case in cases])
    figures = [
        {"network": preset, "precision": kind, "scan": scan, "graph": graph, **row}
        for (preset, kind, scan, graph), row in zip(names, rows, strict=True)
    ]
    left_out = "; ".join(f"without {name}: {reason}" for name, reason in missing.items())
    return Result("step times", "passed", left_out or "every scan backend", figures=figures)


def scan_backends(device: str) -> tuple[list[str], dict[str, str]]:
    """The scan backends that run on a device, and why the others do not; the plain loop is left out."""
    from ablate.models.scan import BACKENDS, unavailable

    reasons = {name: unavailable(name, device) for name in BACKENDS if name != "reference"}
    return [name for name, reason in reasons.items() if reason is None], {
        name: reason for name, reason in reasons.items() if reason is not None
    }


def pesq(setting: Setting) -> Result:
    """Clips a second that PESQ judges, with a process for each core."""
    if missing := absent("pesq"):
        return Result("PESQ", "skipped", missing)
    import numpy as np

    from ablate.training.metrics import MetricPool

    cores = len(os.sched_getaffinity(0))
    time_axis = np.arange(2 * 16_000) / 16_000
    clean = 0.3 * np.sin(2 * np.pi * 180 * time_axis) * (np.sin(2 * np.pi * 2 * time_axis) > 0)
    noisy = clean + 0.02 * np.random.default_rng(0).standard_normal(len(clean))
    count = 2 * cores if setting.tiny else 40 * cores
    with MetricPool(cores) as pool:
        list(pool.map([(clean, noisy)] * cores, ["pesq_wb"]))
        start = time.perf_counter()
        values = [scored.values["pesq_wb"] for scored in pool.map([(clean, noisy)] * count, ["pesq_wb"])]
        took = time.perf_counter() - start
    if not np.isfinite(values).all():
        return Result("PESQ", "failed", "a clip could not be judged")
    row = {"processes": cores, "clips_per_second": count / took}
    return Result("PESQ", "passed", f"{count / took:.1f} clips a second, {cores} processes", figures=[row])


def discriminator_lag(setting: Setting) -> Result:
    """A training whose discriminator lags keeps the metric processes busy."""
    if missing := absent("pesq"):
        return Result("judge lag", "skipped", missing)
    from discriminator_lag import TARGET

    processes = max(1, len(os.sched_getaffinity(0)) - 1)
    sizes = {"processes": processes, "steps": 4 if setting.tiny else 40, "full": not setting.tiny}
    figures = [apart(lagging, lag=lag, device=setting.device, **sizes) for lag in (0, 1, 2)]
    share = figures[1]["of_bound"]
    detail = f"{share:.2f} of the steps a second that {processes} processes allow, at lag 1; wanted: {TARGET}"
    good = setting.tiny or share >= TARGET
    return Result("judge lag", "passed" if good else "failed", detail, figures=figures)


def lagging(device: str, **options: Any) -> dict[str, float]:
    """`discriminator_lag.measure` on a device by name."""
    import torch
    from discriminator_lag import measure

    return measure(device=torch.device(device), **options)


def grid(setting: Setting) -> Result:
    """A quick grid of trainings, over all GPUs."""
    if missing := absent("mlflow", "optuna", "pesq", "pystoi", "soundfile", "soxr", "typer", "rich", "yaml"):
        return Result("grid", "skipped", missing)
    with tempfile.TemporaryDirectory() as root:
        command = ["run", "--study", "gpu", "--grid", "bidirectional,core=mamba,lstm", "--root", root]
        if setting.tiny:
            command += ["--set", "recipe.steps=2"]
        if setting.device == "cpu":
            command += ["--gpus", ""]
        program = "from ablate.reports.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *command, "--seeds", "1"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        summaries = [json.loads(path.read_text()) for path in Path(root).glob("runs/*/summary.json")]
    if done.returncode or not summaries:
        return Result("grid", "failed", done.stdout[-3000:] + done.stderr[-3000:])
    elsewhere = [row for row in summaries if not row["device"].startswith(setting.device)]
    detail = f"{len(summaries)} runs, {len(elsewhere)} of them not on {setting.device}"
    return Result("grid", "failed" if elsewhere else "passed", detail)


CHECKS: dict[str, Callable[[Setting], Result]] = {
    "agreement": agreement,
    "same-bits": same_bits,
    "precision": precision,
    "waits": waits,
    "step-times": step_times,
    "contract": contract,
    "pesq": pesq,
    "judge-lag": discriminator_lag,
    "grid": grid,
}
"""By value: what matters most comes first, should the time run out."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small networks and few steps: whether, not how fast"
    )
    parser.add_argument("--steps", type=int, help="of each training [default: 20; 4 if tiny]")
    parser.add_argument("--only", default=",".join(CHECKS), help="checks to run [default: all]")
    parser.add_argument("--json", type=Path, help="write what was found here, after each check")
    parser.add_argument("--minutes", type=float, help="start no check after so many")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use where packages are missing")
    options = parser.parse_args()
    if options.wheels:
        add_wheels(options.wheels)
    if missing := absent("pydantic"):
        parser.error(
            f"{missing}: install it, or give --wheels a folder with the wheels of pydantic, pydantic-core, "
            "annotated-types and typing-inspection for this Python"
        )
    began = time.monotonic()
    names = options.only.split(",")
    if unknown := set(names) - set(CHECKS):
        parser.error(f"unknown checks {', '.join(sorted(unknown))}; known: {', '.join(CHECKS)}")
    about = apart(machine, device=options.device)
    if about["device_name"] is None:
        print(
            "torch finds no CUDA device here; --device cpu --tiny tries the checks without one",
            file=sys.stderr,
        )
        return 2
    setting = Setting(options.device, options.tiny, options.steps or (4 if options.tiny else 20))
    results = []
    for name in names:
        start = time.perf_counter()
        try:
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                result = Result(name, "skipped", "the time is up")
            else:
                result = CHECKS[name](setting)
        except Exception as error:
            result = Result(name, "failed", f"{type(error).__name__}: {error}")
        result.seconds = round(time.perf_counter() - start, 1)
        results.append(result)
        show(result)
        if options.json:
            rows = [asdict(row) for row in results]
            found = {"machine": about, "setting": asdict(setting), "results": rows}
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(result.state == "failed" for result in results))


def machine(device: str) -> dict[str, Any]:
    """Versions, and the name of the device; none where it is not there."""
    import torch

    from ablate.models.system_info import versions

    there = device == "cpu" or torch.cuda.is_available()
    name = torch.cuda.get_device_name() if there and device == "cuda" else "cpu" if there else None
    return {"device_name": name, "gpus": torch.cuda.device_count(), "versions": versions()}


def show(result: Result) -> None:
    """A line for the check, and its figures in columns."""
    print(f"{result.state:8}{result.check:12}{result.seconds:7.1f} s  {result.detail}", flush=True)
    if not result.figures:
        return
    names = list(dict.fromkeys(name for row in result.figures for name in row))
    cells = [names, *([_cell(row.get(name, "")) for name in names] for row in result.figures)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("        " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
