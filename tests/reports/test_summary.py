from __future__ import annotations

from dataclasses import replace

from ablate.reports.build import report_of_file, report_of_study
from ablate.reports.caveats import notes
from ablate.reports.summary import answer


def changed(report, **ps):
    """A report in which the effects of these names have another adjusted p."""
    effects = report.analysis.effects.copy()
    for name, p in ps.items():
        effects.loc[effects["name"] == name, "p_headline"] = p
    return replace(report, analysis=replace(report.analysis, effects=effects))


def test_the_answer_says_what_explains_the_gap(report):
    told = answer(report)
    assert told.startswith(
        "Of the 0.42 PESQ-WB by which bsrnn is above mbsnet, crossband +0.21, bidirectional +0.12"
    )
    assert told.endswith("+0.06 is unexplained.")


def test_what_is_not_shown_is_not_credited(report):
    told = answer(changed(report, decoder4x=0.3))
    assert "decoder4x +" not in told
    assert told.endswith("no effect of decoder4x is shown.")
    assert answer(changed(report, gap=0.06)).startswith("No gap in PESQ-WB between mbsnet and bsrnn is shown")


def test_without_intervals_nothing_is_shown(tmp_path, make_study):
    told = answer(report_of_study(make_study(tmp_path, seeds=1, utterances=4)))
    assert told.startswith("Without intervals, no difference in PESQ-WB can be established")


def test_without_a_baseline_the_effects_are_the_answer(report):
    effects = report.analysis.effects
    alone = replace(report.analysis, effects=effects[~effects["kind"].isin(["gap", "unexplained"])])
    assert answer(replace(report, analysis=alone)).startswith("Switched on, crossband +0.21")


def test_a_level_between_is_told_and_what_it_costs(make_levels, tmp_path):
    effects = {"low": 0.0, "mid": 0.3, "high": 0.1}
    means = {level: {"pesq_wb": 2 + gain, "cbak": 3 - gain} for level, gain in effects.items()}
    make_levels(means, seeds=3, seed=0).to_csv(tmp_path / "s.csv", index=False)
    claims = ["a=high=0.1..0.1", "a=mid=0.1..0.2"]
    found = report_of_file(tmp_path / "s.csv", "a=low", guardrails=["cbak"], claims=claims)
    told = answer(found)
    assert told.startswith("Switched on, a=")
    last = found.analysis.kind("shapley")["name"].iloc[0]
    other = ({"a=mid", "a=high"} - {last}).pop()
    assert f"at intermediate levels, {other} +0." in told
    assert f"{other} costs 0." in told
    assert next(row.claimed for row in found.factors if row.data["name"] == "a=high") == "+0.10"


def test_where_lower_is_better_it_is_said(report):
    scores = report.scores.assign(lsd=report.scores["pesq_wb"])
    lower = replace(report.analysis.scores, metric="lsd", direction=-1)
    distance = replace(report, analysis=replace(report.analysis, metric="lsd", scores=lower), scores=scores)
    assert "0.42 dB LSD by which bsrnn is above mbsnet (lower is better), " in answer(distance)
    assert notes(distance)[0] == "Lower LSD is better: a positive effect is a loss."
    apart = changed(distance, gap=0.06)
    assert answer(apart).startswith("No gap in LSD (lower is better) between mbsnet and bsrnn is shown")
    assert "+0.416 dB LSD (95 % interval" in distance.headline
    assert not any("is better" in note for note in notes(report))
