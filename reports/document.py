"""A report as a list of blocks: their order, and the forms that show them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from . import caveats, details, tables
from .blocks import Block, BulletList, Document, NamedValues, Part, Pictures, Sentence, Sounds, select
from .checklist import checklist_blocks, checklist_title
from .fields import fields, rows
from .model import AnalysisReport
from .summary import answer

Maker = Callable[[AnalysisReport], Iterable[Block | None]]

SECTIONS = {
    "effects": "Where the gap comes from",
    "cells": "Cells",
    "conditions": "By condition",
    "learning": "Learning",
    "cost": "Cost",
    "listen": "Listen",
    "published": "Published results",
    "provenance": "Provenance",
}
"""Section -> title, in the order of the page; sections without blocks are left out."""


def document(report: AnalysisReport, form: str) -> Document:
    """The content of a report in one form. A form that a plug-in adds gets the content of the HTML page."""
    title = checklist_title(report) if form == "checklist" else report.title
    return Document(
        report.info.name, title, select(PARTS, report, form if form in KNOWN else "html"), SECTIONS
    )


def _opening(report: AnalysisReport) -> Iterator[Block]:
    for line in caveats.warnings(report):
        yield Sentence(line, "warning")
    yield Sentence(answer(report), "answer")
    yield Sentence(report.headline)


def _sums(report: AnalysisReport) -> Iterator[Block]:
    yield from map(Sentence, filter(None, (report.sum_line, caveats.untoggled_line(report))))


def _notes(report: AnalysisReport) -> Iterator[Block]:
    if notes := caveats.notes(report):
        yield BulletList("How to read this", notes)


def _problems(report: AnalysisReport) -> Iterator[Block]:
    if problems := caveats.run_problems(report):
        yield BulletList("Runs without a result", problems)


def _conditions(report: AnalysisReport) -> Iterator[Block | None]:
    if report.by:
        yield Sentence("Subsets of one test set: descriptive, not corrected for multiple comparisons.")
        yield from _pictures("conditions")(report)
        yield from details.condition_tables(report)


def _measured_at(report: AnalysisReport) -> Iterator[Block]:
    yield NamedValues("Measured at", caveats.measured_at(report), local=("scores from",))


def _plan(report: AnalysisReport) -> Iterator[Block]:
    plan = report.info.plan
    if plan is None:
        return
    facts = [
        ("study", plan.name),
        ("planned", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(plan.created))),
        ("commit of the folder it was planned in", plan.git_commit),
        ("versions", ", ".join(f"{package} {version}" for package, version in plan.versions.items())),
        ("corpus digest", plan.corpus.digest),
        ("test digest", plan.corpus.test_digest),
        ("corpus notes", "; ".join(plan.corpus.notes)),
        ("started from", plan.start_from),
        ("plugins", ", ".join(plan.plugins)),
    ]
    yield NamedValues("Plan", [(name, value) for name, value in facts if value])


def _audit(report: AnalysisReport, remedies: bool = False) -> Iterator[Block]:
    if lines := caveats.audit_lines(report, remedies):
        yield BulletList("Audit", lines)
    elif remedies and report.info.plan is not None:
        yield Sentence(
            "The audit found nothing." if not report.info.plan.audit.skipped else "The audit was not run."
        )


def _sounds(report: AnalysisReport) -> Iterator[Block]:
    from .listening import listening

    yield Sounds(partial(listening, report))


def _pictures(*names: str) -> Maker:
    def make(report: AnalysisReport) -> Iterator[Block]:
        from .figures import draw_one

        yield Pictures(names, partial(draw_one, report))

    return make


def _tables(*make: Callable[[AnalysisReport], Block | None]) -> Maker:
    return lambda report: (each(report) for each in make)


PRINTED = "table md latex html"
SHOWN = f"{PRINTED} notebook"

PARTS = (
    Part("", _opening, SHOWN),
    Part("effects", _tables(tables.effects_table), SHOWN),
    Part("effects", _sums, SHOWN),
    Part("effects", _tables(tables.guardrails_table, tables.test_sets_table), SHOWN),
    Part("effects", _pictures("waterfall", "forest"), "html notebook"),
    Part("effects", _notes, SHOWN),
    Part("effects", _tables(tables.claims_table), SHOWN),
    Part("effects", _tables(tables.units_table), SHOWN),
    Part("effects", _tables(details.matched_table), SHOWN),
    Part("effects", _tables(tables.mains_table), "md html"),
    Part("effects", _tables(tables.interactions_table), "table md html"),
    Part("effects", _pictures("interactions"), "html"),
    Part("effects", _tables(tables.pooled_table), "html"),
    Part("cells", _pictures("cells"), "html"),
    Part("cells", _tables(tables.cells_table), "md latex html notebook"),
    Part("cells", _tables(partial(tables.cells_table, wide=False)), "table"),
    Part("cells", _tables(details.ranking_table), "md html"),
    Part("cells", _problems, "table md html notebook"),
    Part("conditions", _conditions, "html"),
    Part("learning", _pictures("curves"), "html"),
    Part("learning", _tables(details.convergence_table), "html"),
    Part("learning", _tables(tables.slopes_table), "md html"),
    Part("learning", _pictures("lengths"), "html"),
    Part("learning", _tables(tables.lengths_table), PRINTED),
    Part("cost", _pictures("pareto"), "html"),
    Part("cost", _tables(details.cost_table), "html"),
    Part("listen", _sounds, "html"),
    Part("published", lambda report: [details.published_table()], "html"),
    Part("provenance", _measured_at, SHOWN),
    Part("provenance", _plan, "html"),
    Part("provenance", partial(_audit, remedies=True), "html"),
    Part("provenance", _audit, "table md"),
    Part("provenance", _tables(details.runs_table), "html"),
    Part("", checklist_blocks, "checklist"),
    Part("", fields, "json"),
    Part("", rows, "csv"),
)
KNOWN = {form for part in PARTS for form in part.forms.split()}
