"""Which of my changes cost the PESQ? The public API; importing it imports neither torch nor pandas.

The packages are `ablate.models`, `ablate.training`, `ablate.ablations`, `ablate.studies`, `ablate.reports`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.models import PRESETS, ModelConfig, build_model, selective_scan
    from ablate.reports import analyze
    from ablate.training.metrics import score

__all__ = ["PRESETS", "ModelConfig", "analyze", "build_model", "score", "selective_scan"]

_PACKAGES = {
    "PRESETS": "ablate.models",
    "ModelConfig": "ablate.models",
    "build_model": "ablate.models",
    "selective_scan": "ablate.models",
    "score": "ablate.training.metrics",
    "analyze": "ablate.reports",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return getattr(import_module(_PACKAGES[name]), name)
    raise AttributeError(f"module 'ablate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
