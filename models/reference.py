"""Converts weights of the public BSRNN and MBS-Net code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .bands import band_groups
from .config import ModelConfig
from .errors import InputError, listed
from .layouts import BSRNN
from .network import build_model

_LSTM = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class _Keys:
    """Tracks which tensors of a state dict are still unused, and which keys are missing."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)
        self.missing: list[str] = []

    def count(self, pattern: str) -> int:
        """Count consecutive existing keys `pattern.format(1)`, `pattern.format(2)`, ... (or from 0)."""
        first = 0 if pattern.format(0) in self.left else 1
        index = first
        while pattern.format(index) in self.left:
            index += 1
        return index - first

    def take(self, key: str) -> Tensor:
        if key in self.left:
            return self.left.pop(key).detach()
        self.missing.append(key)
        return torch.empty(0)

    def stack(self, pattern: str, bands: range, transpose: bool = False) -> Tensor:
        """Stack the tensors of several bands (numbered from 1 in keys) on a new first axis."""
        found = [self.take(pattern.format(band + 1)) for band in bands]
        if len({t.shape for t in found}) > 1:
            return torch.empty(0)
        stacked = torch.stack(found)
        return stacked.transpose(1, 2).contiguous() if transpose and stacked.dim() == 3 else stacked

    def need(self, key: str) -> Tensor:
        """Look up a tensor whose shape determines the architecture.

        Raises:
            InputError: the state dict does not have it.
        """
        if key not in self.left:
            raise InputError(f"the state dict has no {key!r}, which determines the architecture")
        return self.left[key]


def _ends(keys: _Keys) -> tuple[dict[str, Tensor], int]:
    """Weights of band split and mask decoder, which both networks share, and the decoder's hidden width."""
    hidden = keys.need("mask_decoder.fc11.weight").shape[0]
    ours: dict[str, Tensor] = {}
    every = range(len(BSRNN))
    for index, group in enumerate(band_groups()):
        bands = range(group.first, group.first + group.count)
        split, decoder = f"split.groups.{index}", f"head.decoder.groups.{index}"
        for kind in ("weight", "bias"):
            is_matrix = kind == "weight"
            ours[f"{split}.norm_{kind}"] = keys.stack(f"band_split.norm{{}}.{kind}", bands)
            ours[f"{split}.linear.{kind}"] = keys.stack(f"band_split.fc{{}}.{kind}", bands, is_matrix)
            ours[f"{decoder}.inner.{kind}"] = keys.stack(f"mask_decoder.fc1{{}}.{kind}", bands, is_matrix)
            ours[f"{decoder}.outer.{kind}"] = keys.stack(f"mask_decoder.fc2{{}}.{kind}", bands, is_matrix)
    for kind in ("weight", "bias"):
        ours[f"head.decoder.norm_{kind}"] = keys.stack(f"mask_decoder.norm{{}}.{kind}", every)
    return ours, hidden


def _bsrnn(keys: _Keys) -> tuple[ModelConfig, dict[str, Tensor]]:
    channels = keys.need("band_split.fc1.weight").shape[0]
    layers, band_layers = keys.count("lstm_t{}.weight_ih_l0"), keys.count("lstm_k{}.weight_ih_l0")
    if not layers or not band_layers:
        raise InputError(f"{layers} time layers and {band_layers} band layers; a BSRNN needs both kinds")
    both = "lstm_t1.weight_ih_l0_reverse" in keys.left
    ours, hidden = _ends(keys)
    for letter, part, count, reverse in (("t", "time", layers, both), ("k", "band", band_layers, True)):
        names = _LSTM + (tuple(f"{n}_reverse" for n in _LSTM) if reverse else ())
        for i in range(count):
            layer = f"{part}_layers.{i}"
            for name in names:
                ours[f"{layer}.rnn.{name}"] = keys.take(f"lstm_{letter}{i + 1}.{name}")
            for kind in ("weight", "bias"):
                ours[f"{layer}.norm.{kind}"] = keys.take(f"norm_{letter}{i + 1}.{kind}")
                ours[f"{layer}.linear.{kind}"] = keys.take(f"fc_{letter}{i + 1}.{kind}")
    config = ModelConfig(
        channels=channels,
        layers=layers,
        direction="bi" if both else "uni",
        crossband_layers=band_layers,
        decoder_expansion=hidden / channels,
    )
    return config, ours


def _mbsnet(keys: _Keys) -> tuple[ModelConfig, dict[str, Tensor]]:
    channels = keys.need("band_split.fc1.weight").shape[0]
    layers = keys.count("encoder.mamba_layers.{}.in_proj.weight")
    inner, states = keys.need("encoder.mamba_layers.0.ssm.A_log").shape
    taps = keys.need("encoder.mamba_layers.0.ssm.conv1d.weight").shape[-1]
    ours, hidden = _ends(keys)
    for i in range(layers):
        theirs, block = f"encoder.mamba_layers.{i}", f"time_layers.{i}.mamba"
        for name in ("norm.weight", "norm.bias", "in_proj.weight", "out_proj.weight"):
            ours[f"{block}.{name}"] = keys.take(f"{theirs}.{name}")
        for name in ("A_log", "D", "dt_proj.weight", "dt_proj.bias"):
            ours[f"{block}.ssm.{name}"] = keys.take(f"{theirs}.ssm.{name}")
        for kind in ("weight", "bias"):
            ours[f"{block}.ssm.conv.{kind}"] = keys.take(f"{theirs}.ssm.conv1d.{kind}")
        parts = [keys.take(f"{theirs}.ssm.{name}.weight") for name in ("x_proj_dt", "B_proj", "C_proj")]
        widths = {part.shape[1:] for part in parts}
        ours[f"{block}.ssm.x_proj.weight"] = torch.cat(parts) if len(widths) == 1 else torch.empty(0)
    for kind in ("weight", "bias"):
        ours[f"band_layers.0.linear.{kind}"] = keys.take(f"encoder.cross_band_net.0.{kind}")
        ours[f"band_layers.0.inner_norm.{kind}"] = keys.take(f"encoder.cross_band_net.1.{kind}")
        ours[f"band_layers.0.norm.{kind}"] = keys.take(f"encoder.cross_band_norm.{kind}")
    config = ModelConfig(
        channels=channels,
        layers=layers,
        core="mamba",
        norm="layer",
        crossband="pointwise",
        crossband_layers=1,
        decoder_expansion=hidden / channels,
        d_state=states,
        expand=inner // channels,
        d_conv=taps,
        ssm_skip="shadowed",
        dt_init="wiped",
        clamps="on",
    )
    return config, ours


def load(state_dict: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert a state dict of the public BSRNN or MBS-Net code to a configuration and weights.

    Widths, depths, states and the decoder's expansion follow from the shapes. Keys of MBS-Net also imply the
    faults of its code, which weights do not show (`ssm_skip="shadowed"`, `dt_init="wiped"`, `clamps="on"`).
    If all keys start with `module.`, that prefix is dropped.

    Args:
        state_dict: key of the public code -> tensor.

    Returns:
        The configuration, and weights for `build_model(config).load_state_dict`.

    Raises:
        InputError: the keys do not belong to either network, or some are missing, left over or misshapen.
    """
    tensors = dict(state_dict)
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    keys = _Keys(tensors)
    if any(key.startswith("encoder.mamba_layers.") for key in tensors):
        name, (config, ours) = "MBS-Net", _mbsnet(keys)
    elif any(key.startswith("lstm_t") for key in tensors):
        name, (config, ours) = "BSRNN", _bsrnn(keys)
    else:
        raise InputError(
            "not a state dict of BSRNN (lstm_t1...) or MBS-Net (encoder.mamba_layers.0...); its keys: "
            f"{listed(sorted(tensors), 8) or 'none'}"
        )
    if keys.missing or keys.left:
        missing = f" missing keys: {listed(keys.missing, 8)};" if keys.missing else ""
        unexpected = f" unexpected keys: {listed(sorted(keys.left), 8)};" if keys.left else ""
        raise InputError(f"not a complete {name} state dict:{missing}{unexpected}".rstrip(";"))
    with torch.device("meta"):
        expected = {key: value.shape for key, value in build_model(config).state_dict().items()}
    wrong = [
        f"{key} is {tuple(ours[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if ours[key].shape != shape
    ]
    if wrong:
        raise InputError(f"shapes of this {name} state dict do not fit together: {listed(wrong, 8)}")
    return config, ours
