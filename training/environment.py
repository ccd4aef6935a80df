"""What a training runs on and how it computes: device, precision, determinism, memory, versions.

The one place where these are set and where they are found out. Imports torch only when something is asked.
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
    """What the processor's kernels were compiled for or chosen by: results agree bit for bit within one.

    Attributes:
        torch: capability that torch's own kernels use, e.g. "AVX512".
        onednn: bound put on oneDNN's (`ONEDNN_MAX_CPU_ISA`), or "DEFAULT" for all that the processor has.
        numba: processor numba compiles for, e.g. "znver4" or "generic".
        numba_features: what of it numba uses, e.g. "+avx2,+fma".
    """

    torch: str
    onednn: str
    numba: str
    numba_features: str


class Environment(Frozen):
    """The facts of a run that its configuration does not tell.

    Attributes:
        device: as torch names it, "cpu" or "cuda:0".
        device_name: model of the processor or the GPU.
        precision: in effect, "fp32", "tf32" or "bf16".
        scan_backend: what computes the selective scans; none: the network has no scan.
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
        """The facts of a network about to be trained here; call it within `prepared`."""
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
        """Names of the facts that differ and can change a result; a host's name cannot."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [name for name in mine if name != "machine" and mine[name] != theirs[name]]


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one. InputError if it is not there."""
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
    """Fixed threads, deterministic algorithms and one precision for every operator; as before afterwards.

    `precision` "fp32" is IEEE single precision in every matrix product, convolution and recurrence, "tf32"
    TF32 in all of them; with "bf16", what autocast leaves in single precision is IEEE. InputError if the
    device lacks it.
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
    """What float32 operators compute in, said by torch's old flags too, so that whoever reads those may."""
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
    """Raise InputError where a device cannot compute so; bfloat16 on a processor is only slow there."""
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
    """What kernels on this processor use, limits from the environment included."""
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
    """The commit checked out in a folder whose files git keeps, `-dirty` where they differ; else None."""
    for words in ("ls-files --error-unmatch .", "describe --always --dirty --abbrev=40 --exclude=*"):
        try:
            command = ["git", "-C", str(folder), *words.split()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
    return done.stdout.strip()


def host() -> str:
    """This host in a line."""
    return f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores"


def free_memory() -> None:
    """Drop what is held without need, a GPU's cache included: others on that GPU want it."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # after a CUDA error nothing on the device works
            torch.cuda.empty_cache()


class PeakMemory:
    """The most memory that was held since this was made.

    On a GPU that is what torch's allocator gave out. On the CPU it is the resident set of this process, what
    was resident before included: the kernel's high-water mark, set back at the start, where that is allowed
    (Linux), else the largest of ten samples a second; `method` says which.
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
    """How many cores of this machine others kept busy, from when this was made until `cores` is asked."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = time.process_time()

    def cores(self) -> float:
        """The mean; 0 is a machine to ourselves."""
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
    """Set the process' high-water mark back to what is resident now; whether that could be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmHWM") > 0
    except (OSError, ValueError):
        return False


def _status_bytes(name: str) -> int:
    """A field of `/proc/self/status` that is in kB there."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _busy_seconds() -> float:
    """Seconds of all cores since the machine started that were not idle."""
    import psutil

    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)
