"""The main table as LaTeX (booktabs), with what bounds it as notes below."""

from __future__ import annotations

from typing import TextIO

from .. import conditions
from ..answer import answer
from ..model import AnalysisReport, EffectRow

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
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _math(text: str) -> str:
    """Signed numbers with a real minus sign."""
    return f"${text}$" if text else "--"


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write a table environment; needs `\\usepackage{booktabs}`."""
    label = "".join(c if c.isalnum() else "-" for c in report.info.name)
    head = [
        "Factor",
        report.credit_kind,
        f"{report.percent} interval",
        "Claimed",
        "One-in",
        "One-out",
        "Verdict",
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(answer(report))} {escape(report.headline)}.}}",
        f"\\label{{tab:{label}}}",
        "\\begin{tabular}{lrrrrrl}",
        "\\toprule",
        " & ".join(escape(h) for h in head) + r" \\",
        "\\midrule",
        *(_line(row) for row in report.factors),
    ]
    for extra in (report.not_toggled, report.gap):
        if extra is not None:
            lines += ["\\midrule", _line(extra)]
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    facts = [f"{key}: {value}" for key, value in conditions.measured_at(report) if key != "scores from"]
    notes = [
        *conditions.warnings(report),
        "; ".join(facts) + ".",
        conditions.untoggled_line(report),
        *conditions.notes(report),
    ]
    lines += ["\\par\\smallskip\\footnotesize\\raggedright", *(escape(n) + r" \par" for n in notes if n)]
    lines += ["\\end{table}", ""]
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
        escape(row.verdict) or "--",
    ]
    return " & ".join(cells) + r" \\"
