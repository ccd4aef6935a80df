"""Steps that are recorded and replayed are the same steps. The device's part is played by the processor.

That CUDA records and replays what is queued is for a GPU to show (`make gpu`); tests/phantom records really.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ablate.training import graph as graph_module
from ablate.training.graph import WARM_UP, Capture, Graph
from ablate.training.trainer import Trainer


def _trainings() -> Any:
    name = "ablate_test_trainer"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("test_trainer.py"))
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


trainings = _trainings()
JUDGED = {**trainings.JUDGED, "judge_lag": 1}


class Played(Graph):
    """Recording runs nothing; a replay reads the recorded inputs and writes into the recorded outputs."""

    def _beside(self, inputs: Any, options: Any) -> Any:
        return self.work(*inputs, **options)

    def _record(self, inputs: Any, options: Any) -> Capture:
        held = [None if x is None else x.clone() for x in inputs]
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        outputs = self.work(*held, **options)
        gradients = [parameter.grad for parameter in self.parameters]
        for name, value in self.module.named_buffers():
            value.copy_(buffers[name])
        written = [*outputs, *(x for x in gradients if x is not None)]
        for x in written:
            x.fill_(float("nan"))

        def replay() -> None:
            places = [parameter.grad for parameter in self.parameters]
            found = self.work(*held, **options)
            found = [*found, *(x for p in self.parameters if (x := p.grad) is not None)]
            for x, value in zip(written, found, strict=True):
                x.copy_(value)
            for parameter, place in zip(self.parameters, places, strict=True):
                parameter.grad = place

        return Capture(replay, [x for x in held if x is not None], outputs, gradients)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """`played(recipe, ...)` gives a training whose steps are recorded."""

    def make(recipe: dict[str, Any], kind: type[Played] = Played, **options: Any) -> Trainer:
        with monkeypatch.context() as patch:
            patch.setattr(Graph, "of", lambda _, *given: kind(*given))
            return trainings.make({**recipe, "cuda_graph": True}, **options)

    monkeypatch.setattr(graph_module, "_waits", lambda: nullcontext([]))
    return make


RECIPES = [
    {},
    {"ema": 0.5, "si_sdr_weight": 1.0},
    JUDGED,
    {**JUDGED, "adversarial_start": 0.5, "discriminator_start": 0.4, "judged_clips": 0.6},
]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.slow
def test_replayed_steps_are_the_same(recipe: Any, accumulation: int, played: Any) -> None:
    steps = 12
    usual = trainings.make({**recipe, "steps": steps}, accumulation=accumulation)
    replayed = played({**recipe, "steps": steps}, accumulation=accumulation)
    assert [replayed.train_step() for _ in range(steps)] == [usual.train_step() for _ in range(steps)]
    assert trainings.same_weights(usual, replayed)
    told = replayed.graphs()
    assert told == ("on; on" if recipe.get("adversarial_weight") else "on")


@pytest.mark.slow
def test_a_clip_without_a_score_is_graded_as_usual(played: Any) -> None:
    recipe = {**JUDGED, "steps": 8}
    scorers = [trainings.Scorer(failing=(1,)) for _ in range(2)]
    usual, replayed = trainings.make(recipe, scorer=scorers[0]), played(recipe, scorer=scorers[1])
    assert [replayed.train_step() for _ in range(8)] == [usual.train_step() for _ in range(8)]
    assert replayed.adversary.graph.told() == f"fewer than {WARM_UP + 1} steps of a kind"


@pytest.mark.slow
def test_usual_and_replayed_lessons_may_alternate(played: Any) -> None:
    class Sometimes(trainings.Scorer):
        def __call__(self, waves: Any) -> Any:
            values = super().__call__(waves)()
            return lambda: [None, *values[1:]] if len(self.calls) % 3 == 0 else values

    recipe = {**JUDGED, "steps": 12}
    usual, replayed = (make(recipe, scorer=Sometimes()) for make in (trainings.make, played))
    assert [replayed.train_step() for _ in range(12)] == [usual.train_step() for _ in range(12)]
    assert replayed.graphs() == "on; on"


@pytest.mark.parametrize("first_replayed", [True, False])
@pytest.mark.slow
def test_a_resume_may_switch(first_replayed: bool, played: Any) -> None:
    recipe = {**JUDGED, "steps": 12}
    whole = trainings.make(recipe)
    wanted = [whole.train_step() for _ in range(12)]
    makers = [played, trainings.make] if first_replayed else [trainings.make, played]
    one, other = (make(recipe) for make in makers)
    found = [one.train_step() for _ in range(6)]
    other.restore(one.state())
    assert [*found, *(other.train_step() for _ in range(6))] == wanted
    assert trainings.same_weights(whole, other)


class Drawing(torch.nn.Module):
    """A network that draws on the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale * F.dropout(torch.ones(1), 0.5, self.training)


class Replacing(Drawing):
    """A network that puts a new tensor in a buffer's place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        return x * self.scale


class Refusing(Played):
    def _record(self, inputs: Any, options: Any) -> Capture:
        self.work(*inputs, **options)
        raise RuntimeError("Attempt to increase offset\n of a generator")


@pytest.mark.parametrize(
    ("network", "kind", "reason"),
    [
        (Drawing, Played, "random numbers are drawn on the CPU"),
        (Replacing, Played, "a buffer is replaced instead of written into"),
        (lambda: None, Refusing, "RuntimeError: Attempt to increase offset of a generator"),
    ],
)
def test_what_cannot_be_replayed_runs_as_usual(
    network: Any, kind: type[Played], reason: str, played: Any, caplog: pytest.LogCaptureFixture
) -> None:
    usual, found = trainings.make(network=network()), played({}, kind, network=network())
    assert [found.train_step() for _ in range(6)] == [usual.train_step() for _ in range(6)]
    assert found.graphs() == reason
    assert caplog.text.count(f"without a CUDA graph: {reason}") == 1


def test_without_a_gpu_the_reason_is_the_device() -> None:
    assert trainings.make({"cuda_graph": True}).graphs() == "the device is cpu"
    assert trainings.make().graphs() is None
