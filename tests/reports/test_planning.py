from __future__ import annotations

import io
import json

import pytest

from ablate.ablations.grid import parse_factors
from ablate.reports.collect import scores_from_study
from ablate.reports.planning import hours_per_run, outlook, write_outlook

FACTORS = "bidirectional,decoder4x"


def test_more_seeds_resolve_less(planted_root):
    found = outlook(parse_factors(FACTORS), (1, 2, 4), pilot=(planted_root, "planted"), effect=0.05)
    main = found.table[found.table["name"] == "bidirectional"].set_index("seeds")["smallest_effect"]
    assert main.isna().loc[1]
    assert main[4] < main[2]
    assert found.variances.utterances == 24
    assert found.table["hours"].notna().all()
    assert found.designs["cheapest"].any()


def test_hours_are_those_of_the_pilot(planted_root):
    _, info = scores_from_study(planted_root)
    assert 0 < hours_per_run(info) < 60 * 2 / 3600


def test_an_evaluation_only_factor_costs_no_runs():
    table = outlook(parse_factors("bidirectional,pcs"), (2,)).table
    assert set(table["runs"]) == {3 * 2}


def test_forms_of_a_plan():
    found = outlook(parse_factors(FACTORS), (2, 3), effect=0.05)
    out = {}
    for format in ("table", "csv", "json"):
        buffer = io.StringIO()
        write_outlook(found, format, buffer)
        out[format] = buffer.getvalue()
    data = json.loads(out["json"])
    assert data["schema"] == "ablate.plan"
    assert {row["name"] for row in data["effects"]} >= {"gap", "bidirectional", "bidirectional x decoder4x"}
    assert "typical values" in out["table"]
    assert out["csv"].startswith("design,seeds,runs")
    with pytest.raises(ValueError, match="not 'word'"):
        write_outlook(found, "word", io.StringIO())
    with pytest.raises(ValueError, match="power 2 is not"):
        outlook(parse_factors(FACTORS), (2,), power=2)
