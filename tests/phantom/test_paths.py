"""What the host's part of the CUDA path chooses: types, forms of operators, memory, what a graph refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import counts
import gpu_work
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ablate.models.config import ModelConfig
from ablate.training import seeds
from ablate.training.autocast import cudnn_recurrences
from ablate.training.determinism import tolerate
from ablate.training.environment import Environment, PeakMemory, free_memory, prepared
from ablate.training.graph import Graph, NotRecorded
from ablate.training.optimisation import Optimiser

CUDA = torch.device("cuda")
SMALL = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1.0}
BFLOAT16, HALF = 9, 2
"""As cuDNN numbers its types."""


def types_of_recurrences(found: dict[str, int]) -> set[int]:
    named = [name for name in found if name.startswith("rnn desc algo=3")]
    return {int(name.split("dtype=")[1].split()[0]) for name in named}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrences_compute_in_what_autocast_names(kind: Any, dtype: torch.dtype) -> None:
    layer = kind(8, 16, num_layers=2, bidirectional=True).to(CUDA)
    x = torch.zeros(5, 3, 8, device=CUDA, dtype=dtype, requires_grad=True)
    for inside, wanted in ((True, BFLOAT16), (False, HALF)):
        counts.reset()
        with torch.autocast("cuda", torch.bfloat16):
            if inside:
                with cudnn_recurrences():
                    y = layer(x)[0]
            else:
                y = layer(x)[0]
        y.float().sum().backward()
        assert types_of_recurrences(counts.counts()) == {wanted}
        assert y.dtype == (torch.bfloat16 if inside else torch.float16)
        assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}
        assert x.grad is not None
        assert x.grad.dtype == dtype


def test_fused_attention_gives_way_where_something_is_tolerated() -> None:
    def kernels() -> str:
        x = torch.zeros(2, 2, 64, 32, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
        counts.reset()
        F.scaled_dot_product_attention(x, x, x).sum().backward()
        return " ".join(counts.counts())

    fused = ("fmha", "flash", "Execute")
    with prepared(CUDA, "fp32", 1):
        assert any(name in kernels() for name in fused)
        tolerate(["anything"])
        assert not any(name in kernels() for name in fused)


def test_an_index_in_the_device_and_the_first_use_of_cuda() -> None:
    program = (
        "import torch\n"
        "from ablate.training.environment import PeakMemory, choose_device, prepared\n"
        "device = choose_device('cuda:0')\n"
        "with prepared(device, 'fp32', 1), PeakMemory(device) as peak: print(peak.method)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "allocator\n", done.stderr


def test_versions_have_those_of_the_device() -> None:
    versions = Environment.of(nn.Identity(), CUDA, "fp32").versions
    assert {"cuda", "cudnn", "driver"} <= set(versions)


def test_complex_parameters_train() -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.complex64, device=CUDA))
    optimiser = Optimiser(gpu_work.recipe_of("fp32", 1, tiny=True), [weight], 0.1, CUDA)
    weight.grad = torch.zeros_like(weight)
    optimiser.step(1.0, torch.ones((), dtype=torch.bool, device=CUDA))


def test_memory_is_given_back_and_the_next_peak_is_its_own() -> None:
    free_memory()
    before = counts.allocated()
    x = torch.zeros(1 << 28, device=CUDA)
    assert counts.allocated() > before + (1 << 29)
    del x
    assert counts.allocated() > before + (1 << 29)
    free_memory()
    assert counts.allocated() == before
    with PeakMemory(CUDA) as peak:
        assert peak.bytes() < 1 << 28


@pytest.mark.parametrize("parts", [1, 3])
def test_out_of_memory_is_told_and_leaves_nothing(parts: int, tmp_path: Path) -> None:
    """On a card of one GB: a step in one part does not fit, one in three parts does."""
    program = (
        "import gpu_work, math, torch, types\n"
        "from ablate.models.config import ModelConfig\n"
        "from ablate.training import trainer\n"
        "from ablate.training.environment import free_memory, prepared\n"
        "trainer.math = types.SimpleNamespace(**{**vars(math), 'isfinite': lambda _: True})\n"
        "recipe = gpu_work.recipe_of('fp32', 3, tiny=False, batch_size=12, crop_seconds=4.0, "
        f"accumulation={parts * 4 - 3})\n"
        "def work():\n"
        "    with prepared(torch.device('cuda'), 'fp32', 1):\n"
        "        gpu_work.training(ModelConfig(channels=32, layers=2), recipe, 'cuda').train_step()\n"
        "try:\n"
        "    work()\n"
        "    print('fits')\n"
        "except torch.OutOfMemoryError:\n"
        "    print('full')\n"
        "free_memory()\n"
        "print(torch.cuda.memory_allocated() < 1 << 27)\n"
    )
    environment = {**os.environ, "PHANTOM_GB": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == ("full\nTrue\n" if parts == 1 else "fits\nTrue\n"), done.stderr


class Network(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.scale = nn.Parameter(torch.ones(4))
        self.own = torch.Generator(CUDA)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        if self.how == "waits":
            x = x * float(x.sum())
        if self.how == "own generator":
            x = x * torch.rand(4, device=x.device, generator=self.own)
        if self.how == "dropout":
            x = F.dropout(x, 0.5)
        if self.how == "processor":
            x = x * float(torch.rand(1))
        return x


REASONS = {
    "waits": "a step waits for the device",
    "processor": "random numbers are drawn on the CPU",
}


@pytest.mark.parametrize("how", ["plain", "dropout", "own generator", *REASONS])
def test_what_can_be_recorded_is_and_the_rest_has_a_reason(how: str) -> None:
    network = Network(how).to(CUDA)

    def work(x: torch.Tensor) -> tuple[torch.Tensor]:
        network.zero_grad()
        y = network(x).sum()
        y.backward()
        return (y.detach(),)

    graph, x = Graph(work, network, CUDA), torch.zeros(4, device=CUDA)
    found: dict[str, int] = {}
    for step in range(6):
        seeds.set_global(1, "dropout", step)
        counts.reset()
        try:
            graph(x)
        except NotRecorded:
            graph(x)
        found = counts.counts()
    if how in REASONS:
        assert REASONS[how] in graph.told()
        assert "K GRAPH" not in found
    else:
        assert graph.told() == "on"
        assert found["K GRAPH"] == 1


class Late(nn.Module):
    """Waits for the device where only a recording sees it, which makes CUDA throw the recording away."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x * self.scale, 0.5)
        return x * float(x.sum()) if torch.cuda.is_current_stream_capturing() else x


def test_a_cuda_error_while_recording_costs_the_graph_alone() -> None:
    free_memory()
    before = counts.allocated()
    for network, reason in ((Late(), "CUDA error"), (Network("dropout"), "on"), (Late(), "CUDA error")):
        network.to(CUDA)

        def work(x: torch.Tensor, network: nn.Module = network) -> tuple[torch.Tensor]:
            network.zero_grad()
            y = network(x).sum()
            y.backward()
            return (y.detach(),)

        graph, x = Graph(work, network, CUDA), torch.zeros(4, device=CUDA)
        for step in range(6):
            seeds.set_global(1, "dropout", step)
            try:
                graph(x)
            except NotRecorded:
                assert step == 3
                graph(x)
        assert reason in graph.told()
        assert torch.rand(4, device=CUDA).shape == (4,)
    del graph, network, work, x
    free_memory()
    assert counts.allocated() == before


def test_an_average_of_a_recurrence_is_not_compacted_at_every_call() -> None:
    run = gpu_work.training(ModelConfig(**SMALL), gpu_work.recipe_of("fp32", 4, tiny=True, ema=0.5), "cuda")
    x = torch.zeros(1, 257, 20, dtype=torch.complex64, device=CUDA)
    with torch.no_grad():
        numbers = []
        for network in (run.model, run.network):
            network(x)
            counts.reset()
            network(x)
            numbers.append(counts.launches(counts.counts()))
    assert numbers[0] == numbers[1]
