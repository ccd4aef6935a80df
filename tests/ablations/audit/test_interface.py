"""The audit of networks that take something else than our spectrograms, with one planted fault or none."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.ablations.audit import audit_config
from ablate.ablations.audit.network_under_test import subject
from ablate.models.config import ARCHITECTURES, ModelConfig
from ablate.models.errors import InputError
from ablate.models.transform import Transform
from ablate.training.config import RECIPES, RunConfig

SLOW = pytest.mark.slow
QUICK = RECIPES["quick"].model_copy(update={"crop_seconds": 0.2})


class Wave(nn.Module):
    """Right: a causal encoder of frames of 64 samples with a step of 32, a GRU, and overlap-add."""

    domain = "waveform"
    looks_ahead: bool | int = 63
    behind = 0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 16, 64, stride=32)
        self.trunk = nn.GRU(16, 16, batch_first=True)
        self.decoder = nn.ConvTranspose1d(16, 1, 64, stride=32)

    def forward(self, wave: Tensor) -> Tensor:
        padded = F.pad(wave[:, None], (self.behind, 64 + -wave.shape[-1] % 32))
        code = self.encoder(padded).relu()
        mask = self.between(self.trunk(code.transpose(1, 2))[0]).transpose(1, 2)
        out = self.decoder(code * mask.sigmoid())[..., : wave.shape[-1]]
        return self.given(out, mask)

    def between(self, features: Tensor) -> Tensor:
        return features

    def given(self, out: Tensor, mask: Tensor) -> object:
        return out


class SaysTooFew(Wave):
    looks_ahead = 40


class SaysNoSample(Wave):
    looks_ahead = False


class Later(Wave):
    def between(self, features: Tensor) -> Tensor:
        return features.roll(-1, 1)


class MixesBatch(Wave):
    def between(self, features: Tensor) -> Tensor:
        return features + features.mean(0, keepdim=True)


class Unused(Wave):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rest = nn.Linear(16, 16)


class Named(Wave):
    """Right: a dictionary, with an output that only the network's own loss reaches."""

    output = "wave"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.activity = nn.Linear(16, 1)

    def given(self, out: Tensor, mask: Tensor) -> object:
        return {"wave": out, "activity": self.activity(mask.transpose(1, 2)).squeeze(-1)}

    def loss(self, outputs: dict[str, Tensor], clean: Tensor) -> Tensor:
        level = F.avg_pool1d(clean.square()[:, None], 64, 32)[:, 0]
        count = min(level.shape[-1], outputs["activity"].shape[-1])
        target = (level > level.mean()).float()[:, :count]
        return F.binary_cross_entropy_with_logits(outputs["activity"][:, :count], target)


class Pairs(nn.Module):
    """Right: real and imaginary parts of a transform of its own, compressed, stacked before time."""

    transform = Transform(320, 160, "hamming")
    axes = "b2tf"
    compress = 0.3
    looks_ahead: bool | int = False
    taps = (2, 0)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, (3, 3), padding=(0, 1))
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.last(self.first(F.pad(x, (0, 0, *self.taps))).relu()).tanh()


class CentredPairs(Pairs):
    taps = (1, 1)


class BatchPairs(Pairs):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean(0, keepdim=True))


class Halved(Wave):
    def given(self, out: Tensor, mask: Tensor) -> object:
        return out[: (len(out) + 1) // 2]


KINDS = (
    *(Wave, SaysTooFew, SaysNoSample, Later, MixesBatch, Unused, Named),
    *(Pairs, CentredPairs, BatchPairs, Halved),
)


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    for kind in KINDS:
        ARCHITECTURES.register(f"interface-{kind.__name__}", kind)


def config_of(kind: type) -> ModelConfig:
    return ModelConfig(architecture=f"interface-{kind.__name__}")


def found(kind: type, **recipe: object) -> list[tuple[str, str]]:
    config = RunConfig(model=config_of(kind), recipe=QUICK.model_copy(update=recipe))
    return [(f.code, f.evidence) for f in audit_config(config) if f.severity == "error"]


@pytest.mark.parametrize("kind", [pytest.param(Wave, marks=SLOW), Pairs])
def test_a_right_network_gives_no_error(kind: type) -> None:
    assert found(kind) == []


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        pytest.param(SaysTooFew, "A202", r"looks_ahead=40.*6[0-3] later samples", marks=SLOW),
        pytest.param(
            SaysNoSample,
            "A202",
            r"looks_ahead=False.*6[0-3] later samples",
            marks=SLOW,
        ),
        pytest.param(Later, "A202", r"looks_ahead=63.*9[0-5] later samples", marks=SLOW),
        pytest.param(MixesBatch, "A202", "with the other items of its batch", marks=SLOW),
        pytest.param(
            Unused,
            "A101",
            "2 parameters under rest: no gradient in 8 steps: the module is never called",
            marks=SLOW,
        ),
        (CentredPairs, "A202", "looks_ahead=False.*1 later frames"),
        (BatchPairs, "A202", "with the other items of its batch"),
    ],
)
def test_a_planted_fault_is_found(kind: type, code: str, text: str) -> None:
    ((where, evidence),) = found(kind)
    assert where == code
    assert re.search(text, evidence)


@pytest.mark.slow
def test_what_only_the_networks_own_loss_reaches_lives_where_that_is_weighted() -> None:
    ((code, evidence),) = found(Named)
    assert (code, "activity" in evidence) == ("A101", True)
    assert found(Named, losses={"network": 0.5}) == []


def test_a_batch_that_comes_back_smaller_is_said_as_that() -> None:
    with pytest.raises(InputError, match=r"\(1, .*for waveforms \(2, \d+\); its shape is wrong for one item"):
        found(Halved)


def test_the_probe_has_a_length_that_no_width_has() -> None:
    plain = ModelConfig(channels=8, layers=1, crossband_layers=1, crossband="pointwise", d_state=4)
    assert subject(plain, QUICK).probe.shape[-1] == 37
    for fields in ({"bands": "uniform:37"}, {"channels": 37}):
        assert subject(plain.model_copy(update=fields), QUICK).probe.shape[-1] == 41


@pytest.mark.slow
def test_bands_as_many_as_the_probe_had_frames() -> None:
    config = ModelConfig(
        channels=8, layers=1, crossband="pointwise", crossband_layers=1, bands="uniform:37", core="lstm"
    )
    assert [f for f in audit_config(RunConfig(model=config, recipe=QUICK)) if f.severity == "error"] == []


def test_a_signal_of_the_probe_is_what_the_network_is_about() -> None:
    assert subject(config_of(Wave), QUICK).probe.shape == (2, 4801)
    probe = subject(config_of(Pairs), QUICK).probe
    assert (probe.shape, probe.dtype) == (torch.Size([2, 161, 37]), torch.complex64)
