from __future__ import annotations

import re
from dataclasses import replace

from ablate.reports.build import report_of_study
from ablate.reports.figures import FIGURES, draw_one, inline_svg


def drawn(report):
    return list(filter(None, (draw_one(report, name) for name in FIGURES)))


def test_every_figure_is_drawn_and_said_in_words(report):
    assert [figure.name for figure in drawn(report)] == [name for name in FIGURES if name != "lengths"]
    words = {figure.name: figure.alternative for figure in drawn(report)}
    assert "crossband +0." in words["waterfall"]
    assert "claimed +0.05 to +0.10: contradicted" in words["forest"]
    assert "bsrnn 2." in words["cells"]


def test_svg_is_self_contained_and_its_ids_are_its_own(report):
    seen = set()
    for figure in drawn(report)[:3]:
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
    names = [figure.name for figure in drawn(report_of_study(root))]
    assert "waterfall" not in names
    assert "interactions" not in names
    assert {"forest", "cells"} <= set(names)


def test_names_are_no_mathematics(report):
    info = report.info
    plan = info.plan.model_copy(update={"baseline": "cost $a$ and $b_1"})
    drawn = draw_one(replace(report, info=replace(info, plan=plan)), "waterfall")
    assert "cost $a$ and $b_1" in drawn.svg()


def test_many_cells_are_drawn_by_rank(report, monkeypatch):
    monkeypatch.setattr("ablate.reports.figures.per_cell.MOST_NAMED", 5)
    monkeypatch.setattr("ablate.reports.figures.per_cell.MOST_CURVES", 5)
    drawn = draw_one(report, "cells")
    assert "9 cells by rank: base " in drawn.alternative
    assert "bsrnn 2." in drawn.alternative
    assert drawn.canvas.get_size_inches()[1] < 5
    said = draw_one(report, "curves").alternative
    assert "of 5 cells" in said
    assert said.count(" + ") == 2  # all on has two
