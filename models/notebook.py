"""How results show themselves in a notebook."""

from __future__ import annotations

from importlib import import_module


class ShownInNotebooks:
    """Its HTML is made by `reports.notebook`: named, not imported, for imports go to the left only."""

    def _repr_html_(self) -> str:
        return str(import_module("ablate.reports.notebook").html_of(self))
