"""Parts with one planted fault each, and right ones beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models.config import ARCHITECTURES, CORES, CROSSBANDS, DECODERS, PRESETS, ModelConfig
from ablate.models.declarations import Declared
from ablate.models.network import BandSplitNetwork


class Residual(nn.Module):
    """`x + Linear(LayerNorm(x))`: a right part that declares nothing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.channels)
        self.linear = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


class HonestConv(Residual):
    """A causal convolution over time; with direction=bi one that is centred."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv1d(config.channels, config.channels, 5)
        self.looks_ahead = config.direction == "bi"

    pad_uni = (4, 0)
    pad_bi = (2, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        rows = self.norm(x).reshape(b * k, t, n).transpose(1, 2)
        pad = self.pad_bi if self.config.direction == "bi" else self.pad_uni
        return x + self.linear(self.conv(F.pad(rows, pad)).transpose(1, 2).reshape(b, k, t, n))


class AlwaysCausal(HonestConv):
    pad_bi = (4, 0)


class AlwaysCentred(HonestConv):
    pad_uni = (2, 2)


class GlobalNormed(HonestConv):
    """Right: causal, with a norm over time written out by hand."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        return super().forward(centred / (centred.pow(2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt())


class ManyNorms(HonestConv):
    """Right: causal, behind an instance, a batch and an RMS norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.instance = nn.InstanceNorm1d(config.channels, affine=True)
        self.batch = nn.BatchNorm1d(config.channels)
        self.rms = nn.RMSNorm(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        rows = self.batch(self.instance(x.reshape(b * k, t, n).transpose(1, 2)))
        return super().forward(self.rms(rows.transpose(1, 2).reshape(x.shape)))


class TimeReversed(nn.Module):
    """Says nothing and runs an LSTM backwards."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rnn = nn.LSTM(config.channels, config.channels, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        return x + self.rnn(x.reshape(b * k, t, n).flip(1))[0].flip(1).reshape(b, k, t, n)


class ShutReversed(TimeReversed):
    """The same behind a projection that starts at zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.out = nn.Linear(config.channels, config.channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(super().forward(x))


class MixesBandsInTime(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.roll(1, dims=1))


class PointwiseClaimsMixing(Residual, Declared):
    mixes_bands = True


class WrongAxis(nn.Module, Declared):
    """Meant to run over bands, runs over time."""

    mixes_bands = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rnn = nn.LSTM(config.channels, config.channels // 2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        return x + self.rnn(x.reshape(b * k, t, n))[0].reshape(b, k, t, n)


class MixesItems(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.5 * x.mean(0, keepdim=True))


class Unused(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(config.channels))


class Detached(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(config.channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale.detach())


class TimesZero(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.extra = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.0 * self.extra(x)


class HiddenInList(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.more = [nn.Linear(config.channels, config.channels)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more[0](x))


class HalfUsed(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.wide = nn.Linear(config.channels, 2 * config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.wide(x)[..., : x.shape[-1]])


class WipedForget(Residual):
    """Sets the forget bias, then zeroes every bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rnn = nn.LSTM(config.channels, config.channels, batch_first=True)
        with torch.no_grad():
            self.rnn.bias_hh_l0[config.channels : 2 * config.channels].fill_(1.0)
        self.wipe()

    def wipe(self) -> None:
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        return super().forward(self.rnn(x.reshape(b * k, t, n))[0].reshape(b, k, t, n))


class KeptForget(WipedForget):
    def wipe(self) -> None:
        """Leaves the biases alone."""


class WipedDeclared(Residual, Declared):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.full((config.channels,), 2.0))
        nn.init.zeros_(self.gate)

    def init_ranges(self) -> dict[str, tuple[float, float]]:
        return {"gate": (1.0, 3.0)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.sigmoid(self.gate))


class WipedByApply(Residual):
    """Sets a bias as Mamba does, then has `apply` initialise every Linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.step = nn.Linear(config.channels, config.channels)
        with torch.no_grad():
            dt = torch.exp(torch.rand(config.channels) * math.log(100) + math.log(0.001))
            self.step.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.exp(-F.softplus(self.step(x))))


class Swamped(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return 1000.0 * x + self.linear(self.norm(x))


class Clamped(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x).clamp(-0.5, 0.5))


class HotTanh(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(torch.tanh(20 * self.norm(x)))


class DeadRelu(Residual):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        nn.init.constant_(self.linear.bias, -30.0)
        self.out = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.linear(self.norm(x))))


class NaNAtSilence(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.pow(2).mean((1, 2, 3), keepdim=True).sqrt())


class NaNGradient(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + (x - x).abs().sqrt())


class Explodes(Residual):
    """Finite at first; not after a step of the recipe's learning rate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.exp(self.gain * 2e5))


class WrongWidth(nn.Module, Declared):
    """A decoder that says it is as wide as asked for, and is half that."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        wide = int(config.decoder_expansion * config.channels)  # type: ignore[arg-type]
        self.hidden_width = wide
        self.outputs = outputs
        self.inner = nn.Linear(config.channels, wide // 2)
        self.outer = nn.Linear(wide // 2, 257 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.outer(torch.tanh(self.inner(x.mean(1))))
        return y.unflatten(-1, (257, self.outputs)).transpose(1, 2)


class Meddling(BandSplitNetwork):
    """A whole model that makes its decoder wider where the direction is bi."""

    def __init__(self, config: ModelConfig) -> None:
        wider = {"decoder_expansion": 3} if config.direction == "bi" else {}
        super().__init__(config.model_copy(update=wider))


class MeddlingQuietly(BandSplitNetwork):
    """A whole model whose head does something else, with equal shapes, where the direction is bi."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.direction == "bi":
            decoder = self.head.decoder
            self.head.decoder.forward = lambda x: type(decoder).forward(decoder, x.relu())  # type: ignore


class Foreign(nn.Module):
    """A whole model of another kind: causal recurrence over frames, a mask from it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.GRU(257, config.channels, batch_first=True)
        self.decoder = nn.Linear(config.channels, 257)

    def forward(self, noisy: Tensor) -> Tensor:
        magnitude = noisy.abs().transpose(1, 2)
        return noisy * torch.sigmoid(self.decoder(self.encoder(torch.log1p(magnitude))[0])).transpose(1, 2)


class ForeignClaimsCausal(Foreign):
    looks_ahead = False

    def forward(self, noisy: Tensor) -> Tensor:
        return super().forward(noisy.roll(-1, dims=-1))


CORE_FAULTS = {
    "Unused": "A101",
    "Detached": "A101",
    "TimesZero": "A101",
    "HiddenInList": "A101",
    "HalfUsed": "A101",
    "WipedForget": "A102",
    "WipedDeclared": "A102",
    "WipedByApply": "A102",
    "Swamped": "A103",
    "Clamped": "A104",
    "HotTanh": "A104",
    "DeadRelu": "A104",
    "NaNAtSilence": "A105",
    "NaNGradient": "A105",
    "Explodes": "A105",
    "AlwaysCentred": "A202",
    "TimeReversed": "A202",
    "ShutReversed": "A202",
    "MixesBandsInTime": "A202",
    "MixesItems": "A202",
}
RIGHT_CORES = ("Residual", "HonestConv", "GlobalNormed", "ManyNorms", "KeptForget")
CROSSBAND_FAULTS = {"PointwiseClaimsMixing": "A202", "WrongAxis": "A202", "Residual": "A202"}


def register() -> None:
    """Register every part under its class's name; again does nothing."""
    for name in {*CORE_FAULTS, *RIGHT_CORES, "AlwaysCausal"}:
        CORES.register(name, globals()[name])
    for name in CROSSBAND_FAULTS:
        CROSSBANDS.register(name, globals()[name])
    DECODERS.register("WrongWidth", WrongWidth)
    for kind in (Meddling, MeddlingQuietly, Foreign, ForeignClaimsCausal):
        ARCHITECTURES.register(kind.__name__, kind)


def remove_presets(*names: str) -> None:
    for name in names:
        PRESETS.pop(name, None)
