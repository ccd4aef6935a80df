"""The report as one HTML page that opens without a network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from ablate.ablations.inference.analysis import records

from .. import caveats
from ..cost import COSTS
from ..figures import draw_all
from ..formatting import LABELS, human, interval, p_value, signed
from ..model import AnalysisReport
from ..published import CAPTION, CONVENTION, PUBLISHED
from ..summary import answer
from ..tables import (
    cells_table,
    claims_table,
    corpora_table,
    effects_head,
    effects_rows,
    guards_table,
    lengths_table,
    slopes_table,
)
from .audio import listening

if TYPE_CHECKING:
    import pandas as pd

    from ablate.studies.plan import Plan

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'"
"""What the page may load: nothing from outside itself."""


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write the page: text, inline SVG, spectrograms and audio as data, no address of anything else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ablate.reports.renderers", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    out.write(environment.get_template("page.html.j2").render(content(report)))


def content(report: AnalysisReport) -> dict[str, Any]:
    """What the template prints."""
    sounds, sounds_note = listening(report)
    rows = effects_rows(report.factors)
    closing = effects_rows([row for row in (report.not_toggled, report.gap) if row is not None])
    return {
        "report": report,
        "answer": answer(report),
        "bounds": {
            "warnings": caveats.warnings(report),
            "untoggled": caveats.untoggled_line(report),
            "measured_at": caveats.measured_at(report),
            "problems": caveats.run_problems(report),
            "notes": caveats.notes(report),
        },
        "policy": POLICY,
        "head": effects_head(report),
        "rows": rows,
        "closing": closing,
        "figures": {figure.name: (figure, figure.svg()) for figure in draw_all(report)},
        "mains": [[r.name, r.estimate, r.interval, p_value(r.data.get("p_holm"))] for r in report.mains],
        "interactions": [[r.name, r.estimate, r.interval] for r in report.interactions],
        "beside": [found for found in (guards_table(report), corpora_table(report)) if found is not None],
        "cells": cells_table(report),
        "conditions": [_by(report, column, frame) for column, frame in report.by.items()],
        "costs": [
            [report.short(cost.cell), *(human(getattr(cost, key), key) for key in COSTS)]
            for cost in report.costs
        ],
        "cost_head": ["cell", *COSTS.values()],
        "devices": sorted({device for cost in report.costs for device in cost.devices}),
        "convergence": [
            [
                report.short(c.cell),
                f"{c.reached} of {c.seeds}",
                f"{c.steps_to_threshold:,.0f}" if c.steps_to_threshold is not None else "",
                f"{c.seconds_to_threshold / 60:,.1f}" if c.seconds_to_threshold is not None else "",
                f"{c.area:.3f}" + (f" ± {c.area_sd:.3f}" if c.area_sd is not None else ""),
            ]
            for c in report.convergence
        ],
        "claims": claims_table(report),
        "slopes": slopes_table(report),
        "lengths": lengths_table(report),
        "threshold": report.convergence[0].threshold if report.convergence else None,
        "sounds": sounds,
        "sounds_note": sounds_note,
        "published": PUBLISHED,
        "published_caption": f"{CAPTION} {CONVENTION}",
        "runs": [
            [
                report.short(run.cell),
                str(run.seed),
                run.state if run.scored or run.state != "done" else "done, not scored",
                run.training,
                run.evaluation,
            ]
            for run in report.info.runs
        ],
        "audit": report.info.plan.audit if report.info.plan else None,
        "provenance": _provenance(report.info.plan),
        "pooled": [
            [str(r["name"]), str(r["kind"]), signed(r["estimate"]), interval(r["low"], r["high"])]
            for r in records(report.analysis.pooled)
            if r["kind"] in ("gap", "main")
        ],
    }


def _by(report: AnalysisReport, column: str, frame: pd.DataFrame) -> dict[str, Any]:
    mains = list(dict.fromkeys(frame.loc[frame["kind"] == "main", "name"]))
    has_gap = bool((frame["kind"] == "gap").any())
    base, baseline = report.analysis.base_cell, report.analysis.baseline
    reference = [cell for cell in (base, baseline) if cell is not None]
    head = [
        LABELS.get(column, column),
        "utterances",
        *(report.short(cell) for cell in reference),
        *(["gap"] if has_gap else []),
        *mains,
    ]
    body = []
    for value, part in frame.groupby(column, sort=True, observed=True):
        rows = {(r["kind"], r["name"]): r for r in records(part)}
        line = [f"{value:g}" if isinstance(value, float) else str(value), str(part["utterances"].iloc[0])]
        line += [
            f"{rows[('cell', cell)]['estimate']:.3f}" if ("cell", cell) in rows else "" for cell in reference
        ]
        wanted = ([("gap", "gap")] if has_gap else []) + [("main", name) for name in mains]
        line += [_effect(rows.get(key)) for key in wanted]
        body.append(line)
    titles = {"snr": "By signal-to-noise ratio", "noise": "By noise", "speaker": "By speaker"}
    return {"title": titles[column], "head": head, "rows": body}


def _effect(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{signed(row['estimate'])} {interval(row['low'], row['high'])}".strip()


def _provenance(plan: Plan | None) -> list[tuple[str, str]]:
    if plan is None:
        return []
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
    return [(name, value) for name, value in facts if value]
