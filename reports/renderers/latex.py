"""The effects, the guards and the cells as LaTeX tables, with what bounds them as notes below."""

from __future__ import annotations

import re
from typing import TextIO

from .. import caveats
from ..model import AnalysisReport, EffectRow
from ..summary import answer
from ..tables import (
    CROSS,
    TICK,
    Table,
    cells_table,
    claims_table,
    corpora_table,
    guards_table,
    lengths_table,
)

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    TICK: r"$\checkmark$",
    CROSS: r"$\times$",
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _numbers(text: str) -> str:
    """Text in which signed numbers have a real minus sign."""
    return re.sub(r"(?<![\w.])[+-]\d+(?:\.\d+)?", r"$\g<0>$", escape(text))


def _math(text: str) -> str:
    """Signed numbers with a real minus sign."""
    return f"${text}$" if text else "--"


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write table environments; needs the packages booktabs and amssymb."""
    label = "".join(c if c.isalnum() else "-" for c in report.info.name)
    head = [
        "Factor",
        report.credit_kind,
        f"{report.percent} interval",
        "Claimed",
        "One-in",
        "One-out",
        "$P$(on $>$ off)",
        "Verdict",
    ]
    lines = [
        "% needs \\usepackage{booktabs,amssymb}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_numbers(answer(report))} {_numbers(report.headline)}.}}",
        f"\\label{{tab:{label}}}",
        "\\begin{tabular}{lrrrrrrl}",
        "\\toprule",
        " & ".join(h if "$" in h else escape(h) for h in head) + r" \\",
        "\\midrule",
        *(_line(row) for row in report.factors),
    ]
    for extra in (report.not_toggled, report.gap):
        if extra is not None:
            lines += ["\\midrule", _line(extra)]
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    facts = [f"{key}: {value}" for key, value in caveats.measured_at(report) if key != "scores from"]
    notes = [
        *caveats.warnings(report),
        "; ".join(facts) + ".",
        caveats.untoggled_line(report),
        *caveats.notes(report),
    ]
    lines += ["\\par\\smallskip\\footnotesize\\raggedright", *(escape(n) + r" \par" for n in notes if n)]
    lines += ["\\end{table}", ""]
    beside = guards_table(report), corpora_table(report), claims_table(report), lengths_table(report)
    for found in filter(None, (*beside, cells_table(report))):
        lines += _table(found, f"tab:{label}-{'-'.join(found.title.lower().split())}")
    out.write("\n".join(lines))


def _line(row: EffectRow) -> str:
    claimed = " to ".join(f"${part}$" for part in row.claimed.split(" to ")) if row.claimed else "--"
    cells = [
        escape(row.name) + (r"\textsuperscript{*}" if row.parameters else ""),
        _math(row.estimate),
        _math(row.interval),
        claimed,
        _math(row.one_in),
        _math(row.one_out),
        _math(row.p_higher),
        escape(row.verdict) or "--",
    ]
    return " & ".join(cells) + r" \\"


def _table(found: Table, label: str) -> list[str]:
    """A table of its own: the first column left, the rest centred."""
    rows = [
        [
            rf"\textbf{{{_numbers(cell)}}}" if (i, j) in found.bold else _numbers(cell) or "--"
            for j, cell in enumerate(line)
        ]
        for i, line in enumerate(found.rows)
    ]
    return [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(found.title)}. {escape(found.caption)}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{l{'c' * (len(found.head) - 1)}}}",
        "\\toprule",
        " & ".join(map(escape, found.head)) + r" \\",
        "\\midrule",
        *(" & ".join(line) + r" \\" for line in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
