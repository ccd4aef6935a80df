"""Display of results in notebooks."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ShownInNotebooks:
    """Mixin that displays an object as HTML in notebooks and gives its figures.

    `reports.notebook` makes the HTML. It is imported late, because `models` must not depend on `reports`.
    """

    def _repr_html_(self) -> str:
        return str(import_module("ablate.reports.notebook").html_of(self))

    def plot(self, name: str) -> Any:
        """Draw a figure of the report with Matplotlib, e.g. waterfall, forest, cells or interactions.

        Raises:
            InputError: the figure is unknown, or the report has no data for it.
        """
        return import_module("ablate.reports.notebook").figure_of(self, name)
