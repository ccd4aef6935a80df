"""A registry of the interchangeable parts of a network, by the names that configurations use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from .errors import InputError, nearest


class Registry:
    """Parts by name. A built-in part is given as `"module:attribute"` and imported when first used.

    Args:
        kind: the word for a part in messages ("core", "cross-band module", ...).
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
        known = self._parts.get(name, self._not_imported)
        if known not in (factory, self._not_imported):
            raise InputError(f"{self.kind} {name!r} exists already; choose another name")
        self._parts[name] = factory

    def expect(self, name: Any) -> None:
        """Accept a stored configuration's part although its plug-in is not imported; it cannot be built."""
        if isinstance(name, str):
            self._parts.setdefault(name, self._not_imported)

    def expects(self, name: str) -> bool:
        """Whether a name was accepted by `expect` and its plug-in is not imported."""
        return self._parts.get(name) == self._not_imported

    def _not_imported(self, *_: Any) -> Any:
        raise InputError(f"this {self.kind} belongs to a plug-in; name its file with --plugin")

    def check(self, name: str) -> str:
        """Return `name` if it is known; else raise an InputError that suggests the nearest known name."""
        if name not in self._parts:
            raise InputError(f"unknown {self.kind} {name!r}{suggestion(name, self._parts)}")
        return name

    def built_in(self, name: str) -> bool:
        """Whether the part is built in rather than registered by a plug-in."""
        return name in self._built_in

    def __getitem__(self, name: str) -> Any:
        part = self._parts[self.check(name)]
        if isinstance(part, str):
            module, attribute = part.split(":")
            part = self._parts[name] = getattr(import_module(module), attribute)
        return part

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._parts if not self.expects(name))


MANY = 20
"""An error lists all known names if there are at most this many, else only the nearest ones."""


def suggestion(name: str, known: Iterable[Any]) -> str:
    """The tail of an error message on an unknown name: "; did you mean ...? Known: ..."."""
    names = [str(item) for item in known]
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else "."
    return hint if near and len(names) > MANY else f"{hint} Known: {', '.join(names)}"
