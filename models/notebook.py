"""Display of results in notebooks."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ShownInNotebooks:
    """`reports.notebook` makes the HTML; it is imported late, as imports go to the left only."""

    def _repr_html_(self) -> str:
        return str(import_module("ablate.reports.notebook").html_of(self))

    def plot(self, name: str) -> Any:
        """A figure of the report by its name, as Matplotlib's; e.g. waterfall, forest, cells, interactions.

        Raises:
            InputError: the figure is unknown, or there is no data for it.
        """
        return import_module("ablate.reports.notebook").figure_of(self, name)
