"""The slots of this machine: the GPUs that this process may use, else shares of its cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ablate.models.cores import usable_cores
from ablate.models.errors import InputError
from ablate.training.subprocess_env import THREADS

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
NO_GPU = frozenset({"", "-1", "NoDevFiles"})
"""Names in `CUDA_VISIBLE_DEVICES` that are not a GPU; CUDA ignores everything after the first of them."""
PROBE = """import torch
for index in range(max(1, torch.cuda.device_count())):
    print(float(torch.ones(1, device=f'cuda:{index}').add(1)))
"""
"""Program that checks GPUs with torch."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, a MIG instance, or the several GPUs of one slot.

    Attributes:
        name: name in `CUDA_VISIBLE_DEVICES`: an index in PCI bus order, a UUID or a MIG UUID.
        aliases: other names that `--gpus` accepts.
        memory: memory in bytes; None if `nvidia-smi` does not report it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    memory: int | None = None

    def called(self, name: str) -> bool:
        """Whether `name` means this GPU. As in CUDA, the beginning of a UUID is enough."""
        known = (self.name, *self.aliases)
        return name in known or (not name.isdecimal() and any(k.startswith(name) for k in known))


@dataclass(frozen=True)
class Slot:
    """The resources of one run.

    Attributes:
        threads: number of CPU threads for computing.
        beside: number of runs on the same device at once, including this one.
    """

    threads: int
    gpu: Gpu | None = None
    beside: int = 1

    @property
    def device(self) -> str:
        """Torch's name of the device. A run on the slot of a GPU never falls back to the CPU."""
        return "cpu" if self.gpu is None else "cuda"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with thread counts and GPU, for libraries that read them at import."""
        order = os.environ.get(ORDER, "PCI_BUS_ID") if VISIBLE in os.environ else "PCI_BUS_ID"
        visible = "" if self.gpu is None else self.gpu.name
        return dict.fromkeys(THREADS, str(self.threads)) | {VISIBLE: visible, ORDER: order}


def find_slots(
    jobs: int | None = None, gpus: str | None = None, per_gpu: int = 1, each: int = 1
) -> list[Slot]:
    """The slots of this machine: its GPUs, else equal shares of its cores.

    Args:
        jobs: number of runs at once. Default: as many as fit on the GPUs, or one per core.
        gpus: GPUs to use, e.g. `0,2`; empty to use the CPU. Default: all.
        per_gpu: number of runs on one GPU at once.
        each: number of GPUs of one run; ignored on the CPU.

    Raises:
        InputError: a GPU is not found, `jobs` is more than fit on the GPUs, or a count is not positive.
    """
    cores = usable_cores()
    if per_gpu < 1 or (jobs is not None and jobs < 1):
        raise InputError(f"jobs ({jobs}) and runs per GPU ({per_gpu}) must be positive")
    found = find_gpus() if gpus != "" else []
    wanted = [_pick(name.strip(), found) for name in gpus.split(",")] if gpus else found
    if not wanted:
        count = jobs or cores
        return [Slot(max(1, cores // count), beside=count) for _ in range(count)]
    if each > len(wanted):
        raise InputError(
            f"a run uses {each} GPUs (train.gpus), but only {len(wanted)} are available{_allocation()}; "
            "lower train.gpus, or train on the CPU with --gpus ''"
        )
    wanted = [_together(wanted[at : at + each]) for at in range(0, len(wanted) - each + 1, each)]
    places = [gpu for _ in range(per_gpu) for gpu in wanted]
    if jobs is not None and jobs > len(places):
        of = f" sets of {each}" if each > 1 else ""
        raise InputError(
            f"{jobs} jobs, but {len(wanted)} GPUs{of} x {per_gpu} runs hold {len(places)} at once: "
            f"{'lower --jobs' if each > 1 else 'raise --runs-per-gpu'}, or train on the CPU with --gpus ''"
        )
    places = places[:jobs]
    share = max(1, cores // len(places))
    return [Slot(share, gpu, beside=places.count(gpu)) for gpu in places]


def _together(gpus: list[Gpu]) -> Gpu:
    """The GPUs of one run as one `Gpu`, with the memory of the smallest."""
    if len(gpus) == 1:
        return gpus[0]
    memory = [gpu.memory for gpu in gpus if gpu.memory is not None]
    return Gpu(",".join(gpu.name for gpu in gpus), memory=min(memory, default=None))


def _pick(name: str, found: list[Gpu]) -> Gpu:
    for gpu in found:
        if gpu.called(name):
            return gpu
    there = ", ".join(gpu.name for gpu in found) or "none"
    raise InputError(f"GPU {name} not found; available: {there}{_allocation()}")


def _allocation() -> str:
    return f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""


def find_gpus() -> list[Gpu]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process, or all that `nvidia-smi` lists.

    Raises:
        InputError: the variable names a GPU by an index that the machine does not have.
    """
    listed = _listed_gpus()
    allocation = os.environ.get(VISIBLE)
    if allocation is None:
        return listed
    found = []
    for name in (word.strip() for word in allocation.split(",")):
        if name in NO_GPU:
            break
        same = [gpu for gpu in listed if gpu.called(name)]
        if listed and not same and name.isdecimal():
            there = ", ".join(gpu.name for gpu in listed)
            raise InputError(f"{VISIBLE}={allocation} names GPU {name}; nvidia-smi lists {there}")
        memory = same[0].memory if same else None
        aliases = (same[0].name, *same[0].aliases) if same else ()
        found.append(Gpu(name, aliases, memory))
    return found


def _listed_gpus() -> list[Gpu]:
    query = "--query-gpu=index,uuid,memory.total"
    try:
        listed = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in listed.stdout.splitlines():
        index, uuid, memory = (word.strip() for word in line.split(","))
        gpus.append(Gpu(index, (uuid,), int(memory) << 20 if memory.isdecimal() else None))
    return gpus


def check_gpus(slots: Iterable[Slot]) -> None:
    """Check in separate processes that torch can compute on each GPU.

    Raises:
        InputError: torch cannot; the message ends with its reason.
    """
    first = {slot.gpu.name: slot for slot in reversed(list(slots)) if slot.gpu is not None}
    probes = {
        name: subprocess.Popen(
            [sys.executable, "-P", "-c", PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | slot.environment,
        )
        for name, slot in first.items()
    }
    said = {name: (probe.communicate()[0], probe.returncode) for name, probe in probes.items()}
    for name, (text, code) in said.items():
        if code:
            reason = text.strip().splitlines()[-1] if text.strip() else f"exit code {code}"
            raise InputError(
                f"torch cannot use GPU {name}: {reason}; fix it (see ablate doctor), choose other GPUs "
                "with --gpus, or train on the CPU with --gpus ''"
            )
