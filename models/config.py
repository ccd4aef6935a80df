"""The configuration of a network, and the presets. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from . import trust
from .errors import InputError
from .fields import PARTS, ActiveIf, ActiveUnless, Added, Affects, InactiveValue
from .layouts import BINS
from .parts import ARCHITECTURES, BANDS, CORES, CROSSBANDS, DECODERS, HEADS, PLUGGABLE
from .plugins import PATH, existing_folder, folder_digest, with_digests
from .registry import suggestion
from .section import Frozen as Frozen
from .section import Section


def _core(name: str) -> str:
    parts = name.split("+")
    if len(parts) > 2:
        raise InputError(f"core {name!r} has {len(parts)} parts; a hybrid has two, e.g. mamba+attention")
    return "+".join(map(CORES.check, parts))


Architecture = Annotated[str, AfterValidator(ARCHITECTURES.check)]
Core = Annotated[str, AfterValidator(_core)]
CrossBand = Annotated[str, AfterValidator(CROSSBANDS.check)]
Decoder = Annotated[str, AfterValidator(DECODERS.check)]
Head = Annotated[str, AfterValidator(HEADS.check)]
Norm = Literal["group", "layer", "batch"]
Statistics = Literal["utterance", "cumulative"]
"""Statistics of a normalisation over time: over the whole utterance, or over the frames so far (causal)."""


def band_widths(layout: str | tuple[int, ...], bins: int = BINS) -> tuple[int, ...]:
    """Bins per band, low to high, from a layout (`bsrnn`, `mel:16`) or a list of widths.

    Raises:
        InputError: the layout is unknown, its count is not valid, or it does not cover the bins.
    """
    if isinstance(layout, str):
        name, colon, count = layout.partition(":")
        if colon and not count.isdecimal():
            raise InputError(f"bands {layout!r} needs a number after the colon, e.g. {name}:16")
        others = () if bins == BINS or not BANDS.built_in(name) else (bins,)
        widths = tuple(BANDS[name](int(count) if colon else None, *others))
    else:
        widths = layout
    if any(width < 1 for width in widths) or sum(widths) != bins:
        fits = min(widths) > 0 and sum(widths) > 16
        points = f"; use n_fft={2 * (sum(widths) - 1)} to have as many" if fits else ""
        raise InputError(
            f"bands {layout!r} cover {sum(widths)} bins (at least 1 each); the spectrogram has {bins}{points}"
        )
    return widths


def _is_expected(layout: str | tuple[int, ...]) -> bool:
    return isinstance(layout, str) and BANDS.expects(layout.partition(":")[0])


def _no_bare_count(layout: Any) -> Any:
    if isinstance(layout, int):
        raise InputError(f"bands {layout} needs a layout, e.g. mel:{layout} or uniform:{layout}")
    return layout


_Encoder = Affects("encoder")
_CrossBand = Affects("cross-band")
_Decoder = Affects("decoder")
_Signal = Affects("split", "decoder")
_Everywhere = Affects(*PARTS)
_Layers = Affects("encoder", "cross-band")
_Ssm = (_Layers, ActiveIf("core", "mamba"), ActiveIf("crossband", "bimamba"))
_AnySsm = (_Layers, ActiveIf("core", "mamba", "mamba2"), ActiveIf("crossband", "bimamba"))
_Wide = (_Layers, ActiveIf("core", "mamba", "mamba2", "xlstm"), ActiveIf("crossband", "bimamba"))


class ModelConfig(Section):
    """The complete configuration of one band-split network.

    The trunk is `layers` residual layers of `core` over time in each band, and `crossband_layers`
    layers of `crossband` over the bands in each frame. See `models.fields` for how to add a field.
    """

    architecture: Annotated[Architecture, _Everywhere] = "band-split"
    channels: Annotated[PositiveInt, _Everywhere] = Field(
        default=64, description="features per (time, band): N"
    )
    layers: Annotated[PositiveInt, _Encoder] = Field(default=5, description="time layers")
    core: Annotated[Core, _Encoder] = Field(default="lstm", description="of the time layers")
    direction: Annotated[Literal["uni", "bi"], _Encoder] = Field(
        default="uni", description="of the time layers; bi sees later frames"
    )
    lookahead: Annotated[NonNegativeInt, Added, _Encoder, ActiveIf("direction", "uni")] = Field(
        default=0, description="total look-ahead of the time layers, in frames (uni)"
    )
    chunk: Annotated[NonNegativeInt, Added, _Encoder] = Field(
        default=0,
        description="frames per chunk; time layers run within chunks, then across them (DPRNN); 0: off",
    )
    norm: Annotated[Norm, _Encoder] = Field(
        default="group",
        description="before each time layer: over (channel, time, band) of an item, over channel alone, or "
        "of each channel over the batch, with running statistics at test time",
    )
    n_fft: Annotated[PositiveInt, Added, _Signal] = Field(
        default=512,
        description="FFT size (n_fft / 2 + 1 bins); losses still use 512 points",
    )
    hop: Annotated[PositiveInt, Added, _Signal] = Field(default=128, description="hop size in samples")
    window: Annotated[Literal["hann", "sqrt-hann", "hamming", "rectangular"], Added, _Signal] = Field(
        default="hann", description="window of the transform, n_fft samples long"
    )
    bands: Annotated[str | tuple[int, ...], BeforeValidator(_no_bare_count), Added, _Signal] = Field(
        default="bsrnn",
        description="band layout: bsrnn, uniform:K, mel:K, bark:K, one (no split), or the bins of each band",
    )
    input_level: Annotated[Literal["as-is", "unit"], Added, _Signal] = Field(
        default="as-is", description="unit: scale each utterance to an RMS of 1, and undo that at the output"
    )
    input_compression: Annotated[PositiveFloat, Added, Affects("split")] = Field(
        default=1.0,
        description="exponent of the magnitudes that the network reads; masks apply to uncompressed ones",
    )
    split_statistics: Annotated[Statistics, Added, Affects("split")] = Field(
        default="utterance", description="statistics of the normalisation in the band split"
    )
    trunk_statistics: Annotated[
        Statistics, Added, _Layers, ActiveIf("norm", "group"), ActiveIf("crossband", "bilstm")
    ] = Field(default="utterance", description="statistics of the norms in time and band layers")
    decoder_statistics: Annotated[Statistics, Added, _Decoder, ActiveIf("decoder", "per-band")] = Field(
        default="utterance", description="statistics of the normalisation in the decoder"
    )
    filter_taps: Annotated[Literal["centred", "past"], Added, _Decoder, ActiveIf("head", "filter")] = Field(
        default="centred",
        description="centred: previous, current and next frame; past: current and two previous (filter head)",
    )
    crossband: Annotated[CrossBand, _CrossBand] = Field(
        default="bilstm",
        description="module across the bands of a frame; pointwise, called an MLP, mixes none",
    )
    crossband_layers: Annotated[
        PositiveInt, _CrossBand, ActiveUnless("crossband", "none"), InactiveValue(1)
    ] = 5
    order: Annotated[Literal["stacked", "interleaved"], ActiveUnless("crossband", "none")] = Field(
        default="stacked",
        description="stacked: all time layers, then all band layers (BSRNN); else alternating (ESPnet)",
    )
    decoder: Annotated[Decoder, _Decoder] = "per-band"
    decoder_expansion: Annotated[
        float | tuple[float, ...], _Decoder, ActiveIf("decoder", "per-band"), InactiveValue(2.0)
    ] = Field(default=4.0, description="hidden width of the decoder over N: one number, or one for each band")
    head: Annotated[Head, _Decoder] = "filter"
    projection: Annotated[Literal["none", "consistent"], Added, _Decoder] = Field(
        default="none", description="consistent: project the output to the nearest consistent spectrogram"
    )
    heads: Annotated[PositiveInt, _Encoder, ActiveIf("core", "attention", "conformer", "mamba2", "xlstm")] = (
        Field(default=4, description="number of heads (attention, conformer, Mamba-2, xLSTM)")
    )
    kernel: Annotated[PositiveInt, Added, _Encoder, ActiveIf("core", "tcn", "conformer")] = Field(
        default=3, description="taps of the convolutions over time (TCN, conformer)"
    )
    dilations: Annotated[PositiveInt, Added, _Encoder, ActiveIf("core", "tcn")] = Field(
        default=4, description="blocks per layer, with dilation 1, 2, 4, ... (TCN)"
    )
    d_state: Annotated[PositiveInt, *_AnySsm] = Field(default=12, description="states per channel (Mamba)")
    expand: Annotated[PositiveInt, *_Wide] = Field(default=1, description="inner width over N (Mamba, xLSTM)")
    d_conv: Annotated[PositiveInt, *_Wide] = Field(
        default=4, description="taps of the causal convolution (Mamba, xLSTM)"
    )
    gating: Annotated[Literal["exponential", "sigmoid"], Added, _Encoder, ActiveIf("core", "xlstm")] = Field(
        default="exponential", description="activation of the input gate (xLSTM)"
    )
    biases: Annotated[Literal["with", "without"], Added, _Encoder, ActiveIf("core", "xlstm")] = Field(
        default="with", description="biases of projections and convolution (xLSTM)"
    )
    ssm_skip: Annotated[Literal["right", "shadowed"], *_Ssm] = Field(
        default="right", description="shadowed: the scan's skip is d_inner * x and the learned D is dead"
    )
    dt_init: Annotated[Literal["kept", "wiped"], *_Ssm] = Field(
        default="kept", description="wiped: the network's init zeroes dt_proj.bias after Mamba has set it"
    )
    clamps: Annotated[Literal["off", "on"], *_Ssm] = Field(
        default="off", description="the clamps of MBS-Net's scan"
    )
    options: Annotated[
        dict[str, bool | int | float | str], AfterValidator(with_digests), Added, _Everywhere
    ] = Field(
        default={},
        description="settings of a plug-in's parts, by name; path:FOLDER is signed by the code in the folder",
    )

    @property
    def band_widths(self) -> tuple[int, ...]:
        """Bins per band, low to high."""
        return band_widths(self.bands, self.bins)

    @property
    def bins(self) -> int:
        """Number of bins of the spectrogram."""
        return self.n_fft // 2 + 1

    def _folders(self) -> dict[str, tuple[Path, str]]:
        """Option -> the folder that it names, and the digest of its code when the study was planned."""
        parted = {
            option: value.removeprefix(PATH).rpartition("@")
            for option, value in self.options.items()
            if isinstance(value, str) and value.startswith(PATH)
        }
        return {option: (Path(name), digest) for option, (name, _, digest) in parted.items() if name}

    def trust_folders(self) -> None:
        """Trust the code in the folders that options name; call it only for networks given by the user."""
        for path, digest in self._folders().values():
            trust.grant(path, digest)

    def folder(self, option: str) -> Path:
        """The folder that an option names as `path:FOLDER`.

        Raises:
            InputError: the option is missing, or the code is not trusted or has changed since planning.
        """
        if option not in self._folders():
            raise InputError(f"the network needs a folder; set it with --option {option}=PATH")
        name, planned = self._folders()[option]
        found = folder_digest(existing_folder(str(name)))
        if found != planned:
            raise InputError(
                f"the code in {name} has changed since this run was planned (digest {found[:12]}, planned "
                f"{planned[:12]}); restore it, or plan the run under another name"
            )
        if not trust.is_trusted(name, found):
            raise InputError(
                f"the code in {name} is not trusted: digest {found[:12]}; read it, "
                f"then name it in ablate audit with --option {option}={name}"
            )
        return name

    def result_fields(self) -> dict[str, Any]:
        """As in `Section`, but with the digest of a folder's code instead of its path in options."""
        fields = super().result_fields()
        options = {
            key: value.rpartition("@")[2] if isinstance(value, str) and value.startswith(PATH) else value
            for key, value in fields["options"].items()
        }
        return fields | {"options": options}

    def is_active(self, name: str) -> bool:
        """Whether the network reads a field; a part from a plug-in may read any field."""
        named = [
            (parts, name) for field, parts in PLUGGABLE.items() for name in getattr(self, field).split("+")
        ]
        foreign = not all(parts.built_in(name) for parts, name in named)
        return foreign or (name != "options" and super().is_active(name))

    @field_validator("decoder_expansion")
    @classmethod
    def _expansion(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        values = value if isinstance(value, tuple) else (value,)
        if any(not 0 < v <= 64 for v in values):
            raise InputError(f"decoder expansion {value} is not in (0, 64]")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.n_fft % 2:
            raise InputError(f"n_fft={self.n_fft} is odd; use an even number, e.g. {self.n_fft + 1}")
        if 2 * self.hop > self.n_fft:
            raise InputError(
                f"hop={self.hop} is too large: frames of {self.n_fft} points must overlap by at least "
                f"half; use at most {self.n_fft // 2}"
            )
        if self.trunk_statistics == "cumulative" and self.norm == "batch":
            raise InputError(
                "norm=batch cannot have cumulative statistics, because training statistics include later "
                "frames and other items; use norm=group, or norm=layer, which only sees one frame"
            )
        if self.chunk and (
            self.lookahead or (self.trunk_statistics == "cumulative" and self.norm == "group")
        ):
            field = "lookahead" if self.lookahead else "trunk_statistics=cumulative"
            raise InputError(f"chunk={self.chunk} does not go with {field}; use chunk=0")
        expansion = self.decoder_expansion
        if not _is_expected(self.bands):
            count = len(self.band_widths)
            if isinstance(expansion, tuple) and len(expansion) != count:
                raise InputError(f"{len(expansion)} expansions for {count} bands; give one per band")
        return self


_MBSNET = ModelConfig(
    channels=128,
    layers=4,
    core="mamba",
    norm="layer",
    crossband="pointwise",
    crossband_layers=1,
    decoder_expansion=2,
)


def _mbsnet(**changes: Any) -> ModelConfig:
    return _MBSNET.model_copy(update=changes)


PRESETS: dict[str, ModelConfig] = {
    "bsrnn": ModelConfig(),
    "bsrnn-128x6": ModelConfig(channels=128, layers=6, crossband_layers=6),
    "bsrnn-bidirectional": ModelConfig(direction="bi"),
    "mbsnet": _MBSNET,
    "mbsnet-as-trained": _mbsnet(ssm_skip="shadowed", dt_init="wiped", clamps="on"),
    "mbsnet-heavy-decoder": _mbsnet(decoder_expansion=4.0),
    "mbsnet-ultralight-decoder": _mbsnet(decoder="shared"),
    "mbsnet-dual-branch": _mbsnet(
        architecture="dual-branch",
        direction="bi",
        crossband="bimamba",
        decoder_expansion=4.0,
        head="magnitude-phase",
        d_state=16,
        expand=2,
    ),
    "mbsnet-dual-head": _mbsnet(head="magnitude-phase", decoder_expansion=1.8125),
    "mbsnet-recovered": _mbsnet(direction="bi", crossband="bilstm", decoder_expansion=4.0),
}
"""Preset -> configuration; `ablate models` lists them with their sizes."""


def resolve_model(preset_or_config: str | ModelConfig) -> ModelConfig:
    """The configuration of a preset, or the configuration itself.

    Raises:
        InputError: the preset is unknown.
    """
    if isinstance(preset_or_config, ModelConfig):
        return preset_or_config
    if preset_or_config not in PRESETS:
        raise InputError(f"unknown preset {preset_or_config!r}{suggestion(preset_or_config, PRESETS)}")
    return PRESETS[preset_or_config]
