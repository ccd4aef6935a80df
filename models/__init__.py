"""Band-split speech-enhancement networks from one parametrised factory.

A model maps a complex spectrogram `(batch, frequency, time)` of 257 bins (16 kHz, 512-point
Hann window, hop 128) to one of the same shape. Importing this package imports neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import reference
    from .config import PRESETS, ModelConfig
    from .interface import declare
    from .network import build_model
    from .parts import ARCHITECTURES, BANDS, CORES, CROSSBANDS, DECODERS, HEADS
    from .scan import selective_scan
    from .transform import Transform

__all__ = [
    "ARCHITECTURES",
    "BANDS",
    "CORES",
    "CROSSBANDS",
    "DECODERS",
    "HEADS",
    "PRESETS",
    "ModelConfig",
    "Transform",
    "build_model",
    "declare",
    "reference",
    "selective_scan",
]

_LATE = {
    "Transform": "ablate.models.transform",
    "build_model": "ablate.models.network",
    "declare": "ablate.models.interface",
    "selective_scan": "ablate.models.scan",
}


def __getattr__(name: str) -> Any:
    if name == "reference":
        return import_module("ablate.models.reference")
    if name in __all__:
        return getattr(import_module(_LATE.get(name, "ablate.models.config")), name)
    raise AttributeError(f"module 'ablate.models' has no attribute {name!r}")
