"""Names of effects at equal size, the table of free and matched answers, and the ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.reports.build import report_of
from ablate.reports.details import matched_table, ranking_table
from ablate.reports.sources import StudyInfo
from ablate.reports.summary import answer
from ablate.reports.tables import effects_table
from ablate.studies.scores import RunInfo


@pytest.fixture
def of_grid(make_plan):
    """`of_grid(grid, effect(levels))`: the report of a planned grid, three seeds of one utterance."""

    def make(grid, effect, **fields):
        plan = make_plan(grid, (1, 2, 3), baseline=None, **fields)
        rng = np.random.default_rng(2)
        rows = []
        for cell in plan.cells:
            for seed in (1, 2, 3):
                score = 2.5 + effect(cell.levels) + rng.normal(0, 0.01)
                key = {"training": cell.signatures[seed]}
                rows.append({"cell": cell.name, "seed": seed, "utterance": "u", "pesq_wb": score, **key})
        table = pd.DataFrame(rows)
        table["pesq_wb"] = table.groupby("training")["pesq_wb"].transform("first")
        seen = table[["cell", "seed"]].itertuples(index=False)
        return report_of(
            table, StudyInfo.of(plan, [RunInfo(cell, seed, scored=True) for cell, seed in seen], "test")
        )

    return make


def test_effects_are_named_at_equal_parameters(of_grid):
    found = of_grid(
        "core=lstm,gru,decoder4x",
        lambda levels: 0.3 * (levels.get("core") == "gru"),
        base="bsrnn",
        changes={"recipe.match": "parameters"},
    )
    names = [row[0] for row in effects_table(found).rows]
    assert "core, at equal parameters" in names
    assert "decoder4x" in names
    assert "core, at equal parameters +0.3" in answer(found)


def test_free_and_matched_answers_stand_side_by_side(of_grid):
    found = of_grid(
        "core=lstm,mamba,recipe.match=free,parameters",
        lambda levels: (levels.get("core") == "mamba") * (0.2 if levels["recipe.match"] == "free" else 0.4),
        base="bsrnn",
        changes={"model.channels": 48},
    )
    table = matched_table(found)
    assert [row[0] for row in table.rows] == ["core, at the widths given", "core, at equal parameters"]
    runs = found.scores.set_index(["cell", "seed"])["pesq_wb"].unstack()
    for row, on in zip(table.rows, ("core=mamba", "core=mamba+recipe.match=parameters"), strict=True):
        expected = stats.ttest_ind(runs.loc[on], runs.loc["base"], equal_var=False).confidence_interval()
        assert row[2] == f"[{expected.low:+.3f}, {expected.high:+.3f}]"
    names = [row[0] for row in effects_table(found).rows]
    assert "core" in names


def test_ranks_name_their_metrics_and_say_that_they_change(report):
    scores = report.scores.assign(lsd=9 - report.scores["pesq_wb"])
    table = ranking_table(report_of(scores, report.info, guardrails=["lsd"]))
    assert len(table.rows) == 9
    assert "PESQ-WB, LSD" in table.caption
    assert "ranks change when a cell is added" in table.caption
    ranks = [float(row[1]) for row in table.rows]
    assert ranks == sorted(ranks)
    assert sum(float(row[2]) for row in table.rows) == pytest.approx(1, abs=0.01)
    single = replace(report, analysis=report_of(scores[scores["seed"] == 1], report.info).analysis)
    assert ranking_table(single) is None
