from __future__ import annotations

import io
import json

import pytest
from typer.testing import CliRunner

from ablate.ablations.grid import parse_factors
from ablate.reports.cli import app
from ablate.reports.sources import scores_from_study
from ablate.studies.commands.power import write_outlook
from ablate.studies.power import hours_per_run, outlook

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
    assert 0 < hours_per_run(info.runs) < 60 * 2 / 3600


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
    assert data["schema"] == "ablate.power"
    assert {row["name"] for row in data["effects"]} >= {"gap", "bidirectional", "bidirectional x decoder4x"}
    assert "typical values" in out["table"]
    assert out["csv"].startswith("design,seeds,runs")
    with pytest.raises(ValueError, match="power 2 is not"):
        outlook(parse_factors(FACTORS), (2,), power=2)


def test_plan_command_shows_what_seeds_resolve(planted_root):
    options = ("--grid", "bidirectional,decoder4x", "--seeds", "2:3", "--format", "json")
    typical = CliRunner().invoke(app, ["power", *options])
    assert typical.exit_code == 0
    assert json.loads(typical.stdout)["source"] == "typical values, no pilot"
    done = CliRunner().invoke(app, ["power", *options, "--pilot", "planted", "--root", str(planted_root)])
    assert json.loads(done.stdout)["source"] == "pilot planted, PESQ-WB"
