"""Checklists of conferences and challenges: templates filled from the report's JSON.

`GAP` marks what the authors must add. To add a checklist, add a file to `checklists/` or give a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.models.errors import InputError
from ablate.models.registry import suggestion

from .blocks import Block, BulletList, Sentence
from .fields import json_fields
from .model import AnalysisReport

FOLDER = Path(__file__).parent / "checklists"
SUFFIX = ".j2"
SHOWN = ("neurips-2026.md", "reforms.md")
"""Checklists that the form `checklist` shows."""


def templates() -> list[str]:
    """Names of the templates that come with the package."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template filled with the fields of a report's JSON.

    Args:
        template: a name of `templates()`, with or without its suffix, or the path of a Jinja file.
        values: the fields, including `facts`. The filter `gap` marks empty ones.

    Raises:
        InputError: the template does not exist, or uses a field that the report lacks.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    names = {name.rpartition(".")[0]: name for name in templates()}
    path = FOLDER / f"{names.get(template, template)}{SUFFIX}"
    path = path if path.is_file() else Path(template)
    if not path.is_file():
        raise InputError(f"no template {template!r}{suggestion(template, [*names])}; or name a file")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["gap"] = _gap
    try:
        return environment.from_string(path.read_text(encoding="utf-8")).render(values)
    except (TemplateError, TypeError) as error:
        raise InputError(
            f"template {template}: {error}; `ablate report --format json` has the fields"
        ) from None


def _gap(answer: str, missing: str = "the study does not record this", always: bool = False) -> str:
    """The answer, marked with what is missing if it is empty or `always` is set."""
    answer = answer.strip()
    return f"{answer} **GAP**: {missing}.".strip() if always or not answer else answer


def checklist_title(report: AnalysisReport) -> str:
    return f"{report.info.name}: checklists"


def checklist_blocks(report: AnalysisReport) -> Iterator[Block]:
    """A sentence on the gaps, and a bullet list for each checklist."""
    values = json_fields(report)
    lists = [fill(name, values).splitlines() for name in SHOWN]
    items = [[line.removeprefix("- ") for line in lines if line.startswith("- ")] for lines in lists]
    gaps = sum("**GAP**" in line for found in items for line in found)
    yield Sentence(f"Filled in from the study. **GAP** marks the {gaps} items that you need to complete.")
    for (title, *_), found in zip(lists, items, strict=True):
        yield BulletList(title.removeprefix("# "), found)
