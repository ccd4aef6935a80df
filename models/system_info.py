"""Versions, processor, GPUs and scan backends of this machine."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from .cores import usable_cores
from .distribution import clash, version_of
from .scan import BACKENDS, choose_backend, unavailable

PACKAGES = ("ablate", "torch", "numpy", "numba", "mamba-ssm", "triton")
"""Packages whose versions are reported."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages."""
    return {"python": platform.python_version(), **{package: version_of(package) for package in packages}}


def machine() -> dict[str, Any]:
    """Versions, processor features, cores, GPUs, and the scan backend of `auto` with the reason."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    chosen, reason = choose_backend(device)
    return {
        "versions": versions(),
        "clash": clash(),
        "cpu": {
            "cores": usable_cores(),
            "torch_threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "avx512_bf16": _has("_is_avx512_bf16_supported"),
            "amx": _has("_is_amx_tile_supported"),
        },
        "gpus": gpus,
        "scan": {
            "device": device,
            "auto": chosen,
            "reason": reason,
            "backends": {name: unavailable(name) or "available" for name in BACKENDS},
        },
    }


def report() -> str:
    """`machine`, the system and installed packages as Markdown for an issue, without paths and names."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    found = {"system": system, **machine()}
    found["versions"] |= versions(
        ("scipy", "pandas", "optuna", "mlflow", "pesq", "pystoi", "soxr", "submitit")
    )
    text = re.sub(r"(?<![\w.<])~?/[^\s'\"),;:]+", "<path>", json.dumps(found, indent=1))
    for name, word in ((platform.node(), "<host>"), (Path.home().name, "<user>")):
        text = re.sub(rf"\b{re.escape(name)}\b", word, text) if name else text
    return f"```json\n{text}\n```"


def _has(question: str) -> bool:
    """Call a private function of `torch.cpu` that may disappear."""
    ask = getattr(torch.cpu, question, None)
    return bool(ask and ask())
