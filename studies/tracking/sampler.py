"""What the workers of runs use of this machine."""

from __future__ import annotations

import math
import socket
import time
from pathlib import Path
from typing import Any

from ablate.training.rundir import RunDir

SAMPLE_EVERY = 10.0
"""Seconds between two samples of a worker's processor and memory."""


class Sampler:
    """Processor, memory and GPU of worker processes on this machine."""

    def __init__(self) -> None:
        self._processes: dict[int, Any] = {}
        self._last: dict[Path, float] = {}
        self._host = socket.gethostname()
        self._nvml = _nvml()

    def sample(self, run: RunDir) -> dict[str, float]:
        """What the worker of a run uses now, with its children; empty if it is not yet time or not here."""
        import psutil

        now = time.monotonic()
        if now - self._last.get(run.path, -math.inf) < SAMPLE_EVERY:
            return {}
        self._last[run.path] = now
        state = run.state
        if state.pid is None or state.host != self._host or state.state != "running":
            return {}
        try:
            worker = self._processes.setdefault(state.pid, psutil.Process(state.pid))
            family = [worker, *worker.children(recursive=True)]
            shares, memory = [], 0
            for process in family:
                process = self._processes.setdefault(process.pid, process)
                shares.append(process.cpu_percent(None))
                memory += process.memory_info().rss
        except psutil.Error:
            self._processes.pop(state.pid, None)
            return {}
        values = {
            "system/cpu_percent": float(sum(shares)),
            "system/memory_megabytes": memory / 1e6,
            "system/machine_cpu_percent": psutil.cpu_percent(None),
            "system/machine_memory_percent": psutil.virtual_memory().percent,
        }
        return values | self._gpus({process.pid for process in family})

    def _gpus(self, pids: set[int]) -> dict[str, float]:
        """Use of the GPUs on which one of the processes runs."""
        nvml = self._nvml
        if nvml is None:
            return {}
        found: dict[str, float] = {}
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                mine = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(device) if p.pid in pids]
                if mine:
                    used = sum(process.usedGpuMemory or 0 for process in mine)
                    share = nvml.nvmlDeviceGetUtilizationRates(device).gpu
                    found[f"system/gpu_{index}_percent"] = float(share)
                    found[f"system/gpu_{index}_memory_megabytes"] = used / 1e6
        except nvml.NVMLError:
            return {}
        return found


def _nvml() -> Any:
    """NVIDIA's library, or None where there is no such package, driver or card."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml
