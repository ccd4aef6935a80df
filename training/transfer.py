"""Between the processor and the device: every transfer of a training step passes here.

On CUDA both directions go through pinned memory and in the order of the stream, so that nobody waits who does
not ask for a result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on a device; what is computed there comes after the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the processor; calling what it returns waits for it and gives it."""
    if tensor.device.type != "cuda":
        return tensor.cpu
    copy = tensor.to("cpu", non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait
