"""The environment of a training: device, precision, determinism, memory, versions.

Only this module sets and detects these. Imports torch only when asked.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.models.config import Frozen
from ablate.models.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

PACKAGES = ("ablate", "torch", "triton", "mamba-ssm", "numpy", "scipy", "numba", "pesq", "pystoi")


class InstructionSet(Frozen):
    """The instruction sets of the processor's kernels: results agree bit for bit only if these are equal.

    Attributes:
        torch: capability used by torch's own kernels, e.g. "AVX512".
        onednn: limit on oneDNN (`ONEDNN_MAX_CPU_ISA`), or "DEFAULT" for everything the processor has.
        numba: processor that numba compiles for, e.g. "znver4" or "generic".
        numba_features: its features that numba uses, e.g. "+avx2,+fma".
    """

    torch: str
    onednn: str
    numba: str
    numba_features: str


class Environment(Frozen):
    """The facts of a run that are not in its configuration.

    Attributes:
        device: torch's name, "cpu" or "cuda:0".
        device_name: model of the processor or the GPU.
        precision: in effect, "fp32", "tf32" or "bf16".
        scan_backend: of the selective scans; None: the network has no scan.
        threads: of torch.
    """

    device: str
    device_name: str
    precision: str
    scan_backend: str | None
    threads: int
    instruction_set: InstructionSet
    versions: dict[str, str]
    git_commit: str | None
    machine: str

    @classmethod
    def of(cls, model: nn.Module, device: torch.device, precision: str) -> Environment:
        """The facts for a network to be trained here; call it within `prepared`."""
        import torch

        from ablate.models.system_info import versions

        return cls(
            device=str(device),
            device_name=_device_name(device),
            precision=precision,
            scan_backend=_scan_backend(model, device),
            threads=torch.get_num_threads(),
            instruction_set=instruction_set(),
            versions=versions(PACKAGES) | _device_versions(device),
            git_commit=git_commit(Path(__file__).parent),
            machine=host(),
        )

    def differences(self, other: Environment) -> list[str]:
        """Names of differing facts that can change a result; a host's name cannot."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [name for name in mine if name != "machine" and mine[name] != theirs[name]]


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU if there is one. InputError if it does not exist."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} not found: torch sees {torch.cuda.device_count()} GPUs")
    return device


@contextmanager
def prepared(device: torch.device, precision: str, threads: int) -> Iterator[None]:
    """Fixed threads, deterministic algorithms and one precision for every operator; restored afterwards.

    `precision` "fp32" is IEEE single precision in every matrix product, convolution and recurrence, "tf32"
    TF32 in all of them; "bf16" leaves IEEE single precision where autocast does. InputError if the device
    lacks it.
    """
    import torch

    from .autocast import cudnn_recurrences
    from .determinism import strict

    check_precision(device, precision)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cuda":
        torch.cuda.init()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with (
            _single_precision("tf32" if precision == "tf32" else "ieee"),
            cudnn_recurrences() if device.type == "cuda" and precision == "bf16" else nullcontext(),
            strict(),
        ):
            yield
    finally:
        torch.set_num_threads(threads_before)


@contextmanager
def _single_precision(kind: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Set the precision of float32 operators, also by torch's old flags for code that reads those."""
    import torch

    cudnn: Any = torch.backends.cudnn

    def say(kinds: list[str]) -> None:
        gpu, convolution, *_, processor = kinds[:4]
        matmul = "medium" if processor == "bf16" else "high" if gpu == "tf32" else "highest"
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolution == "tf32"
        for operator, value in zip(operators, kinds, strict=True):
            operator.fp32_precision = value

    backends: Any = torch.backends
    gpu = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    operators = [*gpu, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [operator.fp32_precision for operator in operators]
    say([kind] * len(operators))
    try:
        yield
    finally:
        say(before)


def check_precision(device: torch.device, precision: str) -> None:
    """Raise InputError if a device lacks a precision; bfloat16 on a processor is only slow."""
    import torch

    if precision == "fp32" or (precision == "bf16" and device.type == "cpu"):
        return
    if device.type != "cuda":
        raise InputError(f"recipe.precision={precision} needs an NVIDIA GPU; this run's device is {device}")
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise InputError(
            f"recipe.precision={precision} needs compute capability 8.0; {_device_name(device)} has "
            f"{capability[0]}.{capability[1]}; use fp32"
        )


def instruction_set() -> InstructionSet:
    """The instruction sets of kernels on this processor, with limits from the environment."""
    import llvmlite.binding
    import torch
    from numba.core import config as numba_config

    config: Any = numba_config
    features = config.CPU_FEATURES
    if features is None:
        whole = "" if config.CPU_NAME == "generic" else llvmlite.binding.get_host_cpu_features().flatten()
        features = ",".join(feature for feature in whole.split(",") if feature.startswith("+"))
    return InstructionSet(
        torch=torch.backends.cpu.get_cpu_capability(),
        onednn=os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper(),
        numba=config.CPU_NAME or llvmlite.binding.get_host_cpu_name(),
        numba_features=features,
    )


def git_commit(folder: Path) -> str | None:
    """The commit of a folder tracked by git, with `-dirty` if files differ; else None."""
    for words in ("ls-files --error-unmatch .", "describe --always --dirty --abbrev=40 --exclude=*"):
        try:
            command = ["git", "-C", str(folder), *words.split()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
    return done.stdout.strip()


def host() -> str:
    """This host in one line."""
    return f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores"


def free_memory() -> None:
    """Free unused memory, also a GPU's cache, for other processes on that GPU."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after a CUDA error nothing on the device works
            torch.cuda.empty_cache()


class PeakMemory:
    """The highest memory use since it was created.

    On a GPU: bytes that torch's allocator gave out. On the CPU: the resident set of this process, including
    what was resident before: the kernel's high-water mark, reset at the start if that is allowed (Linux),
    else the largest of ten samples a second; `method` says which.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self._sampled = 0
        self._ended = threading.Event()
        if device.type == "cuda":
            self.method = "allocator"
            torch.cuda.reset_peak_memory_stats(device)
        elif _reset_high_water_mark():
            self.method = "high-water mark"
        else:
            self.method = "sampled"
            threading.Thread(target=self._sample, name="memory", daemon=True).start()

    def bytes(self) -> int:
        """The peak so far."""
        import torch

        if self.method == "allocator":
            return torch.cuda.max_memory_allocated(self.device)
        if self.method == "high-water mark":
            return _status_bytes("VmHWM")
        return max(self._sampled, _resident())

    def __enter__(self) -> PeakMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self._sampled = max(self._sampled, _resident())


class OtherLoad:
    """How many cores other processes kept busy between its creation and a call of `cores`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = time.process_time()

    def cores(self) -> float:
        """The mean; 0 if nothing else runs."""
        seconds = time.perf_counter() - self._began
        others = _busy_seconds() - self._busy - (time.process_time() - self._own)
        return round(max(0.0, others / seconds), 2) if seconds else 0.0


def _device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def processor_name() -> str:
    """Of this machine."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device_versions(device: torch.device) -> dict[str, str]:
    """Versions of CUDA, cuDNN and the driver; nothing on a processor."""
    import torch

    if device.type != "cuda":
        return {}
    backends: Any = torch.backends
    driver = None
    with suppress(OSError):
        driver = re.search(r"\d{3,}(\.\d+)+", Path("/proc/driver/nvidia/version").read_text())
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(backends.cudnn.version()),
        "driver": driver[0] if driver else "unknown",
    }


def _scan_backend(model: nn.Module, device: torch.device) -> str | None:
    from ablate.models.mamba import has_scan
    from ablate.models.scan import choose_backend

    if not has_scan(model):
        return None
    backend, reason = choose_backend(device)
    if backend == "chunked":
        logger.warning("the selective scan uses the slow backend 'chunked' on %s: %s", device.type, reason)
    return backend


def _reset_high_water_mark() -> bool:
    """Reset the process' high-water mark to its resident set; whether that succeeded."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmHWM") > 0
    except (OSError, ValueError):
        return False


def _status_bytes(name: str) -> int:
    """A field of `/proc/self/status`, which is in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _busy_seconds() -> float:
    """Busy seconds of all cores since the machine started."""
    import psutil

    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)
