"""Studies whose cells a command trains, from the study file to the report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from ablate.ablations.audit.train_command import audit_train_command
from ablate.models.errors import InputError
from ablate.reports.build import report_of_study
from ablate.reports.renderers import FORMS, write
from ablate.studies import train_command
from ablate.studies.analysis import analyze_study
from ablate.studies.archive import export
from ablate.studies.commands.dry_run import literal
from ablate.studies.compute import Compute
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.imported import import_
from ablate.studies.launchers import Job
from ablate.studies.launchers.inline import InlineLauncher
from ablate.studies.launchers.local import LocalLauncher
from ablate.studies.launchers.slots import Slot
from ablate.studies.plan import Plan, compare, load, make, merge, run_dirs, save, study_path
from ablate.studies.scores import same_scores, scores_of_runs
from ablate.studies.status import status
from ablate.studies.study_file import asked
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir

TOY = Path(__file__).parents[1] / "training" / "train_command" / "toy.py"
STUDY = """
train:
  command: {python} toy.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}
  resume: --resume {{out}}/latest.pt
  folder: repo
factors:
  gain: {{levels: {{off: {{gain: "0.90"}}, on: {{gain: 1.0}}}}, claim: [0.1, 0.2]}}
baseline: {{gain: 0.5}}
endpoint: {{metric: si_sdr, margin: 1}}
data: {data}
scores: enhanced/
seeds: 2
"""


@pytest.fixture
def file(tmp_path: Path, corpus: Path) -> Path:
    """A study file beside the folder of its training."""
    (tmp_path / "repo").mkdir()
    shutil.copy(TOY, tmp_path / "repo" / "toy.py")
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(python=sys.executable, data=corpus))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def changed(file: Path, *pairs: tuple[str, str]) -> Path:
    """The same study file with some words replaced."""
    text = file.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return file


def planned(file: Path, root: Path, **options) -> Plan:
    request = asked(file, **options)
    plan, _ = make(request, root)
    train_command.keep_code(plan.train, request.file, root)
    save(plan, root)
    return plan


def drive(plan: Plan, root: Path, policy: Compute | None = None):
    book = plan_book(open_storage(study_path(root, plan.name)), plan)
    return Driver(InlineLauncher(), policy).run(plan_jobs(plan, root, book))


def signatures(plan: Plan) -> list[str]:
    return [signature for cell in plan.cells for signature in cell.signatures.values()]


def test_a_study_file_says_how_its_cells_are_trained(file, root, corpus):
    request = asked(file, set=["mode=well"])
    assert request.train.folder == str(file.parent / "repo")
    assert (request.train.scores, request.train.curve) == ("enhanced", None)
    plan, _ = make(request, root)
    given = {cell.name: cell.config.result_fields() for cell in plan.cells}
    assert given == {
        "base": {"mode": "well", "gain": "0.90"},
        "gain": {"mode": "well", "gain": "1.0"},
        "baseline": {"mode": "well", "gain": "0.5"},
    }
    assert plan.name == f"repo-gain-{corpus.name}"
    assert (plan.base, plan.baseline) == ("base", "baseline")
    assert plan.factors[0].claims[0].metric == "si_sdr"
    assert len(set(signatures(plan))) == 6
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert any(str(file.parent / "repo") in line for line in train_command.shown(plan.train, root))


def test_the_printed_commands_run_as_they_stand(file, root, corpus):
    (file.parent / "repo" / "conf.json").write_text('{"gain": 0.5, "lr": 1}')
    train = {
        "commands": ["sh -c 'cp $0 $1/epoch_$2' {config} {out} {seed}", "cp {out}/epoch_* {out}/last"],
        "config": "conf.json",
        "folder": "repo",
    }
    factors = {"gain": {"levels": {"off": {"gain": 0.9}, "on": {"gain": 1}}}}
    file.write_text(json.dumps({"train": train, "factors": factors, "data": str(corpus), "seeds": 1}))
    plan, place = planned(file, root), root / "dry-run" / "gain"
    lines = literal(plan, plan.cells[1], 1, root, place)
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True)
    assert json.loads((place / "out" / "last").read_text()) == {"gain": 1, "lr": 1}


def test_overrides_may_be_nested_as_in_the_program_s_own_file(file, root):
    nested = ('off: {gain: "0.90"}, on: {gain: 1.0}', "off: {model: {gain: 0.9}}, on: {model: {gain: 1}}")
    changed(file, nested, ("seeds: 2", "seeds: 2\nset: {model: {size: {width: 8, depths: [1, 2]}}, lr: 1}"))
    plan = planned(file, root)
    size = {"model.size.width": "8", "model.size.depths": ["1", "2"], "lr": "1"}
    assert plan.cells[0].config.result_fields() == size | {"model.gain": "0.9"}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("seeds: 2", "seeds: 2\nrecipe: small"), "recipe: only for the built-in trainer"),
        (("seeds: 2", "seeds: 2\nbase: bsrnn"), "base: only for the built-in trainer"),
        (("factors:", "grid: bidirectional\nset:"), "give grid or train"),
        (("baseline: {gain: 0.5}", "baseline: bsrnn"), "or none"),
        (("  gain: {levels", "  gain: {claim: [0, 1]}\n  other: {levels"), "has no levels"),
        (("toy.py --seed", "toy.py --sed {sed} --seed"), "unknown placeholder {sed}"),
        (("scores: enhanced/", "scores: /tmp/enhanced"), "not below {out}"),
        (("train:\n  command", "train:\n  comand"), "train must be a mapping"),
        (("folder: repo", "folder: rep"), "rep does not exist"),
        (("folder: repo", "folder: repo\n  code: '*.jl'"), "matches no file"),
        ((sys.executable, "pyhton"), "program 'pyhton' not found on PATH"),
        ((sys.executable, "./train.sh"), "program './train.sh' not found in"),
        (("  folder: repo", "  folder: repo\n  overrides: toml"), "toml"),
    ],
)
def test_a_study_file_that_cannot_be_run_is_refused(file, root, pair, said):
    with pytest.raises(InputError) as refused:
        planned(changed(file, pair), root)
    assert said in str(refused.value)
    assert not (root / "runs").exists()


def test_options_of_our_own_trainings_are_refused(file):
    for options in (
        {"recipe": "small"},
        {"grid": "bidirectional"},
        {"test_data": ["demo"]},
        {"baseline": "bsrnn"},
    ):
        with pytest.raises(InputError):
            asked(file, **options)
    assert asked(file, baseline="none").baseline is None


def test_what_decides_a_result_is_signed_and_nothing_else(file, root, tmp_path):
    before = planned(file, root)
    (tmp_path / "repo" / "README.md").write_text("words")
    changed(file, ("latest.pt", "last.pt"), ("seeds: 2", "seeds: 2\ncurve: metrics.jsonl"))
    same = planned(file, root)
    assert signatures(same) == signatures(before)
    assert compare(before, same) == []
    assert merge(before, same, root).train.resume == "--resume {out}/last.pt"

    shutil.copytree(tmp_path / "repo", tmp_path / "elsewhere")
    moved = planned(changed(file, ("folder: repo", "folder: elsewhere")), root)
    assert signatures(moved) == signatures(before)
    (tmp_path / "elsewhere" / "toy.py").write_text(TOY.read_text() + "\n")
    edited = planned(file, root)
    assert not set(signatures(edited)) & set(signatures(before))
    assert [line.partition(":")[0] for line in compare(before, edited)] == ["train.code"]


@pytest.mark.slow
def test_how_runs_are_scored_may_change(file, root):
    """A wrong `scores` costs no training: the second run that ends so stops the others, and mended it is
    scored."""
    changed(file, ("scores: enhanced/", "scores: enh"))
    plan = planned(file, root)
    outcome = drive(plan, root)
    assert (len(outcome.failed), len(outcome.left)) == (2, 4)
    assert {job.run.state.state for job in outcome.failed} == {"done"}
    told = {run["message"] for run in status(plan, root)["runs"] if run["evaluation"] == "failed"}
    assert all("did you mean scores: enhanced?" in message for message in told)
    assert len(drive(plan, root).left) == 4

    changed(file, ("scores: enh", "scores: enhanced"), ("margin: 1", "margin: 0.5"))
    mended, _ = make(asked(file), root)
    assert compare(plan, mended, root) == []
    mended = merge(plan, mended, root)
    assert signatures(mended) == signatures(plan)
    assert mended.changes == ()
    outcome = drive(mended, root)
    assert (len(outcome.done), outcome.failed, outcome.left) == (6, [], [])
    assert {job.run.state.attempts for job in outcome.done} == {1}

    changed(file, ("metric: si_sdr, margin: 0.5", "metric: stoi, margin: 0.01"), ("0.1, 0.2", "0.1, 0.3"))
    other, _ = make(asked(file), root)
    other = merge(mended, other, root)
    (change,) = other.changes
    assert [line.partition(":")[0] for line in change.lines] == ["endpoint", "factor gain"]
    assert drive(other, root).trained == 0
    save(other, root)
    write(report_of_study(root, plan.name), "md", root / "report.md")
    assert "after runs had scores: endpoint" in (root / "report.md").read_text()
    study = optuna.load_study(study_name=plan.name, storage=open_storage(study_path(root, plan.name)))
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    last = {t.user_attrs["training_signature"]: t.user_attrs["value"] for t in complete}
    assert set(last.values()) == {"test mean stoi"}


def test_a_changed_plan_names_its_files(file, root):
    before = planned(file, root)
    folder = Path(before.train.folder)
    (folder / "toy.py").write_text(TOY.read_text() + "\n")
    (folder / "more.py").touch()
    after, _ = make(asked(file), root)
    (line,) = compare(before, after, root)
    assert line.endswith(": more.py (new), toy.py")


@pytest.mark.parametrize(
    ("pair", "line"),
    [
        (("toy.py --seed", "toy.py -q --seed"), "train.command: "),
        (("on: {gain: 1.0}", "on: {gain: 1.1}"), "factor gain: its levels changed"),
        (("gain: 0.5", "gain: 0.6"), "gain: '0.5' -> '0.6' (1 cells)"),
        (("baseline: {gain: 0.5}", "baseline: {}"), "gain: '0.5' -> not given (1 cells)"),
    ],
)
def test_another_plan_is_shown(file, root, pair, line):
    before = planned(file, root)
    after, _ = make(asked(changed(file, pair)), root)
    assert any(found.startswith(line) for found in compare(before, after))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(["a", "b", "c"]), st.dictionaries(st.sampled_from("abc"), st.text(max_size=3), min_size=1)
)
def test_a_signature_knows_no_order_and_every_value(file, root, order, values):
    plan = PLANS.setdefault(str(root), make(asked(file), root)[0])
    cell = plan.cells[0]

    def signature(overrides):
        config = cell.config.model_copy(update={"overrides": overrides})
        return plan.spec(cell.model_copy(update={"config": config}), 1).training_signature

    full = {name: values.get(name, "x") for name in "abc"}
    assert signature({name: full[name] for name in order}) == signature(full)
    for name in values:
        assert signature({**full, name: full[name] + "y"}) != signature(full)


PLANS: dict[str, Plan] = {}


@pytest.mark.slow
def test_a_study_to_its_end(file, root):
    plan = planned(file, root)
    outcome = drive(plan, root)
    assert (len(outcome.done), outcome.trained, outcome.failed) == (6, 6, [])
    told = status(plan, root)
    assert told["counts"] == {"done": 6}
    assert {run["steps"] for run in told["runs"]} == {1}
    analysis = analyze_study(plan, scores_of_runs(plan, root)[0])
    assert set(analysis.effects["kind"]) >= {"gap", "main"}
    for form, path in ((form, root / f"report.{form}") for form in FORMS):
        write(report_of_study(root, plan.name), form, path)
    assert "the training command chose the weights" in (root / "report.md").read_text()
    assert plan.train.command in (root / "report.html").read_text()

    study = optuna.load_study(study_name=plan.name, storage=open_storage(study_path(root, plan.name)))
    assert study.metric_names == ["test mean si_sdr"]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert {trial.user_attrs["value"] for trial in study.trials} == {"test mean si_sdr"}

    again = drive(plan, root)
    assert (len(again.done), again.trained) == (6, 0)
    assert (
        audit_train_command(plan.cells, plan.factors, plan.train, same=same_scores(plan, root))[-1].code
        == "A601"
    )


@pytest.mark.slow
def test_a_curve_gives_the_value(file, root):
    plan = planned(changed(file, ("seeds: 2", "seeds: 1\ncurve: metrics.jsonl")), root)
    drive(plan, root)
    study = optuna.load_study(study_name=plan.name, storage=open_storage(study_path(root, plan.name)))
    best = [max(line["val/pesq_wb"] for line in run.metrics()) for run in run_dirs(plan, root).values()]
    assert sorted(trial.value for trial in study.trials) == sorted(best)
    assert {trial.user_attrs["value"] for trial in study.trials} == {"validation PESQ"}


@pytest.mark.slow
def test_one_cell_that_fails_leaves_the_others(file, root):
    plan = planned(changed(file, ("gain: 1.0}", "gain: 1.0, mode: failing}")), root)
    outcome = drive(plan, root)
    assert (len(outcome.done), len(outcome.failed), outcome.left) == (4, 2, [])
    said = {run["message"] for run in status(plan, root)["runs"] if run["state"] == "failed"}
    assert said == {"CommandError: exit code 1: ValueError: the learning rate is a fish"}
    assert drive(plan, root).trained == 0


@pytest.mark.slow
def test_a_command_that_ran_out_of_memory_is_called_again_only_if_asked(file, root):
    plan = planned(changed(file, ("seeds: 2", "seeds: 1"), ("gain: 1.0}", "gain: 1.0, mode: memory}")), root)
    run = run_dirs(plan, root)["gain", 1]
    for policy, attempts in ((None, 1), (None, 1), (Compute(retry_failed=True), 2)):
        outcome = drive(plan, root, policy)
        assert [job.run.state.cause for job in outcome.failed] == ["out-of-memory"]
        assert run.state.attempts == attempts


@pytest.mark.slow
def test_a_training_that_forgets_its_seed_is_refused(file, root):
    plan = planned(file, root, set=["mode=forgetful"])
    outcome = drive(plan, root)
    assert (len(outcome.done), len(outcome.failed), len(outcome.left)) == (3, 1, 2)
    run = run_dirs(plan, root)["base", 2]
    assert (run.state.state, run.state.cause) == ("done", None)
    assert run.has_scores(plan.cell("base").evaluations[2])
    scores, runs = scores_of_runs(plan, root)
    assert set(scores["seed"]) == {1}
    (left_out,) = [run for run in runs if run.cause == train_command.SAME]
    assert "its scores are those of seed 1 to the last digit" in left_out.message
    write(report_of_study(root, plan.name), "md", root / "report.md")
    assert "base, seed 2: done, left out at step 1 (same-for-every-seed)" in (root / "report.md").read_text()
    findings = audit_train_command(plan.cells, plan.factors, plan.train, same=same_scores(plan, root))
    assert [f.where for f in findings if f.code == "A602"] == ["base seed 2"]
    for policy in (None, Compute(retry_failed=True)):
        outcome = drive(plan, root, policy)
        assert (outcome.trained, len(outcome.failed), len(outcome.left)) == (0, 1, 2)


def test_the_audit_says_what_it_sees_and_what_not(file, root):
    plan = planned(changed(file, ("on: {gain: 1.0}", 'on: {gain: "0.90"}')), root)
    found = {f.code: f for f in audit_train_command(plan.cells, plan.factors, plan.train)}
    assert set(found) == {"A201", "A301", "A601"}
    assert "gain 0.90 -> 0.5" in found["A301"].evidence
    assert "the network is not known" in found["A601"].evidence


NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.lstm = nn.LSTM(257, hidden, batch_first=True)
        self.mask = nn.Linear(hidden, 257)
        self.forgotten = nn.Linear(hidden, hidden)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        magnitude = spectrum.abs().transpose(1, 2)
        return torch.sigmoid(self.mask(self.lstm(magnitude)[0])).transpose(1, 2) * spectrum
"""


def test_a_network_that_is_named_is_audited_too(file, root):
    changed(file, ("seeds: 2", "seeds: 2\nnetwork: net.py:Net"))
    (file.parent / "repo" / "net.py").write_text(NETWORK)
    train = asked(file).train
    with pytest.raises(InputError, match="not trusted"):
        audit_train_command([], (), train)
    train_command.planned(train, str(file), root)
    found = audit_train_command([], (), train)
    by_code = {finding.code: finding for finding in found}
    assert "forgotten" in by_code["A101"].where + by_code["A101"].evidence
    assert "overrides" in by_code["A601"].evidence
    with pytest.raises(InputError, match="Nut"):
        audit_train_command([], (), train.model_copy(update={"network": "net.py:Nut"}))


@pytest.mark.parametrize(
    ("arguments", "takes", "width"),
    [
        ('{h: "{config.net}", mode: real}', "h, mode", "h['width']"),
        ('{h: "{config}", mode: "{config.mode}"}', "h, mode", "h.net.width"),
        ('"{config.net}"', "width, seed", "width"),
    ],
)
def test_a_network_gets_its_arguments_from_the_configuration_file(file, root, arguments, takes, width):
    changed(
        file,
        ("seeds: 2", f"seeds: 2\nnetwork: {{class: net.py:Net, arguments: {arguments}}}"),
        ("{overrides}", "{config}"),
        ("  folder: repo", "  folder: repo\n  config: conf.json"),
        ('off: {gain: "0.90"}, on: {gain: 1.0}', "off: {net.width: 16}, on: {net.width: 24}"),
        ("gain: 0.5", "net.width: 12"),
        ("baseline:", 'set: {net.seed: "{seed}"}\nbaseline:'),
    )
    built = NETWORK.replace("hidden=8", takes).replace("super()", f"hidden = {width}\n        super()")
    (file.parent / "repo" / "net.py").write_text(built)
    (file.parent / "repo" / "conf.json").write_text('{"mode": "real", "net": {"width": 4}}')
    plan, _ = make(asked(file), root)
    assert Plan.model_validate_json(plan.model_dump_json()).train == plan.train
    found = audit_train_command(plan.cells, plan.factors, plan.train)
    assert any("forgotten" in finding.where + finding.evidence for finding in found if finding.code == "A101")
    settings = plan.train.network_settings(plan.cells[0].config.result_fields())
    assert "{seed}" in settings.values()
    assert next(value for name, value in settings.items() if name.endswith("width")) == 16
    broken = plan.train.model_copy(update={"network_arguments": {"h": "{config.nut}"}})
    with pytest.raises(InputError, match="no setting 'nut'; it has mode, net"):
        audit_train_command(plan.cells, plan.factors, broken)


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def pids_in(run: RunDir) -> list[int]:
    """The processes of a toy that waits, when they are there."""
    path = run.path / "out" / "pids"
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.slow
def test_a_worker_killed_under_a_driver_costs_an_attempt(file, root):
    changed(file, ("seeds: 2", "seeds: 1"), ("on: {gain: 1.0}", "on: {gain: 1.0, mode: waiting}"))
    plan = planned(changed(file, ("baseline: {gain: 0.5}", "baseline: none")), root)
    run = run_dirs(plan, root)["gain", 1]
    launcher = LocalLauncher([Slot(1)], root / "workers.log")
    before: list[int] = []

    def kill():
        before.extend(pids_in(run))
        os.kill(launcher.pids[run.path], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    book = plan_book(open_storage(study_path(root, plan.name)), plan)
    outcome = Driver(launcher).run(plan_jobs(plan, root, book))
    thread.join()
    launcher.close()
    assert (len(outcome.done), outcome.failed) == (2, [])
    assert (run.state.state, run.state.attempts) == ("done", 2)
    assert before
    assert not living(before)
    states = [t.state for t in optuna.load_study(study_name=plan.name, storage=book._storage).trials]
    assert states.count(TrialState.COMPLETE) == 2
    assert states.count(TrialState.FAIL) == 1


@pytest.mark.slow
def test_a_launcher_that_closes_ends_its_commands(file, root):
    plan = planned(file, root, set=["mode=waiting"])
    book = plan_book(open_storage(study_path(root, plan.name)), plan)
    job = plan_jobs(plan, root, book)[0]
    job.run.write_spec(job.document)
    launcher = LocalLauncher([Slot(1)], root / "workers.log")
    launcher.submit(Job(job.run, root / "cache"))
    found = pids_in(job.run)
    assert len(living(found)) == 2
    launcher.close()
    assert not living(found)
    assert not job.run.locked


@pytest.mark.slow
def test_an_imported_study_runs_nothing(file, root, tmp_path):
    plan = planned(file, root)
    drive(plan, root)
    export(root, plan.name, tmp_path / "study.tar.gz")
    marks = [run.path / "out" / "called.txt" for run in run_dirs(plan, root).values()]
    before = [mark.read_text() for mark in marks]
    there = tmp_path / "there"
    imported = import_(tmp_path / "study.tar.gz", there)
    assert imported == plan == load(there)
    assert scores_of_runs(imported, there)[0].equals(scores_of_runs(plan, root)[0])
    assert (there / "code" / plan.train.digest / "toy.py").read_text() == TOY.read_text()
    assert [mark.read_text() for mark in marks] == before
    assert not [*there.glob("runs/*/out")]


def test_the_worker_that_is_told_reads_the_spec(file, root):
    plan = planned(file, root)
    document = plan.spec(plan.cells[0], 1).document()
    assert json.loads(json.dumps(document)) == document
    assert document["overrides"] == {"gain": "0.90"}
    assert document["train"]["digest"] == plan.train.digest
