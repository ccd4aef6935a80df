"""A precision means the same for every core: the type that each one's products are really computed in."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ablate.models import build_model
from ablate.models.config import CORES, CROSSBANDS, ModelConfig
from ablate.models.errors import InputError
from ablate.training.config import Recipe
from ablate.training.data.batches import Batches
from ablate.training.environment import check_precision, prepared
from ablate.training.trainer import Trainer

CPU = torch.device("cpu")
PRODUCT = re.compile(r"^_?(add|b|badd)?mm|linear|convolution|rnn_layer|lstm|gru|attention")
"""Names of the operators that multiply matrices."""
SCANS_BY_PRODUCTS = {"mamba2", "xlstm"}
"""Cores whose scan, always in float32, is made of matrix products."""


def ours(registry: Any) -> list[str]:
    """The names of what this project brings; other tests register parts too."""
    return [name for name in registry if registry[name].__module__.startswith("ablate.models")]


class Tone:
    name = "tone"
    clean = 0.1 * np.sin(np.arange(3000) * 0.1).astype(np.float32)
    noisy = clean + 0.01 * np.random.default_rng(0).standard_normal(3000).astype(np.float32)


class Types(TorchDispatchMode):
    """The type of the first tensor that each operator was given, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        given = (t for t in tree_leaves((arguments, keywords)) if isinstance(t, torch.Tensor))
        first = next((t.dtype for t in given if t.is_floating_point() or t.is_complex()), None)
        if first is not None:
            self.of[operator.overloadpacket.__name__].add(first)
        return operator(*arguments, **(keywords or {}))

    def of_products(self) -> set[torch.dtype]:
        return set().union(*(kinds for name, kinds in self.of.items() if PRODUCT.search(name)))


def types_of_a_step(precision: str, model: dict[str, Any]) -> Types:
    recipe = Recipe(steps=1, batch_size=1, crop_seconds=0.15, precision=precision)
    torch.manual_seed(0)
    network = build_model(
        ModelConfig(channels=16, layers=1, crossband_layers=1, decoder_expansion=1, **model)
    )
    batches = Batches([Tone()], batch_size=1, crop=2400, seed=1)
    trainer = Trainer(network, recipe, batches, seed=1, device=CPU)
    with prepared(CPU, precision, 1), Types() as types:
        trainer.train_step()
    return types


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("core", "crossband"),
    [*((core, "none") for core in ours(CORES)), *(("lstm", crossband) for crossband in ours(CROSSBANDS))],
)
def test_every_product_of_every_core_is_computed_in_the_precision(core, crossband):
    single, half = {torch.float32}, {torch.bfloat16}
    model = {"core": core, "crossband": crossband}
    assert types_of_a_step("fp32", model).of_products() == single
    types = types_of_a_step("bf16", model)
    assert types.of_products() == half | (single if core in SCANS_BY_PRODUCTS else set())
    for name, kinds in types.of.items():
        if name.startswith("_fft"):
            assert kinds <= {torch.float32, torch.complex64}, name


def test_a_precision_that_the_device_lacks_is_refused():
    with pytest.raises(InputError, match=r"recipe\.precision=tf32 needs an NVIDIA GPU; .* device is cpu"):
        check_precision(CPU, "tf32")
    with pytest.raises(InputError, match="tf32"), prepared(CPU, "tf32", 1):
        pass
    check_precision(CPU, "bf16")
    check_precision(CPU, "fp32")


@pytest.mark.parametrize(("capability", "fine"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_gpu_needs_compute_capability_8(monkeypatch, precision, capability, fine):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU of the test")
    device = torch.device("cuda:0")
    check_precision(device, "fp32")
    if fine:
        return check_precision(device, precision)
    with pytest.raises(InputError, match=r"needs compute capability 8\.0; GPU of the test has 7\.5"):
        check_precision(device, precision)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_one_policy_for_every_operator(monkeypatch, precision):
    from ablate.training import environment

    monkeypatch.setattr(environment, "check_precision", lambda *_: None)
    backends = torch.backends
    operators = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    operators += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    with prepared(CPU, precision, 1):
        wanted = "tf32" if precision == "tf32" else "ieee"
        assert {operator.fp32_precision for operator in operators} == {wanted}
