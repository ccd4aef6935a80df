"""Training and evaluation of networks that take something else than our spectrograms."""

import numpy as np
import pytest
import torch
from torch import nn

from ablate.models.errors import InputError
from ablate.models.transform import Transform
from ablate.training.config import Recipe
from ablate.training.data.batches import Batches
from ablate.training.evaluate import enhance_utterances
from ablate.training.losses import LOSSES, register
from ablate.training.trainer import Trainer

CPU = torch.device("cpu")
NONE = {field: 0.0 for field, _ in LOSSES.values()}


class Pair:
    def __init__(self, samples: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.name = f"u{seed}"
        self.clean = (0.1 * np.sin(np.arange(samples) * random.uniform(0.05, 0.5))).astype(np.float32)
        self.noisy = self.clean + 0.05 * random.standard_normal(samples).astype(np.float32)


class Wave(nn.Module):
    domain = "waveform"
    output = "wave"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.filter = nn.Conv1d(1, 1, 9, padding=4)
        self.level = nn.Linear(1, 1)

    def forward(self, wave):
        return {"wave": self.filter(wave[:, None])[:, 0], "level": self.level(wave.std(1, keepdim=True))}

    def loss(self, outputs, clean):
        return (outputs["level"] - clean.std(1, keepdim=True)).square().mean()


class Halved(nn.Module):
    transform = Transform(320, 160, "sqrt-hann")
    axes = "b2tf"
    compress = 0.3

    def forward(self, spectrum):
        return 0.5**0.3 * spectrum


def trainer(model=None, **recipe) -> Trainer:
    course = Recipe(**{"steps": 4, "batch_size": 2, "crop_seconds": 0.2, "learning_rate": 0.01, **recipe})
    batches = Batches([Pair(4000, seed) for seed in range(4)], batch_size=2, crop=3200, seed=1)
    return Trainer(model or Wave(), course, batches, seed=1, device=CPU)


@pytest.mark.parametrize("recipe", [{}, {"precision": "bf16"}, {"accumulation": 2}])
def test_a_network_of_waveforms_trains_by_the_recipes_losses(recipe):
    course = trainer(**recipe)
    before = [p.clone() for p in course.model.parameters()]
    course.train_step()
    changed = [not torch.equal(a, b) for a, b in zip(before, course.model.parameters(), strict=True)]
    assert changed == [True, True, False, False]


def test_its_own_loss_stands_beside_the_recipes_or_alone():
    beside, alone = trainer(losses={"network": 0.5}), trainer(losses={"network": 0.5}, **NONE)
    plain = trainer()
    losses = [course.train_step().loss for course in (beside, alone, plain)]
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-5)
    assert alone.model.level.weight.grad is not None
    assert alone.model.filter.weight.grad is None


def test_a_network_without_a_loss_of_its_own_says_so():
    class Silent(Wave):
        loss = None

    with pytest.raises(InputError, match="this network has none; add loss"):
        trainer(Silent(), losses={"network": 1.0}).train_step()


def test_a_registered_loss_sees_all_outputs():
    register("of-outputs", lambda pair: pair.outputs["level"].square().mean())
    course = trainer(losses={"of-outputs": 2.0}, **NONE)
    course.train_step()
    assert course.model.level.weight.grad is not None


def test_the_name_of_the_networks_own_loss_is_taken():
    with pytest.raises(InputError, match="'network' exists already"):
        register("network", lambda pair: pair.clean.sum())


def test_utterances_of_any_length_are_enhanced_as_one_would_oneself():
    waves = [Pair(n, n).noisy for n in (3000, 1, 200, 3050, 3000)]
    for model in (Wave().eval(), Halved()):
        for index, enhanced in enhance_utterances(model, waves):
            wave = torch.from_numpy(waves[index])[None]
            with torch.no_grad():
                expected = model(wave)["wave"][0] if isinstance(model, Wave) else 0.5 * wave[0]
            assert enhanced.shape == waves[index].shape
            assert np.allclose(enhanced, expected.numpy(), atol=1e-5)
