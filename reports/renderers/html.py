"""Blocks as HTML: a page that works offline, and a fragment for notebooks."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

from ..blocks import Block, Document, Pictures, Sounds

if TYPE_CHECKING:
    from jinja2 import Template

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'"
"""Content security policy: the page cannot load anything from outside."""


def render(document: Document, out: TextIO) -> None:
    """Write a self-contained page: text, inline SVG, and spectrograms and audio as data URIs."""
    page = _template("page.html.j2")
    out.write(page.render(document=document, groups=_grouped(document, False), policy=POLICY))


def fragment(document: Document) -> str:
    """The blocks as an HTML fragment for use in another page."""
    return _template("fragment.html.j2").render(document=document, groups=_grouped(document, True))


def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ablate.reports.renderers", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _grouped(document: Document, shared: bool) -> list[tuple[str, list[dict[str, Any]]]]:
    """The blocks by section, with their figures and audio; empty ones are left out."""
    made = ((section, _made(block, shared)) for section, block in document.blocks)
    there = [(section, block) for section, block in made if block is not None]
    return [
        (section, [block for _, block in group])
        for section, group in groupby(there, key=lambda pair: pair[0])
    ]


def _made(block: Block, shared: bool) -> dict[str, Any] | None:
    found: dict[str, Any] = {"kind": type(block).__name__, "block": block}
    if isinstance(block, Pictures):
        figures = [figure for name in block.names if (figure := block.draw(name)) is not None]
        found["drawn"] = [(figure, figure.svg(shared)) for figure in figures]
        return found if figures else None
    if isinstance(block, Sounds):
        found["utterances"], found["note"] = block.make()
        return found if found["utterances"] else None
    return found
