"""The size, cost, receptive field and latency of a network, computed without its weights."""

from __future__ import annotations

import math
import sys
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .config import ARCHITECTURES, ModelConfig, resolve_model
from .declarations import frames_ahead, looks_ahead, reach
from .interface import SAMPLE_RATE, Interface
from .mamba import SelectiveSSM
from .network import build_model

ATTENDING = {"attention", "conformer"}
"""Cores whose receptive field is unbounded because of attention."""


@lru_cache(maxsize=4096)
def parameters(config: ModelConfig) -> int:
    """Count a network's parameters without initialising them.

    Raises:
        InputError: the parts do not fit together.
    """
    return sum(p.numel() for p in _without_weights(config).parameters())


@lru_cache(maxsize=4096)
def trained_parameters(config: ModelConfig) -> int:
    """As `parameters`, without those that need no gradient."""
    return sum(p.numel() for p in _without_weights(config).parameters() if p.requires_grad)


def _without_weights(config: ModelConfig) -> nn.Module:
    """The network on the meta device, or on the CPU if a plug-in's network cannot be built there."""
    try:
        with torch.device("meta"):
            return build_model(config)
    except Exception:  # a plug-in may do anything
        return build_model(config)


def _parts(model: nn.Module) -> dict[str, list[nn.Module]]:
    parts = getattr(model, "parts", None)
    return parts() if callable(parts) else {}


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of `split`, `encoder` (time layers), `cross-band` and `decoder` (with the head).

    If a network does not name its parts, all parameters are under `other`.
    """
    counts = {
        name: sum(p.numel() for module in modules for p in module.parameters())
        for name, modules in _parts(model).items()
    }
    rest = sum(p.numel() for p in model.parameters()) - sum(counts.values())
    return counts | ({"other": rest} if rest else {})


@lru_cache(maxsize=4096)
def rate_of(config: ModelConfig) -> int:
    """Sample rate of a configuration's network in Hz; only a plug-in's network has to be built for this."""
    if ARCHITECTURES.built_in(config.architecture):
        return SAMPLE_RATE
    return Interface.of(build_model(config)).sample_rate


def macs_per_second(config: ModelConfig) -> float:
    """Multiply-adds of matrix products and scans for one second of audio.

    A scan counts as three for each state, channel and step: decay, input and output.
    """
    try:
        return _macs(config, "meta")
    except Exception:  # a plug-in's network may need values
        return _macs(config, "cpu")


def _macs(config: ModelConfig, device: str) -> float:
    macs = 0

    def scan(module: SelectiveSSM, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal macs
        macs += inputs[0].numel() * (3 * module.states + 1)

    def without_steps(rnn: nn.LSTM | nn.GRU) -> Any:
        ways = 2 if rnn.bidirectional else 1

        def forward(x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            nonlocal macs
            weights = sum(p.numel() for name, p in rnn.named_parameters() if name.startswith("weight"))
            macs += x[..., 0].numel() * weights
            rows = x.shape[:1] if rnn.batch_first else x.shape[1:2]
            last = x.new_zeros(ways * rnn.num_layers, *(rows if x.dim() == 3 else ()), rnn.hidden_size)
            out = x.new_zeros(*x.shape[:-1], ways * (rnn.proj_size or rnn.hidden_size))
            return out, (last, last) if isinstance(rnn, nn.LSTM) else last

        return forward

    with torch.device(device), torch.no_grad():
        model = build_model(config).eval()
        interface = Interface.of(model)
        for module in model.modules():
            if isinstance(module, nn.LSTM | nn.GRU):
                module.forward = without_steps(module)  # type: ignore[method-assign]
            elif isinstance(module, SelectiveSSM):
                module.register_forward_hook(scan)
        places = interface.sample_rate // interface.step
        signal = (
            torch.zeros(1, places)
            if interface.bins is None
            else torch.zeros(1, interface.bins, places, dtype=torch.complex64)
        )
        with FlopCounterMode(display=False) as counter, redirect_stdout(sys.stderr):
            interface.outputs(model, signal)
    return float(macs + counter.get_total_flops() / 2)


def receptive_field(model: nn.Module) -> float | None:
    """Number of input frames that an output frame depends on, normalisation statistics aside.

    Infinite for a recurrent core; None if a part does not declare its reach.
    """
    modules = [
        module for part in ("encoder", "cross-band", "decoder") for module in _parts(model).get(part, [])
    ]
    reaches = [reach(module) for module in modules if hasattr(module, "reach") or not _is_pointwise(module)]
    if not reaches or any(r is None for r in reaches):
        return None
    return 1 + sum(r - 1 for r in reaches if r is not None)


def _is_pointwise(module: nn.Module) -> bool:
    kinds = (nn.LayerNorm, nn.Linear, nn.Tanh, nn.Sequential)
    return all(isinstance(m, kinds) for m in module.modules())


def summarise(preset_or_config: str | ModelConfig) -> dict[str, Any]:
    """Size, cost, reach and latency of a network.

    Returns:
        `parameters` and `parameters_by_part`; `macs_per_second` (of audio); `receptive_field_frames` and
        `receptive_field_seconds` (None if unbounded or not declared) and `receptive_field` in words;
        `causal` (whether no time layer looks ahead; None if not declared);
        `look_ahead_frames` of time layers and the head's filter (samples for a network of waveforms; None if
        unbounded or not declared); `normalisation_sees_future` (whether a norm's statistics run over the
        whole utterance); and `latency_ms`, the algorithmic latency: the window plus one hop (8 ms by default)
        for each frame ahead; None if the network needs the whole utterance.

    Raises:
        ValueError: the preset is unknown, or the parts do not fit together.
    """
    config = resolve_model(preset_or_config)
    model = _without_weights(config)
    interface, parts = Interface.of(model), _parts(model)
    frames = receptive_field(model)
    finite = frames if frames is not None and math.isfinite(frames) else None
    whole = any(getattr(module, "statistics", None) == "utterance" for module in model.modules())
    causal: bool | None
    if parts:
        causal = not any(looks_ahead(module) for module in parts.get("encoder", []))
        ahead = sum(frames_ahead(module) for part in ("encoder", "decoder") for module in parts.get(part, []))
    else:
        said = getattr(model, "looks_ahead", None)
        causal = None if said is None else not said
        ahead = math.inf if said is None else frames_ahead(model)
    bounded = int(ahead) if math.isfinite(ahead) else None
    latency = None if whole or bounded is None else _milliseconds(interface, bounded + 1)
    return {
        "parameters": parameters(config),
        "parameters_by_part": parameters_by_part(model),
        "macs_per_second": macs_per_second(config),
        "receptive_field_frames": finite,
        "receptive_field_seconds": None if finite is None else _seconds(interface, finite),
        "receptive_field": _words(interface, frames, config.core),
        "causal": causal,
        "look_ahead_frames": bounded,
        "normalisation_sees_future": whole,
        "latency_ms": None if latency is None else int(latency) if latency == int(latency) else latency,
    }


def _words(interface: Interface, frames: float | None, core: str) -> str:
    if frames is None:
        return "not declared"
    if math.isinf(frames):
        return f"unbounded ({'attention' if {*core.split('+')} & ATTENDING else 'recurrent'})"
    return f"{frames:.0f} frames ({_seconds(interface, frames):.3f} s)"


def _seconds(interface: Interface, frames: float) -> float:
    return _milliseconds(interface, frames) / 1000


def _milliseconds(interface: Interface, frames: float) -> float:
    """Duration of consecutive frames, from the first sample to the last."""
    return (interface.window + interface.step * (frames - 1)) / (interface.sample_rate / 1000)
