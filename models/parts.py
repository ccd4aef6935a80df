"""The interchangeable parts of a network by name. Needs no torch."""

from __future__ import annotations

from typing import Any

from .registry import Registry

ARCHITECTURES = Registry(
    "architecture",
    {
        "band-split": "ablate.models.network:BandSplitNetwork",
        "dual-branch": "ablate.models.dual_branch:DualBranchNetwork",
    },
)
BANDS = Registry(
    "band layout",
    {name: f"ablate.models.layouts:{name}" for name in ("bsrnn", "uniform", "mel", "bark", "one")},
)
CORES = Registry(
    "core",
    {
        "lstm": "ablate.models.recurrent:LSTMLayer",
        "gru": "ablate.models.recurrent:GRULayer",
        "mamba": "ablate.models.mamba:MambaLayer",
        "attention": "ablate.models.attention:AttentionLayer",
        "mamba2": "ablate.models.mamba2:Mamba2Layer",
        "tcn": "ablate.models.tcn:TCNLayer",
        "conformer": "ablate.models.conformer:ConformerLayer",
        "xlstm": "ablate.models.xlstm:XLSTMLayer",
    },
)
CROSSBANDS = Registry(
    "cross-band module",
    {
        "none": "ablate.models.crossband:NoCrossBand",
        "pointwise": "ablate.models.crossband:Pointwise",
        "bilstm": "ablate.models.crossband:BandBiLSTM",
        "bimamba": "ablate.models.crossband:BandBiMamba",
    },
)
DECODERS = Registry(
    "decoder",
    {"per-band": "ablate.models.decoders:PerBandDecoder", "shared": "ablate.models.decoders:SharedDecoder"},
)
HEADS = Registry(
    "head",
    {
        "filter": "ablate.models.heads:FilterHead",
        "mask": "ablate.models.heads:MaskHead",
        "magnitude-phase": "ablate.models.heads:MagnitudePhaseHead",
        "magnitude-only": "ablate.models.heads:MagnitudeOnlyHead",
    },
)

PLUGGABLE = {
    "architecture": ARCHITECTURES,
    "core": CORES,
    "crossband": CROSSBANDS,
    "decoder": DECODERS,
    "head": HEADS,
}
"""Field of `ModelConfig` that names a part -> the registry of such parts."""


def expect_parts(model: Any) -> None:
    """Accept the parts that a stored network names, even if their plug-ins are not imported.

    The network can then be shown, but not built.
    """
    if isinstance(model, dict):
        for field, registry in PLUGGABLE.items():
            registry.expect(model.get(field))
        BANDS.expect(str(model.get("bands")).partition(":")[0])
