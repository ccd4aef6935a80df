"""Names for the interchangeable parts of a network; the names are what a configuration may say."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from .errors import InputError


class Registry:
    """Parts by name. A built-in part is given as `"module:attribute"` and imported when first used.

    Args:
        kind: what the parts are, for messages ("core", "cross-band module", ...).
        parts: name -> factory, or name -> "module:attribute".
    """

    def __init__(self, kind: str, parts: dict[str, str | Callable[..., Any]]) -> None:
        self.kind = kind
        self._parts = dict(parts)
        self._built_in = frozenset(parts)

    def register(self, name: str, factory: Callable[..., Any]) -> None:
        """Add a part, as a plug-in does.

        Raises:
            InputError: the name is taken by another part.
        """
        known = self._parts.get(name)
        if known is not None and known is not factory:
            raise InputError(f"{self.kind} {name!r} exists already; choose another name")
        self._parts[name] = factory

    def check(self, name: str) -> str:
        """Return `name` if it is known; raise InputError naming the nearest known one otherwise."""
        if name not in self._parts:
            raise InputError(f"unknown {self.kind} {name!r}{suggestion(name, self._parts)}")
        return name

    def built_in(self, name: str) -> bool:
        """Whether the part is this project's own, not a plug-in's."""
        return name in self._built_in

    def __getitem__(self, name: str) -> Any:
        part = self._parts[self.check(name)]
        if isinstance(part, str):
            module, attribute = part.split(":")
            part = self._parts[name] = getattr(import_module(module), attribute)
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)


def suggestion(name: str, known: Any) -> str:
    """The tail of an error message on an unknown name: "; did you mean ...? Known: ..."."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(map(str, known))}"
