from __future__ import annotations

import io
import json
import re

import pytest

from ablate.ablations.claims import Claim
from ablate.ablations.factors import Factor
from ablate.ablations.scale import Conditions
from ablate.models.errors import InputError
from ablate.reports import caveats
from ablate.reports.build import report_of, report_of_file
from ablate.reports.renderers import write
from ablate.reports.sources import scores_from_study
from ablate.reports.tables import claims_table

FULL = Conditions(parameters=9e6, steps=200_000, corpus="VoiceBank+DEMAND")


def said(report, format):
    out = io.StringIO()
    write(report, format, out)
    return re.sub(r"\s+", " ", out.getvalue())


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, make_study):
    """The report of a study whose claim was made of other networks."""
    root = make_study(
        tmp_path_factory.mktemp("elsewhere"), factors=("bidirectional", "crossband"), utterances=8
    )
    scores, info = scores_from_study(root)
    claimed = info.plan.factors[0].with_claim(Claim(low=0.4, high=0.5, source="a paper", conditions=FULL))
    plan = info.plan.model_copy(update={"factors": (claimed, *info.plan.factors[1:])})
    return report_of(scores, type(info).of(plan, info.runs, info.source))


def test_at_another_size_the_verdict_says_so_and_the_report_in_what(elsewhere):
    rows = {row.name: row for row in elsewhere.factors}
    assert rows["bidirectional"].verdict == "at this size: contradicted"
    assert rows["crossband"].verdict == "contradicted", "a claim without conditions is this study's"
    (line,) = [line for line in caveats.notes(elsewhere) if line.startswith("At this size")]
    assert "the claims about bidirectional (a paper) were made for other networks, steps or data" in line
    assert "2,139,920 to 3,339,792 parameters instead of 9,000,000" in line
    assert "60 steps instead of 200,000" in line
    assert "recordings instead of VoiceBank+DEMAND" in line


@pytest.mark.parametrize("format", ["md", "csv", "json"])
def test_every_form_says_at_this_size(elsewhere, format):
    text = said(elsewhere, format)
    assert "at this size" in text
    if format != "csv":
        assert "60 steps instead of 200,000" in text
    if format == "html":
        assert 'at this size: <span class="verdict contradicted">contradicted</span>' in text


def test_the_demo_judges_no_claim(demo_report):
    (row,) = demo_report.factors
    assert row.claimed
    assert row.verdict == "no verdict"
    for format in ("table", "md", "latex", "csv", "json", "html"):
        text = said(demo_report, format)
        assert "no verdict" in text
        assert "contradicted" not in text.replace(".contradicted", "")
    assert any("Claims are not tested" in line for line in caveats.notes(demo_report))
    for format in ("table", "md", "latex", "json", "html"):
        assert "DEMO CORPUS" in said(demo_report, format)


def test_published_claims_are_judged_each_for_itself(planted_root):
    report = report_of(*scores_from_study(planted_root), others="published")
    found = [row for row in report.judged if row.name == "bidirectional"]
    assert [row.source.partition(":")[0] for row in found] == ["report", *["published"] * 3]
    assert found[0].verdict == report.factors[0].verdict.partition(" (")[0]
    assert all(row.verdict.startswith("at this size: ") for row in found[1:])
    table = claims_table(report)
    assert [row[0] for row in table.rows].count("bidirectional") == 4
    assert table.rows[0][4] == "this study's"
    for format in ("table", "md", "latex", "html"):
        assert "xLSTM-SENet, ablation table in its repository" in said(report, format)
    document = json.loads(said(report, "json"))
    assert len(document["claims_judged"]) == 6
    assert report.analysis.claims["bidirectional"].source == "report", (
        "the study's own stands in the main table"
    )


def test_claims_of_others_that_are_of_nothing_here_are_missed(report):
    line = "--claims published: no claims about these factors in STOI."
    assert line in caveats.notes(report_of(report.scores, report.info, "stoi", others="published"))
    told = caveats.notes(report_of(report.scores, report.info, others="published"))
    assert not any(note.startswith("--claims") for note in told)


def test_a_factor_without_a_claim_of_its_own_takes_the_first(make_study, tmp_path):
    scores, info = scores_from_study(make_study(tmp_path, factors=("bidirectional",), utterances=4))
    bare = Factor(name="bidirectional", levels=info.plan.factors[0].levels)
    plan = info.plan.model_copy(update={"factors": (bare,)})
    info = type(info).of(plan, info.runs, info.source)
    assert claims_table(report_of(scores, info)) is None
    report = report_of(scores, info, others="published")
    assert "xLSTM-SENet" in report.analysis.claims["bidirectional"].source


def test_the_claims_table_and_the_main_table_give_one_verdict(elsewhere, make_study, tmp_path):
    scores, info = elsewhere.scores, elsewhere.info
    stoi = Claim(low=0, high=0.1, metric="stoi", conditions=FULL)
    factors = (info.plan.factors[0].with_claim(stoi), *info.plan.factors[1:])
    there = type(info).of(info.plan.model_copy(update={"factors": factors}), info.runs, info.source)
    one = scores[scores["seed"] == 1]
    for report in (
        elsewhere,
        report_of(scores, there, "stoi"),
        report_of(one, info),
    ):
        main = {row.name: row.data["verdict"] for row in report.factors if row.claimed}
        assert {row.name: row.verdict for row in report.judged} == main
    assert main == {"bidirectional": "at this size: undecided", "crossband": "undecided"}
    assert report_of(scores, there, "stoi").factors[0].verdict == "no margin"


def test_two_claims_of_one_effect_are_refused(report, tmp_path):
    report.scores.to_csv(tmp_path / "s.csv", index=False)
    claims = ["crossband=0.1..0.2", "crossband=0.3..0.4"]
    with pytest.raises(InputError, match="'crossband' has two claims; give only one"):
        report_of_file(tmp_path / "s.csv", report.info.base, "baseline", claims=claims)
    with pytest.raises(InputError, match="'crossband' has two claims; give only one"):
        report_of(report.scores, report.info, claims=claims)
