"""How results show themselves in a notebook."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ShownInNotebooks:
    """Its HTML is made by `reports.notebook`: named, not imported, for imports go to the left only."""

    def _repr_html_(self) -> str:
        return str(import_module("ablate.reports.notebook").html_of(self))

    def plot(self, name: str) -> Any:
        """A figure of the report by its name, as Matplotlib's; e.g. waterfall, forest, cells, interactions.

        Raises:
            InputError: there is no such figure, or no data for it here.
        """
        return import_module("ablate.reports.notebook").figure_of(self, name)
