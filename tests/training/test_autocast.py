"""bfloat16 for cuDNN's recurrences; tests/phantom looks at what cuDNN is asked for."""

import torch

from ablate.training.autocast import cudnn_recurrences


def kernels() -> str:
    """What torch has registered for cuDNN's recurrences."""
    return torch._C._dispatch_dump("aten::_cudnn_rnn")


def test_torch_has_its_own_kernel_back_afterwards():
    before = kernels()
    for _ in range(2):
        with cudnn_recurrences():
            inside = kernels()
        assert "autocast.py" in inside
        assert kernels() == before
