"""Every form shows every block that is meant for it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html import unescape

import pytest

from ablate.reports.blocks import Block, BulletList, NamedValues, Sentence, Table
from ablate.reports.document import PARTS, SECTIONS, document
from ablate.reports.renderers import latex, markdown, write

ESCAPES = {"latex": latex._numbers, "md": markdown.escape}


def texts(block: Block, form: str) -> Iterator[str]:
    """What a form has to show of a block."""
    match block:
        case Sentence(text):
            yield text
        case Table(title, head, rows, caption):
            yield from (title, caption, *head, *(cell for row in rows for cell in row))
        case BulletList(title, lines):
            yield from lines if form == "latex" else (title, *lines)
        case NamedValues(_, pairs, local):
            yield from (value for name, value in pairs if form != "latex" or name not in local)


@pytest.mark.parametrize("form", ["table", "md", "latex", "html"])
def test_a_form_shows_every_text_of_its_blocks(report, form) -> None:
    out = io.StringIO()
    write(report, form, out)
    shown = out.getvalue()
    if form == "html":
        shown = unescape(re.sub(r"</?(?:span|strong)[^>]*>", "", shown))
    shown = " ".join(shown.split())
    blocks = document(report, form).blocks
    assert len(blocks) >= 10
    for _, block in blocks:
        for text in texts(block, form):
            escaped = ESCAPES.get(form, str)(text)
            if escaped.startswith(("contradicted", "supported", "undecided", "negligible")):
                escaped = escaped.split(", ")[0]
            assert " ".join(escaped.split()) in shown, (form, block)


def test_sections_are_whole_and_every_part_is_of_one() -> None:
    order = [part.section for part in PARTS if part.section]
    assert set(order) == set(SECTIONS)
    assert order == sorted(order, key=list(SECTIONS).index)


def test_forms_for_print_and_screen_tell_the_same_first(report) -> None:
    first = [document(report, form).blocks[:3] for form in ("table", "md", "latex", "html", "notebook")]
    assert all(blocks == first[0] for blocks in first)
