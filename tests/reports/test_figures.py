from __future__ import annotations

import re

from ablate.reports.build import report_of_study
from ablate.reports.figures import FIGURES, draw_one, inline_svg


def test_every_figure_is_drawn_and_said_in_words(report):
    assert [figure.name for figure in report.figures] == list(FIGURES)
    words = {figure.name: figure.alternative for figure in report.figures}
    assert "crossband +0." in words["waterfall"]
    assert "claimed +0.05 to +0.10: contradicted" in words["forest"]
    assert "bsrnn 2." in words["cells"]


def test_svg_is_self_contained_and_its_ids_are_its_own(report):
    seen = set()
    for figure in report.figures[:3]:
        svg = figure.svg()
        assert "http" not in svg
        assert 'role="img"' in svg
        assert "currentColor" in svg
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert not ids & seen
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= ids
        seen |= ids


def test_the_same_report_gives_the_same_bytes(report, tmp_path):
    first, again = draw_one(report, "forest"), draw_one(report, "forest")
    assert first.svg() == again.svg()
    for one, other in zip(first.save(tmp_path / "a"), again.save(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_alternative_text_cannot_end_the_attribute():
    svg = inline_svg('<svg viewBox="0 0 10 20" xmlns="x"><g id="a"/></svg>', "n", 'say "hi" <b>')
    assert 'aria-label="say &quot;hi&quot; &lt;b&gt;"' in svg
    assert 'id="n-a"' in svg


def test_figures_without_data_are_left_out(tmp_path, make_study):
    root = make_study(tmp_path, factors=("crossband",), seeds=1, utterances=4, missing=[("baseline", 1)])
    names = [figure.name for figure in report_of_study(root).figures]
    assert "waterfall" not in names
    assert "interactions" not in names
    assert {"forest", "cells"} <= set(names)
