from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from ablate.models.errors import InputError
from ablate.reports import caveats
from ablate.reports.build import report_of, report_of_file, report_of_study
from ablate.reports.checklist import checklist_blocks, fill, templates
from ablate.reports.fields import json_fields
from ablate.reports.model import AnalysisReport
from ablate.reports.renderers import write
from ablate.studies import energy
from ablate.studies.plan import AuditRecord


class Item(NamedTuple):
    asks: str
    answer: str
    gap: str


def checklists(report: AnalysisReport) -> dict[str, dict[str, Item]]:
    """By title and number, what each item of the form asks, answers and leaves to its authors."""
    found: dict[str, dict[str, Item]] = {}
    for block in list(checklist_blocks(report))[1:]:
        for line in block.lines:
            number, asks, answer, gap = re.fullmatch(
                r"\*\*(.+?)\*\* (.+?): (?!how they)(.*?) ?(?:\*\*GAP\*\*: (.*)\.)?", line
            ).groups()
            found.setdefault(block.title, {})[number] = Item(asks, answer, gap or "")
    return found


def items(report: AnalysisReport, title: str) -> dict[str, Item]:
    return checklists(report)[title]


def planned(report: AnalysisReport, **fields) -> AnalysisReport:
    plan = report.info.plan.model_copy(update=fields)
    return replace(report, info=replace(report.info, plan=plan))


def test_what_varied_the_intervals_and_the_compute_are_filled_in(report, demo_report):
    neurips = items(report, "NeurIPS 2026 paper checklist")
    bars = neurips["7"]
    assert "Varied with the seed: initialisation" in bars.answer
    assert "Welch's t" in bars.answer
    assert "3 seeds, 24 test utterances" in bars.answer
    assert "Assumptions:" in bars.answer
    assert not bars.gap
    assert "in 27 training runs" in neurips["8"].answer
    assert "test machine; cpu, 1 thread." in neurips["8"].answer
    assert "crossband claimed +0.05 to +0.10" in neurips["1"].answer
    assert "DEMO CORPUS" in items(demo_report, "NeurIPS 2026 paper checklist")["2"].answer


def test_every_item_of_both_lists_is_there_and_is_answered_or_a_gap(report):
    for title, numbers in (
        ("NeurIPS 2026 paper checklist", {str(number) for number in range(1, 17)}),
        ("REFORMS", {f"{i}{c}" for i, n in enumerate((3, 5, 7, 3, 6, 3, 3, 2), 1) for c in "abcdefg"[:n]}),
    ):
        there = set()
        for number, item in checklists(report)[title].items():
            assert item.answer or item.gap, item
            for part in number.split(", "):
                first, _, last = part.partition("-")
                if last and first.isdigit():
                    there |= {str(number) for number in range(int(first), int(last) + 1)}
                elif last:
                    there |= {first[:-1] + chr(c) for c in range(ord(first[-1]), ord(last[-1]) + 1)}
                else:
                    there.add(first)
        assert there == numbers


def test_commands_code_and_data_are_named_or_marked_as_gaps(report):
    reforms = items(report, "REFORMS")
    assert "commit of ablate 0123456789ab" in reforms["2b"].answer
    assert reforms["2d-2e"].gap == "the commands that made the study"
    assert reforms["2a"].gap == "a link or DOI"
    corpus = report.info.plan.corpus.model_copy(update={"kind": "voicebank+demand"})
    known = items(planned(report, commands=("ablate run study.yaml",), corpus=corpus), "REFORMS")
    assert known["2d-2e"] == Item(known["2d-2e"].asks, "Commands: `ablate run study.yaml`.", "")
    assert "DOI 10.7488/ds/2117" in known["2a"].answer
    assert not known["2a"].gap


def test_a_leak_is_told_and_a_skipped_audit_is_a_gap(report):
    assert "none is shared" in items(report, "REFORMS")["6a-6b"].answer
    skipped = items(planned(report, audit=AuditRecord(skipped=True)), "REFORMS")["6a-6b"]
    assert (skipped.answer, "no audit was run" in skipped.gap) == ("", True)
    leak = {"code": "A501", "severity": "error", "where": "demo", "evidence": "clean audio of the test set"}
    told = items(planned(report, audit=AuditRecord(findings=(leak,))), "REFORMS")["6a-6b"]
    assert "A501 error: demo: clean audio of the test set" in told.answer


def test_guards_and_their_convention_are_named(report):
    scores = report.scores.assign(cbak=2.0 + report.scores["pesq_wb"] / 9)
    metrics = items(report_of(scores, report.info, guardrails=["cbak"]), "REFORMS")["7a"].answer
    assert metrics.startswith("PESQ-WB; guardrail metrics: CBAK.")
    assert "Loizou's composite.m" in metrics


def test_one_seed_and_runs_without_scores_are_told(tmp_path, make_study):
    root = make_study(tmp_path, factors=("crossband",), seeds=1, missing=[("baseline", 1)], utterances=6)
    reforms = items(report_of_study(root), "REFORMS")
    assert reforms["7b"].answer.startswith("Only one seed")
    assert reforms["7c"].answer == "None: one seed."
    assert "baseline, seed 1: pending." in reforms["3f"].answer


def test_scores_from_elsewhere_have_more_gaps(report, tmp_path):
    report.scores.to_csv(tmp_path / "s.csv", index=False)
    other = report_of_file(tmp_path / "s.csv", report.info.base, "baseline")
    reforms = items(other, "REFORMS")
    for number in ("2a", "2b", "2c", "2d-2e", "4c", "5c-5d", "5e", "6a-6b", "6c"):
        assert reforms[number].gap, number
    assert reforms["6c"].answer == ""
    assert all(item.answer or item.gap for items in checklists(other).values() for item in items.values())


@pytest.mark.parametrize("name", ["a|b", "<b>"])
def test_the_form_counts_its_gaps(report, name):
    out = io.StringIO()
    write(replace(report, info=replace(report.info, name=name)), "checklist", out)
    written = out.getvalue()
    gaps = sum(line.count("**GAP**:") for line in written.splitlines())
    assert f"marks the {gaps} items" in written
    assert written.startswith(f"# {name.replace('|', chr(92) + '|').replace('<', '&lt;')}: checklists")


def test_a_challenge_is_a_template_over_the_json(report, tmp_path):
    assert templates() == ["neurips-2026.md", "reforms.md", "urgent-2026.yaml"]
    values = json_fields(report)
    found = yaml.safe_load(fill("urgent-2026", values))
    cell = report.info.cells[values["leader"]["cell"]]
    assert values["leader"]["cell"] == max(report.cell_scores, key=report.cell_scores.get)
    assert found["model_size"] == round(cell.parameters / 1e6, 2)
    assert cell.config.model.core in found["model_architecture"]
    assert (found["domain"], found["system_type"]) == ("time-frequency", "discriminative")
    assert found["loss_funcition"] == "complex + magnitude"
    assert (found["data_augmentation"], found["use_additional_rirs"]) == ("none", False)
    assert found["use_pretrained_models"] is False
    assert found["team"] == "GAP"


def test_a_template_of_ones_own_and_one_that_asks_too_much(report, tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("{{ study.name }}: {{ '' | gap('yours') }}")
    assert fill(str(own), json_fields(report)) == f"{report.info.name}: **GAP**: yours."
    own.write_text("{{ stody }}")
    with pytest.raises(InputError, match="'stody' is undefined"):
        fill(str(own), json_fields(report))
    with pytest.raises(InputError, match="no template 'neurips-2062'; did you mean 'neurips-2026'"):
        fill("neurips-2062", json_fields(report))


def test_templates_work_for_scores_from_elsewhere(report, tmp_path):
    report.scores.to_csv(tmp_path / "s.csv", index=False)
    other = json_fields(report_of_file(tmp_path / "s.csv", report.info.base, "baseline"))
    found = yaml.safe_load(fill("urgent-2026", other))
    assert {found[key] for key in ("model_architecture", "model_size", "domain", "data_augmentation")} == {
        "GAP"
    }


def test_a_report_says_it_and_no_checklist_does(tmp_path, make_study):
    root = make_study(tmp_path, factors=("crossband",), utterances=6)
    without = report_of_study(root)
    assert "energy" not in dict(caveats.measured_at(without))
    (Path(without.info.source) / energy.FILE).write_text(json.dumps({"joules": {"GPU 0": 2.5e6}}) + "\n")
    report = report_of_study(root)
    assert dict(caveats.measured_at(report))["energy"].startswith(
        "GPUs 2.5 MJ, measured for the whole machine"
    )
    values = json_fields(report)
    assert values["energy_joules"] == {"GPUs": 2.5e6}
    assert not any("MJ" in fill(name, values) for name in templates())
