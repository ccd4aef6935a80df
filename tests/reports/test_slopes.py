from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ablate.reports import caveats
from ablate.reports.build import report_of_study
from ablate.reports.renderers import write
from ablate.reports.slopes import Slope, end_slope, slope_lines


def test_a_slope_is_that_of_the_last_third():
    flat_then_rising = [(step, max(0.0, (step - 60) / 100)) for step in range(0, 100, 10)]
    assert end_slope(flat_then_rising) == pytest.approx(1.0)
    assert end_slope([(20, 1.0), (40, 2.0), (60, 3.0)]) == pytest.approx(5.0)
    assert end_slope([(0, 9.0), (20, 1.0), (40, 2.0)]) is None, "step 0 is no validation of a training"


def rising(report, by_cell, schedule="constant", steps=(20, 40, 60)):
    """A report whose runs' curves rise by so much a 100 steps."""
    info = report.info
    cells = [
        cell.model_copy(update={"config": cell.config.with_changes({"recipe.schedule": schedule})})
        for cell in info.plan.cells
    ]
    runs = [
        replace(
            run,
            metrics=[
                {"step": step, "val/pesq_wb": 1 + step / 100 * by_cell(run.cell, run.seed)} for step in steps
            ],
        )
        for run in info.runs
    ]
    plan = info.plan.model_copy(update={"cells": tuple(cells)})
    return replace(report, info=replace(info, plan=plan, runs=runs))


def test_an_effect_that_still_rises_is_said_with_its_interval(report):
    noise = np.random.default_rng(1).normal(0, 0.01, (9, 4))
    names = list(report.info.cells)

    def slope(cell, seed):
        return 0.3 + 0.2 * ("bidirectional=on" in cell) + noise[names.index(cell), seed]

    found = {s.name: s for s in rising(report, slope).slopes}
    planted = found["bidirectional"]
    assert planted.estimate == pytest.approx(0.2, abs=0.03)
    assert planted.is_shown
    assert not found["decoder4x"].is_shown
    lines = " ".join(slope_lines(list(found.values()), "95 %"))
    assert re.search(r"bidirectional is still rising by 0\.\d+ validation PESQ-WB per 100 steps", lines)
    assert "this is also an effect on learning speed" in lines
    assert "No significant change at the end" in lines


def test_the_interval_of_a_main_effects_slope_is_welchs(report):
    from ablate.reports.model import AnalysisReport

    draws = np.random.default_rng(2).normal(0, 1, (9, 4))
    names = list(report.info.cells)
    analysis = report.analysis
    mains = analysis.effects["kind"].isin(["gap", "main"])
    kept = tuple(c for c, keep in zip(analysis.contrasts, mains, strict=True) if keep)
    only_mains = replace(analysis, effects=analysis.effects[mains], contrasts=kept)
    changed = rising(
        AnalysisReport(only_mains, report.info, report.scores), lambda c, s: draws[names.index(c), s]
    )
    found = {s.name: s for s in changed.slopes}["bidirectional"]
    cells = [(i, name) for i, name in enumerate(names) if name != "baseline"]
    signs = [1 if name.startswith("bidirectional=on") else -1 for _, name in cells]
    parts = np.array([draws[i, 1:].var(ddof=1) / 3 / 16 for i, _ in cells])
    value = sum(sign * draws[i, 1:].mean() / 4 for sign, (i, _) in zip(signs, cells, strict=True))
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / 2).sum()) * math.sqrt(parts.sum())
    assert (found.estimate, found.low, found.high) == pytest.approx((value, value - half, value + half))


def test_under_annealing_and_with_few_validations_a_curve_tells_nothing(report):
    annealed = rising(report, lambda *_: 0.3, schedule="cosine").slopes
    assert {s.why for s in annealed} == {"annealed"}
    assert "the slope does not show" in slope_lines(annealed, "95 %")[0]
    few = rising(report, lambda *_: 0.3, steps=(20, 40)).slopes
    assert {s.why for s in few} == {"few validations"}
    assert slope_lines(few, "95 %") == [
        "Fewer than 3 validations: convergence cannot be assessed, and effects may reflect learning speed."
    ]
    some = [Slope("a", "main", why="annealed"), Slope("b", "main", 0.1, 0.05, 0.15)]
    assert "flattens every curve (a)" in slope_lines(some, "95 %")[0]


def test_a_training_of_ones_own_has_a_schedule_that_is_not_known(report):
    from ablate.training.train_command.config import CommandConfig

    told = rising(report, lambda *_: 0.3)
    cells = tuple(cell.model_copy(update={"config": CommandConfig()}) for cell in told.info.plan.cells)
    plan = told.info.plan.model_copy(update={"cells": cells})
    own = replace(told, info=replace(told.info, plan=plan))
    assert {slope.why for slope in own.slopes} == {"unknown schedule"}
    assert "learning-rate schedule is unknown" in slope_lines(own.slopes, "95 %")[0]
    silent = replace(own, info=replace(own.info, runs=[replace(run, metrics=[]) for run in own.info.runs]))
    assert {slope.why for slope in silent.slopes} == {"few validations"}


def test_a_long_training_has_a_small_slope_that_is_still_said():
    slope = Slope("a", "main", 2.1e-5, 1.0e-5, 3.2e-5)
    assert slope_lines([slope], "95 %") == [
        "a is still rising by 2.1e-05 validation PESQ-WB per 100 steps (95 % interval [+1e-05, +3.2e-05]): "
        "this is also an effect on learning speed."
    ]
    assert not Slope("a", "main", 1e-15, 0.9e-15, 1.1e-15).is_shown, "rounding is no slope"


def test_one_seed_gives_no_interval_of_a_slope(make_study, tmp_path):
    found = report_of_study(make_study(tmp_path, seeds=1))
    assert any("Only one seed: it is not known whether" in line for line in caveats.notes(found))


def test_scores_trained_elsewhere_have_no_slopes(report):
    info = replace(report.info, plan=None, runs=[replace(run, metrics=[]) for run in report.info.runs])
    assert replace(report, info=info).slopes == []


@pytest.mark.parametrize("format", ["md", "json"])
def test_every_form_says_how_far_the_curves_are(report, format):
    out = io.StringIO()
    write(rising(report, lambda *_: 0.3, steps=(20, 40)), format, out)
    assert "convergence cannot be assessed" in re.sub(r"\s+", " ", out.getvalue())


def test_the_csv_and_json_have_the_slopes(report):
    out = io.StringIO()
    write(report, "csv", out)
    rows = {(r["kind"], r["name"]): r for r in csv.DictReader(io.StringIO(out.getvalue()))}
    out = io.StringIO()
    write(report, "json", out)
    for slope in json.loads(out.getvalue())["slopes"]:
        row = rows[slope["kind"], slope["name"]]
        assert float(row["slope"]) == pytest.approx(slope["estimate"])
