from __future__ import annotations

import re

from ablate.reports.document import document
from ablate.reports.summary import answer


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", "", html))


def test_a_study_shows_its_answer_its_effects_and_two_figures(report) -> None:
    html = report._repr_html_()
    assert answer(report) in words(html)
    assert html.count("<svg") == 2
    assert 'class="verdict contradicted"' in html
    assert "<html" not in html
    for row in report.rows:
        assert row.estimate in html


def test_an_analysis_shows_the_same_numbers(report) -> None:
    html = report.analysis._repr_html_()
    named = answer(report).replace("bsrnn", "baseline").replace("mbsnet", str(report.analysis.base_cell))
    assert named in words(html)
    for row in report.rows:
        assert f"<td>{row.estimate}</td>" in html
        assert row.interval in html


def test_two_outputs_of_one_notebook_have_no_id_in_common(report, demo_report) -> None:
    first, second = (set(re.findall(r'\bid="([^"]+)"', each._repr_html_())) for each in (report, demo_report))
    assert first
    assert not first & second


def test_a_form_that_leaves_out_a_block_does_not_make_it(report, monkeypatch) -> None:
    monkeypatch.setattr("ablate.reports.figures.draw_one", lambda *_: 1 / 0)
    monkeypatch.setattr("ablate.reports.listening.listening", lambda *_: 1 / 0)
    for form in ("table", "md", "latex", "csv", "json", "checklist"):
        assert document(report, form).blocks
