"""Findings with file and line, as SARIF 2.1.0 and as GitHub annotations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .finding import CODES, Finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
Place = tuple[str, int]
"""A file, relative to the working directory, and a line in it, from 1."""


def place(where: str, networks: Iterable[nn.Module], otherwise: Path | None) -> Place | None:
    """The source line that creates the part of a network named by a finding, or that part's class.

    Args:
        where: the finding's `where`, which may contain a path in a network (`encoder.gate.scale`).
        networks: the networks that the finding may be about.
        otherwise: the file to name if no source below the working directory creates that part.
    """
    words = re.findall(r"[A-Za-z_]\w*(?:\.\w+)*", where)
    for network in networks:
        for word in words:
            parts = word.split(".")
            for length in range(len(parts) - 1, -1, -1):
                owner = _submodule(network, parts[:length])
                made = owner is not None and hasattr(owner, parts[length])
                if made and (found := _written(type(owner), parts[length])):
                    return found
    shown = _below(otherwise) if otherwise is not None else None
    return (shown, 1) if shown else None


def _submodule(network: nn.Module, parts: Sequence[str]) -> nn.Module | None:
    try:
        return network.get_submodule(".".join(parts))
    except AttributeError:
        return None


def _written(kind: type, attribute: str) -> Place | None:
    """The line that assigns an attribute in a class or its bases, else the line of the class itself."""
    own = [(cls, shown) for cls in kind.__mro__ if (shown := _below(_source(cls)))]
    for cls, shown in own:
        lines, first = inspect.getsourcelines(cls)
        for number, line in enumerate(lines, first):
            if re.search(rf"""self\.{attribute}\b\s*[:=]|\(\s*["']{attribute}["']""", line):
                return shown, number
    return (own[0][1], inspect.getsourcelines(own[0][0])[1]) if own else None


def _source(kind: type) -> Path | None:
    try:
        return Path(inspect.getfile(kind))
    except (OSError, TypeError):
        return None


def _below(path: Path | None) -> str | None:
    """The path relative to the working directory; None outside it or in an installed package."""
    here = Path.cwd()
    if path is None or not (path := path.resolve()).is_relative_to(here) or "site-packages" in path.parts:
        return None
    return path.relative_to(here).as_posix()


def sarif(
    found: Sequence[tuple[Finding, Place | None]], ignored: frozenset[str], version: str
) -> dict[str, Any]:
    """A SARIF 2.1.0 log for code scanning; ignored errors are suppressed results."""
    codes = list(dict.fromkeys(finding.code for finding, _ in found))
    rules = [
        {
            "id": code,
            "name": "".join(word.capitalize() for word in CODES[code][0].split("-")),
            "shortDescription": {"text": CODES[code][0].replace("-", " ")},
            "defaultConfiguration": {"level": CODES[code][1]},
        }
        for code in codes
    ]
    results = []
    for finding, at in found:
        result: dict[str, Any] = {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": finding.severity,
            "message": {"text": _sentence(finding)},
        }
        if at is not None:
            physical = {"artifactLocation": {"uri": at[0]}, "region": {"startLine": at[1]}}
            result["locations"] = [{"physicalLocation": physical}]
        if finding.severity == "error" and finding.code in ignored:
            result["suppressions"] = [{"kind": "external"}]
        results.append(result)
    driver = {"name": "ablate", "version": version, "rules": rules}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def github(found: Sequence[tuple[Finding, Place | None]], ignored: frozenset[str]) -> list[str]:
    """Workflow commands that GitHub shows as annotations of the changed lines."""
    lines = []
    for finding, at in found:
        fails = finding.severity == "error" and finding.code not in ignored
        fields = [] if at is None else [f"file={_escaped(at[0], ',:')}", f"line={at[1]}"]
        fields.append(f"title={_escaped(f'{finding.code} {finding.name}', ',:')}")
        lines.append(f"::{'error' if fails else 'notice'} {','.join(fields)}::{_escaped(_sentence(finding))}")
    return lines


def _sentence(finding: Finding) -> str:
    where = "" if finding.where in finding.evidence else f"{finding.where}: "
    return f"{where}{finding.evidence}. To fix it: {finding.remedy}."


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
