"""Count the parameters of networks quickly, for grids with thousands of cells."""

from __future__ import annotations

from ablate.models.config import ModelConfig
from ablate.models.fields import PARTS, marks_of

Key = tuple[tuple[str, str], ...]


class Sizes:
    """Counts parameters part by part.

    A network is built only if one of its parts was not counted yet with the same values of that part's
    fields. Do not use it for plug-ins, whose parts may read any field.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[Key, int]] = {part: {} for part in PARTS}

    def of(self, config: ModelConfig) -> int:
        """The parameters of a network."""
        keys = self._keys(config)
        if any(keys[part] not in known for part, known in self._known.items()):
            import torch

            from ablate.models import build_model
            from ablate.models.summary import parameters_by_part

            with torch.device("meta"):
                counts = parameters_by_part(build_model(config))
            for part, known in self._known.items():
                known[keys[part]] = counts.get(part, 0)
        return sum(known[keys[part]] for part, known in self._known.items())

    def _keys(self, config: ModelConfig) -> dict[str, Key]:
        fields = [
            (name, repr(value), marks_of(ModelConfig, name).parts)
            for name, value in config.result_fields().items()
        ]
        return {
            part: tuple((name, value) for name, value, parts in fields if not parts or part in parts)
            for part in PARTS
        }
