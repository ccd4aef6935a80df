"""Parts with one planted fault each, and right ones beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.ablations.audit.probe_inputs import SEED
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


class Talkative(Residual):
    """Right, and prints."""

    def forward(self, x: Tensor) -> Tensor:
        print(f"a layer of {tuple(x.shape)}")
        return super().forward(x)


class SaturatesOnce(Residual):
    """Right: a recurrence written out, whose first step alone is far out."""

    gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        state = torch.full_like(x[:, :, 0], 9.0)
        steps = []
        for frame in self.norm(x).unbind(2):
            state = torch.tanh(0.1 * state + self.gain * self.linear(frame))
            steps.append(state)
        return x + torch.stack(steps, 2)


class SaturatesAlways(SaturatesOnce):
    gain = 50.0


class DeepBatchNorms(HonestConv):
    """Right: causal. With the statistics that a batch norm is built with, its branch would be constant."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(4))
        self.mixers = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        for mixer in self.mixers:
            nn.init.normal_(mixer.weight, std=1e-4)
        self.last = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        y = F.pad(self.norm(x).reshape(b * k, t, n).transpose(1, 2), self.pad_uni)
        y = self.conv(y)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            y = mixer(norm(y))
        return x + self.linear(self.last(y).transpose(1, 2).reshape(b, k, t, n))


class DeepBatchNormsCentred(DeepBatchNorms):
    pad_uni = (2, 2)


class OwnAverage(Residual):
    """Right: a norm by a running mean square of its own, and a centred convolution nowhere."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("power", torch.full((), 1e4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.power.mul_(0.9).add_(0.1 * x.detach().pow(2).mean())
        return super().forward(x / (self.power + 1e-5).sqrt())


class OwnAverageMixes(OwnAverage):
    """The same with a mean over the batch behind it."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + 0.01 * (y - x + (y - x).mean(0, keepdim=True))


class WeightNormed(Residual):
    """Right: the flat weights of a GRU with weight norm are leaves of their own until it runs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rnn = nn.utils.weight_norm(
            nn.GRU(config.channels, config.channels, batch_first=True), "weight_hh_l0"
        )

    def forward(self, x: Tensor) -> Tensor:
        b, k, t, n = x.shape
        return super().forward(self.rnn(x.reshape(b * k, t, n))[0].reshape(b, k, t, n))


class FixedFilters(Residual):
    """Right: a filterbank that is not trained, kept as a parameter."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        bank = torch.eye(config.channels) + 0.1
        self.bank = nn.Parameter(bank, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.bank)


class PositionTable(Residual):
    """Right: a learned vector for each of 400 frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.table = nn.Parameter(0.1 * torch.randn(400, config.channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table[: x.shape[2]])


class DistanceTable(Residual):
    """Right: attention over time with a learned bias for each distance of up to 500 frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.bias = nn.Embedding(501, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[2]
        places = torch.arange(t)
        distance = (places[:, None] - places).clamp(min=0, max=500)
        weights = (self.bias(distance).sum(-1)).masked_fill(places[:, None] < places, -1e9)
        return super().forward(torch.einsum("ts,bksn->bktn", weights.softmax(-1), x))


class PaddedRelu(Residual):
    """Right: half of the frames that its activation sees are padding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.out = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.linear(self.norm(x)), (0, 0, x.shape[2], 0))
        return x + self.out(F.relu(y)[:, :, x.shape[2] :])


class FewDead(PaddedRelu):
    """Right at a pinch: a fifth of the units start dead, and what lies before them can revive them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.before = nn.Linear(config.channels, config.channels)
        with torch.no_grad():
            self.linear.bias[: config.channels // 5] = -30.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.before(x))


class HalfDead(FewDead):
    """Right at a pinch: five of eight units start dead, and what lies before them can revive them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.linear.bias[: config.channels * 5 // 8] = -30.0


class DeadByLuck(PaddedRelu):
    """Right: all units are dead, with the initial values of one seed alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if torch.initial_seed() == SEED:
            nn.init.constant_(self.linear.bias, -30.0)


class GatedSmall(Residual):
    """Right: a branch that is tiny because it multiplies small terms; none of its weights is near zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate, self.out = (nn.Linear(config.channels, config.channels) for _ in range(2))
        for linear in (self.linear, self.gate, self.out):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.out(self.linear(y) * self.gate(y))


class SquaredSmall(GatedSmall):
    """Right: the same of squares."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.linear(self.norm(x)) + self.gate(self.norm(x))).square())


class LastUnread(Residual):
    """Right: blocks that give a residual and a skip; nothing reads the residual of the last."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        inner = 4
        self.into, self.back = nn.Linear(config.channels, inner), nn.Linear(inner, config.channels)
        self.residuals, self.skips = (nn.ModuleList(nn.Linear(inner, inner) for _ in "abc") for _ in "rs")

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.into(self.norm(x)), 0.0
        for residual, skip in zip(self.residuals, self.skips, strict=True):
            total, y = total + skip(torch.tanh(y)), y + residual(torch.tanh(y))
        return x + self.linear(self.back(total))


class MiddleUnread(LastUnread):
    """The same, with a block in the middle whose residual is forgotten."""

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.into(self.norm(x)), 0.0
        for index, (residual, skip) in enumerate(zip(self.residuals, self.skips, strict=True)):
            total, moved = total + skip(torch.tanh(y)), residual(torch.tanh(y))
            y = y if index == 1 else y + moved
        return x + self.linear(self.back(total))


class LastUnreadLarge(Residual):
    """A last block that is a good share of the network, and does nothing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(nn.Linear(config.channels, config.channels * 32) for _ in range(2))
        self.back = nn.Linear(config.channels * 32, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        first, _ = (block(self.norm(x)) for block in self.blocks)
        return x + self.linear(self.back(first))


class StartsShut(Residual):
    """Right: a branch that starts at almost nothing, as diffusion networks have it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        nn.init.normal_(self.linear.weight, std=1e-6)
        nn.init.zeros_(self.linear.bias)


class LayerScaled(Residual):
    """Right: a branch behind a learned scale that starts at 1e-4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.full((config.channels,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.linear(self.norm(x))


class LoudResidual(Residual):
    """Right: what comes in, unscaled, is 200 times what is computed from it."""

    gain = 200.0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.lift = nn.Linear(config.channels, config.channels)
        with torch.no_grad():
            self.lift.weight.mul_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.lift(self.norm(x)).transpose(1, 2).contiguous().transpose(1, 2))


class LoudResidualUnseen(LoudResidual):
    """Right: the same, with a layer that does its work in NumPy."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.numpy = InNumpy()

    def forward(self, x: Tensor) -> Tensor:
        y = self.lift(self.norm(x))
        return y + self.numpy(self.linear(self.norm(y)))


class InNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Halved.apply(x)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 0.5)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 0.5


class TooLoudResidual(LoudResidual):
    gain = 5000.0


class ScaledSkip(Residual):
    """A skip of 150 times what came in, as the scan of the public MBS-Net has one."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return 150.0 * y + self.linear(y)


class UnevenTerms(Residual):
    """Two learned terms, one 200 times the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.loud = nn.Linear(config.channels, config.channels)
        with torch.no_grad():
            self.loud.weight.mul_(200)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + 0.01 * (self.loud(y) + self.linear(y))


class BothStartSmall(Residual):
    """Right: of two learned terms that start small, the smaller at almost nothing; both grow."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.channels, config.channels, bias=False)
        self.loud = nn.Linear(config.channels, config.channels, bias=False)
        nn.init.normal_(self.linear.weight, std=2e-6)
        nn.init.normal_(self.loud.weight, std=4e-4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + (self.loud(y) + self.linear(0.1 * y))


class WipedLater(WipedForget):
    """The bias is scaled after it was set, and wiped after that: the last write is to be named."""

    def wipe(self) -> None:
        with torch.no_grad():
            self.rnn.bias_hh_l0.copy_(self.rnn.bias_hh_l0.clone())
        super().wipe()


class WipedRandom(Residual):
    """Sets a random bias on purpose, then a general initialisation zeroes every bias: a suspicion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        nn.init.normal_(self.linear.bias, std=0.1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)


class ZeroedOnPurpose(Residual):
    """Right: a general initialisation first, then the last layer is set to zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.inner = nn.Linear(config.channels, config.channels)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.inner(self.norm(x)))


class HalvesBatches(Foreign):
    """In batches it gives every other bin, as a network that drops bands while training."""

    def forward(self, noisy: Tensor) -> Tensor:
        return super().forward(noisy)[:, :: min(len(noisy), 2)]


class SideOutput(Foreign):
    """Right: an output that the recipe's loss does not reach, and says so."""

    own_loss = ("side",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.side = nn.Linear(config.channels, 1)

    def forward(self, noisy: Tensor) -> Tensor:
        self.snr = self.side(self.encoder(torch.log1p(noisy.abs().transpose(1, 2)))[0])
        return super().forward(noisy)


class SideOutputUnsaid(SideOutput):
    own_loss = ()


class SideOutputNeverCalled(SideOutput):
    def forward(self, noisy: Tensor) -> Tensor:
        return Foreign.forward(self, noisy)


class DeadOnData(Foreign):
    """A fifth of the units of the first layer are dead on data: nothing before them could revive them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.front = nn.Linear(257, 257)
        with torch.no_grad():
            self.front.bias[:52] = -30.0

    def forward(self, noisy: Tensor) -> Tensor:
        y = F.relu(self.front(torch.log1p(noisy.abs().transpose(1, 2))))
        return noisy * torch.sigmoid(self.decoder(self.encoder(y)[0])).transpose(1, 2)


class TwoAhead(Foreign):
    """Right: two frames of look-ahead, and says so."""

    looks_ahead = 2

    def forward(self, noisy: Tensor) -> Tensor:
        return super().forward(F.pad(noisy, (0, 2))[..., 2:])


class SaysOneAhead(TwoAhead):
    looks_ahead = 1


class _SlowNorm(nn.Module):
    """A batch norm of its own, whose running statistics take hundreds of batches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("variance", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)[0]
            variance = x.var((0, 2, 3), keepdim=True)[0]
            with torch.no_grad():
                self.mean.lerp_(mean, 0.01)
                self.variance.lerp_(variance, 0.01)
        return (x - mean) / (variance + 1e-5).sqrt()


class HiddenByNorms(nn.Module):
    """Says that it is causal; fresh running statistics make what looks ahead too small to be seen."""

    looks_ahead = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(1, width, 1)]
        for _ in range(6):
            conv = nn.Conv2d(width, width, 3, padding=1)
            nn.init.normal_(conv.weight, std=1e-3)
            layers += [conv, self.norm(width), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 1, 1), nn.Sigmoid())

    norm: type[nn.Module] = nn.BatchNorm2d

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * self.net(noisy.abs()[:, None])[:, 0]


class HiddenBySlowNorms(HiddenByNorms):
    norm = _SlowNorm


class SaysNothingAhead(TwoAhead):
    """Says nothing and looks ahead where its direction is uni: a note."""

    looks_ahead = None  # type: ignore[assignment]


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
    "SaturatesAlways": "A104",
    "DeepBatchNormsCentred": "A202",
    "OwnAverageMixes": "A202",
    "TooLoudResidual": "A103",
    "ScaledSkip": "A103",
    "UnevenTerms": "A103",
    "WipedLater": "A102",
    "MiddleUnread": "A101",
    "LastUnreadLarge": "A101",
}
RIGHT_CORES = (
    *("Residual", "HonestConv", "GlobalNormed", "ManyNorms", "KeptForget"),
    *("SaturatesOnce", "DeepBatchNorms", "OwnAverage", "WeightNormed", "FixedFilters", "PositionTable"),
    *("DistanceTable", "PaddedRelu", "FewDead", "StartsShut", "LayerScaled", "LoudResidual"),
    *("LoudResidualUnseen", "HalfDead", "DeadByLuck", "GatedSmall", "SquaredSmall", "LastUnread"),
    "BothStartSmall",
    *("WipedRandom", "ZeroedOnPurpose", "Talkative"),
)
NETWORK_FAULTS = {
    "SideOutputUnsaid": "A101",
    "SideOutputNeverCalled": "A101",
    "DeadOnData": "A104",
    "SaysOneAhead": "A202",
    "ForeignClaimsCausal": "A202",
    "HiddenByNorms": "A202",
    "HiddenBySlowNorms": "A202",
}
RIGHT_NETWORKS = ("Foreign", "SideOutput", "TwoAhead", "SaysNothingAhead")
CROSSBAND_FAULTS = {"PointwiseClaimsMixing": "A202", "WrongAxis": "A202", "Residual": "A202"}


def register() -> None:
    """Register every part under its class's name; again does nothing."""
    for name in {*CORE_FAULTS, *RIGHT_CORES, "AlwaysCausal"}:
        CORES.register(name, globals()[name])
    for name in CROSSBAND_FAULTS:
        CROSSBANDS.register(name, globals()[name])
    DECODERS.register("WrongWidth", WrongWidth)
    for name in ("Meddling", "MeddlingQuietly", "HalvesBatches", *NETWORK_FAULTS, *RIGHT_NETWORKS):
        ARCHITECTURES.register(name, globals()[name])


def remove_presets(*names: str) -> None:
    for name in names:
        PRESETS.pop(name, None)
