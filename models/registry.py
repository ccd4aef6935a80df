"""Names of the interchangeable parts of a network, as configurations use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from .errors import InputError, nearest


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
        known = self._parts.get(name, self._not_imported)
        if known not in (factory, self._not_imported):
            raise InputError(f"{self.kind} {name!r} exists already; choose another name")
        self._parts[name] = factory

    def expect(self, name: Any) -> None:
        """Let a stored configuration name a part whose plug-in is not imported; it cannot be built."""
        if isinstance(name, str):
            self._parts.setdefault(name, self._not_imported)

    def expects(self, name: str) -> bool:
        """Whether a part is only expected."""
        return self._parts.get(name) == self._not_imported

    def _not_imported(self, *_: Any) -> Any:
        raise InputError(f"this {self.kind} belongs to a plug-in; name its file with --plugin")

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
        return (name for name in self._parts if not self.expects(name))


MANY = 20
"""Up to so many known names are all listed in an error, else only the nearest."""


def suggestion(name: str, known: Iterable[Any]) -> str:
    """The tail of an error message on an unknown name: "; did you mean ...? Known: ..."."""
    names = [str(item) for item in known]
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else "."
    return hint if near and len(names) > MANY else f"{hint} Known: {', '.join(names)}"
