"""One call of `ablate run` from plan to report, with runs that take no time."""

from __future__ import annotations

import shutil

import numpy as np
import optuna
import pandas as pd
import pytest

from ablate.ablations.audit.data import unequal
from ablate.ablations.grid import parse_factors
from ablate.models.errors import InputError
from ablate.studies import plan as plans
from ablate.studies import session as sessions
from ablate.studies.analysis import analyze_study
from ablate.studies.compute import Compute
from ablate.studies.launchers import LAUNCHERS, Ended, Launcher
from ablate.studies.plan import AuditRecord, ResultsChangedError
from ablate.studies.scores import scores_of_runs
from ablate.studies.sequential import HalfWidthTarget
from ablate.studies.session import Session, ending
from ablate.studies.study import Study, Tuning
from ablate.studies.tracking import Mirrored
from ablate.studies.trials import open_storage
from ablate.training import config as training_config
from ablate.training.config import RunConfig
from ablate.training.rundir import RunDir


def analysis_of(plan, root):
    return analyze_study(plan, scores_of_runs(plan, root)[0])


class InstantLauncher(Launcher):
    """Trains at once: scores that vary with the training; `fate(spec)` may say another end."""

    def __init__(self, fate=lambda spec: "done", slots=3):
        self.fate = fate
        self.slots = slots
        self.tasks = []
        self.trained = []

    @property
    def free(self):
        return self.slots - len(self.tasks)

    def submit(self, task):
        self.tasks.append(task)

    def wait(self, timeout):
        tasks, self.tasks = self.tasks, []
        return [self.carry_out(task) for task in tasks]

    def carry_out(self, task):
        run = task.run
        word = self.fate(run.spec)
        if word == "interrupt":
            raise KeyboardInterrupt
        self.trained.append(run.spec)
        if word != "done":
            run.update_state(state=word, attempts=1, cause=word, message="as told")
            return Ended(run=run.path)
        draw = np.random.default_rng(int(run.signature[:8], 16))
        level = 2 + 0.1 * draw.standard_normal()
        for signature in task.evaluations:
            path = run.scores_path(signature)
            path.parent.mkdir(exist_ok=True)
            rows = {"utterance": list("abcd"), "pesq_wb": level + 1e-6 * draw.standard_normal(4)}
            pd.DataFrame(rows).to_parquet(path)
        run.update_state(state="done", attempts=1, val_pesq_wb=level)
        return Ended(run=run.path)

    def stop(self):
        self.tasks.clear()

    def close(self):
        self.tasks.clear()


class Tracker:
    """In place of the mirroring process."""

    stopped = 0

    def __init__(self, *_):
        pass

    def start(self):
        pass

    def stop(self):
        Tracker.stopped += 1
        return Mirrored(True, "")


@pytest.fixture(autouse=True)
def _no_tracker(monkeypatch):
    Tracker.stopped = 0
    monkeypatch.setattr(sessions, "TrackerProcess", Tracker)


@pytest.fixture
def said():
    return []


@pytest.fixture
def ask(tmp_path, corpus, said, monkeypatch):
    monkeypatch.setitem(LAUNCHERS._parts, "instant", InstantLauncher)

    def call(launcher=None, grid="bidirectional", seeds=(1, 2), data=corpus, study="asked", **options):
        launcher = launcher or InstantLauncher()
        monkeypatch.setattr(InstantLauncher, "open", classmethod(lambda cls, *_: launcher))
        retry = {name: options.pop(name) for name in ("cells", "retrain") if name in options}
        fields = {name: options.pop(name) for name in set(Study.model_fields) & set(options)}
        session = Session(
            **{"root": tmp_path, "audit": None, "report": lambda plan: None, "say": said.append} | options
        )
        compute = fields.pop("compute", Compute()).model_copy(update={"launcher": "instant"})
        if retry:
            return *session.retry(study, compute, **retry), launcher
        request = Study(
            factors=parse_factors(grid),
            data=str(data),
            seeds=tuple(seeds),
            name=study,
            compute=compute,
            **fields,
        )
        return *session.run(request), launcher

    return call


def test_a_report_that_fails_skips_nothing(ask):
    def report(plan):
        raise AttributeError("no report")

    with pytest.raises(AttributeError, match="no report"):
        ask(report=report)
    assert Tracker.stopped == 1


def test_what_fails_at_the_end_hides_no_earlier_error():
    taken = []

    def fails():
        raise AttributeError("second")

    with pytest.raises(RuntimeError, match="first") as caught, ending(fails, lambda: taken.append(1)):
        raise RuntimeError("first")
    assert taken == [1]
    assert "second" in caught.value.__notes__[0]


def test_seeds_are_added_until_the_intervals_are_narrow(ask, said):
    plan, _, _ = ask(target_half_width=100.0)
    assert plan.seeds == (1, 2, 3, 4, 5)
    assert [(look.seeds, look.trainings) for look in plan.looks] == [(5, 15)]
    assert "every cell gets 5 seeds before the first look" in said
    assert "target 100" in said[-1]


def test_what_a_session_tells_is_of_all_its_rounds(ask):
    fate = InstantLauncher(lambda spec: "diverged" if spec["seed"] == 1 else "done")
    _, outcome, launcher = ask(fate, target_half_width=100.0)
    assert (len(outcome.done), len(outcome.failed), outcome.trained) == (15, 3, 15)
    assert len(launcher.trained) == 18


def test_a_report_is_written_anew_for_runs_that_another_study_has_trained(ask, tmp_path):
    written = []

    def report(plan):
        (plans.study_path(tmp_path, plan.name) / "report").mkdir(exist_ok=True)
        written.append(plan.seeds)

    ask(study="other", seeds=(1, 2, 3))
    for seeds in ((1, 2), (1, 2), (1, 2, 3)):
        _, outcome, _ = ask(seeds=seeds, report=report)
        assert outcome.trained == 0
    assert written == [(1, 2), (1, 2, 3)]


def test_other_lengths_are_trained_beside_and_only_when_asked_for(ask):
    plan, outcome, launcher = ask(step_fractions=(0.5, 1.0))
    assert (plan.step_fractions, outcome.trained) == ((0.5,), 12)
    assert sorted({spec["recipe"]["steps"] for spec in launcher.trained}) == [20, 40]
    named = {job.name for job in outcome.done}
    assert "base seed 1" in named
    assert "base seed 1 at 0.5" in named
    _, outcome, again = ask(step_fractions=(0.5, 1.0))
    assert (outcome.trained, again.trained) == (0, [])
    plan, outcome, more = ask(seeds=(1, 2, 3))
    assert plan.step_fractions == (0.5,)
    assert {spec["recipe"]["steps"] for spec in more.trained} == {40}
    _, _, late = ask(seeds=(1, 2, 3), step_fractions=(0.5,))
    assert {(spec["seed"], spec["recipe"]["steps"]) for spec in late.trained} == {(3, 20)}
    _, _, alone = ask(study="alone", grid="bidirectional", step_fractions=(0.25, 0.5))
    assert {spec["recipe"]["steps"] for spec in alone.trained} == {10}, "trainings are shared between studies"


def test_all_that_is_set_aside_is_trained_again(ask):
    """Also seeds, lengths and cells of the same trainings that the call does not name."""
    ask(grid="bidirectional,pcs", seeds=(1, 2, 3), step_fractions=(0.5,))
    _, outcome, again = ask(cells=("base",))
    assert {(spec["seed"], spec["recipe"]["steps"]) for spec in again.trained} == {
        (seed, steps) for seed in (1, 2, 3) for steps in (20, 40)
    }
    assert len(again.trained) == 6
    assert "base seed 2 at 0.5, pcs seed 2 at 0.5" in {job.name for job in outcome.done}
    _, outcome, _ = ask(grid="bidirectional,pcs", seeds=(1, 2, 3), step_fractions=(0.5,))
    assert outcome.trained == 0


def test_a_training_without_its_weights_is_scored_on_no_further_test(ask, corpus, tmp_path):
    """Of an import: another machine may train to other weights, and one run would have scores of both."""
    ask(study="imported")
    further = tmp_path / "further"
    for kind in ("clean", "noisy"):
        (further / kind).mkdir(parents=True)
        shutil.copy(corpus / "test" / kind / "d_0.wav", further / kind)
    with pytest.raises(InputError, match="--cell base --cell bidirectional --cell baseline with a study"):
        ask(study="more", test_data=(str(further),))
    assert plans.names(tmp_path) == ["imported"]
    for run in plans.run_dirs(plans.load(tmp_path, "imported"), tmp_path).values():
        run.checkpoints.mkdir()
        (run.checkpoints / "latest.pt").touch()
    _, outcome, _ = ask(study="more", test_data=(str(further),))
    assert len(outcome.done) == 6
    shutil.rmtree(run.checkpoints)
    _, outcome, again = ask(study="more", cells=("baseline",))
    assert (len(outcome.done), len(again.trained)) == (6, 2)


def test_two_lengths_may_share_a_training(ask):
    plan, outcome, launcher = ask(grid="steps=20,40", step_fractions=(0.5,))
    assert len(launcher.trained) == 10, "20 steps of the base are its own length and half of another cell's"
    shared = [job.name for job in outcome.done if ", " in job.name]
    assert "base seed 1, steps=40 seed 1 at 0.5" in shared
    assert plan.step_fractions == (0.5,)


def test_the_trainings_that_narrow_most_are_added_and_the_seeds_are_nested(ask, said, tmp_path):
    launcher = InstantLauncher(slots=1)
    first, _, _ = ask(launcher, target_half_width=100.0)
    width = 0.9 * first.looks[-1].half_width
    plan, outcome, _ = ask(launcher, target_half_width=width, max_seeds=40)
    assert plan.looks[-1].half_width <= width
    assert [look.trainings for look in plan.looks[1:]] == list(range(15, 15 + len(plan.looks) - 1))
    counts = {cell.name: len(cell.seeds) for cell in plan.cells}
    assert len(set(counts.values())) > 1
    assert all(cell.seeds == tuple(range(1, counts[cell.name] + 1)) for cell in plan.cells)
    assert not list(unequal(plan.cells, plan.factors, runs=[plan.spec(c, s) for c, s in plan.runs]))
    kept = plans.load(tmp_path, "asked")
    assert [cell.seeds for cell in kept.cells] == [cell.seeds for cell in plan.cells]
    even, outcome, _ = ask(launcher, seeds=range(1, max(counts.values()) + 1))
    assert {cell.seeds for cell in even.cells} == {plan.seeds}
    assert outcome.trained == sum(max(counts.values()) - count for count in counts.values())


def test_a_width_out_of_reach_says_what_it_would_take(ask, said):
    plan, _, _ = ask(target_half_width=0.05, max_seeds=6)
    assert max(len(cell.seeds) for cell in plan.cells) == 6
    assert any(line.startswith("at typical variances") for line in said)
    assert "0.05 would take about" in said[-1]
    assert "max_seeds" in said[-1]
    left = plan.model_copy(update={"looks": ()})
    far = left.model_copy(update={"corpus": left.corpus.model_copy(update={"test": 10**6})})
    assert "more than 200 seeds would be needed" in HalfWidthTarget(0.002, 6, 1).outlook(far)
    assert "add test utterances" in HalfWidthTarget(0.002, 6, 1).outlook(left)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target_half_width": 0.0}, "above zero"), ({"target_half_width": 1.0, "max_seeds": 1}, "two seeds")],
)
def test_a_width_that_cannot_be_is_refused_before_training(ask, options, message):
    launcher = InstantLauncher()
    with pytest.raises(ValueError, match=message):
        ask(launcher, **options)
    assert not launcher.trained


def test_what_is_added_is_trained_at_every_length(ask):
    plan, _, launcher = ask(target_half_width=100.0, step_fractions=(0.5,))
    assert [cell.seeds for cell in plan.at(0.5).cells] == [(1, 2, 3, 4, 5)] * 3
    assert len(launcher.trained) == 30


@pytest.mark.slow
def test_an_interrupted_seed_is_finished_by_the_same_command(ask):
    first = InstantLauncher(lambda spec: "interrupt" if spec["seed"] == 3 else "done")
    plan, outcome, _ = ask(first, target_half_width=0.001, max_seeds=3)
    assert outcome.interrupted
    assert plan.seeds == (1, 2, 3)
    _, outcome, second = ask(target_half_width=0.001, max_seeds=3)
    assert {spec["seed"] for spec in second.trained} == {3}
    assert len(outcome.done) == 9


def test_no_seeds_are_added_for_a_cell_that_always_fails(ask, said, tmp_path):
    broken = InstantLauncher(lambda spec: "failed" if spec["model"]["direction"] == "bi" else "done")
    plan, outcome, _ = ask(broken, target_half_width=0.01, max_seeds=9)
    assert plan.seeds == (1, 2)
    assert len(outcome.failed) == 2
    assert any("every seed of bidirectional failed or diverged" in line for line in said)


def test_no_seeds_are_added_for_a_cell_that_nearly_always_diverges(ask):
    def ends(spec):
        return "diverged" if spec["model"]["direction"] == "bi" and spec["seed"] > 1 else "done"

    plan, _, _ = ask(InstantLauncher(ends), target_half_width=0.03, max_seeds=9)
    counts = {cell.name: len(cell.seeds) for cell in plan.cells}
    assert counts["bidirectional"] == 6
    assert max(counts.values()) == 9


@pytest.mark.slow
def test_a_seed_that_failed_is_not_asked_for_again(ask):
    def ends(spec):
        return "failed" if spec["model"]["direction"] == "bi" and spec["seed"] == 2 else "done"

    plan, _, launcher = ask(InstantLauncher(ends), target_half_width=0.03, max_seeds=7)
    assert plan.cell("bidirectional").seeds[:6] == (1, 2, 3, 4, 5, 6)
    assert len(launcher.trained) == len(plan.runs)


def test_a_look_without_any_score_is_no_error(ask):
    plan, outcome, _ = ask(InstantLauncher(lambda spec: "diverged"), target_half_width=0.01)
    assert [look.half_width for look in plan.looks] == [None]
    assert len(outcome.failed) == 6


def test_a_new_study_of_finished_runs_is_audited(ask):
    ask()
    plan, outcome, _ = ask(study="other", audit=lambda plan, corpus: AuditRecord(waived=("A101",)))
    assert outcome.trained == 0
    assert plan.audit == AuditRecord(waived=("A101",))
    again, _, _ = ask(study="other", audit=lambda plan, corpus: pytest.fail("its audit is on record"))
    assert again.audit == plan.audit


def test_results_of_another_version_are_kept_and_trained_again_only_if_asked(ask, tmp_path, monkeypatch):
    old, _, _ = ask()
    before = analysis_of(old, tmp_path).to_json()
    monkeypatch.setattr(training_config, "RESULTS_VERSION", training_config.RESULTS_VERSION + 1)
    idle = InstantLauncher()
    with pytest.raises(ResultsChangedError, match=r"results version 1.*--retrain"):
        ask(idle)
    assert idle.trained == []
    with pytest.raises(ResultsChangedError, match=r"results version 1.*--retrain"):
        ask(cells=())
    new, outcome, _ = ask(retrain=True)
    assert (new.seeds, outcome.trained) == ((1, 2), 6)
    kept = plans.load(tmp_path, "asked.results-1")
    assert analysis_of(kept, tmp_path).to_json() == before
    assert ask()[1].trained == 0


def test_a_study_after_a_power_cut_is_made_good_from_the_rest(ask, tmp_path):
    plan, _, _ = ask()
    before = analysis_of(plan, tmp_path)
    runs = [RunDir(tmp_path / "runs" / s) for cell in plan.cells for s in cell.signatures.values()]
    for run in runs:
        run.checkpoints.mkdir()
        (run.checkpoints / "latest.pt").touch()
        run.write_summary({"val_pesq_wb": run.state.val_pesq_wb})
    (runs[0].path / "state.json").write_text("")
    (runs[1].path / "spec.json").write_text("")
    (scores,) = (runs[1].path / "scores").iterdir()
    whole = scores.read_bytes()
    scores.write_bytes(whole[:100])
    journal = tmp_path / "studies" / plan.name / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"\0" * 100 + b"\n", *lines[3:]]))
    assert len(scores_of_runs(plan, tmp_path)[0]["seed"]) == 4 * (len(runs) - 1), (
        "the report leaves one run out"
    )
    _, outcome, launcher = ask()
    assert [spec["training_signature"] for spec in launcher.trained] == [runs[1].signature]
    assert len(outcome.done) == len(runs)
    assert analysis_of(plan, tmp_path).to_json() == before.to_json()
    (aside,) = (runs[1].path / "scores").glob("*.damaged-*")
    assert aside.read_bytes() == whole[:100]
    trials = optuna.load_study(study_name=plan.name, storage=open_storage(journal.parent)).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * len(plan.runs)


def test_only_runs_whose_results_changed_are_trained_again(ask, tmp_path, monkeypatch):
    """Weight decay once reached every parameter; runs without it are as they were."""
    grid = "weight_decay=0,0.01"
    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "results_version", 1)
        ask(grid=grid)
    with pytest.raises(ResultsChangedError, match=r"results version 1.*--retrain"):
        ask(grid=grid, seeds=(1, 2, 3))
    new, outcome, _ = ask(retrain=True)
    assert outcome.trained == 2
    assert new.former_results is None
    assert plans.load(tmp_path, "asked.results-1").former_results == 1


def test_a_corpus_that_moved_is_read_where_it_is_now(ask, corpus, tmp_path):
    places = [shutil.copytree(corpus, tmp_path / name) for name in ("here", "there")]
    ask(data=places[0])
    shutil.rmtree(places[0])
    plan, outcome, launcher = ask(data=places[1], seeds=(1, 2, 3))
    assert plan.corpus.path == str(places[1])
    assert len(outcome.done) == 9
    assert {spec["corpus"]["path"] for spec in launcher.trained} == {str(places[1])}
    assert {spec["seed"] for spec in launcher.trained} == {3}


def test_cells_that_share_a_training_are_tuned_by_one_run(ask):
    tune = Tuning(space={"recipe.batch_size": "2..4", "recipe.optimizer": "adam,adamw"}, trials=2)
    launcher = InstantLauncher(slots=9)
    plan, outcome, _ = ask(launcher, grid="pcs", seeds=(1,), tune=tune)
    assert len(outcome.done) == 2
    tuning = [spec for spec in launcher.trained if spec["seed"] > 1000]
    assert len(tuning) == 4
    base, pcs, _ = plan.cells
    assert base.tuned == pcs.tuned
    assert isinstance(base.tuned["recipe.batch_size"], int)
    assert base.config.recipe.optimizer == base.tuned["recipe.optimizer"]


@pytest.mark.slow
def test_starting_from_another_study_ends_in_a_report(ask, tmp_path):
    from ablate.reports.build import report_of_study, study_folder, write_folder

    source, _, _ = ask(study="source")
    for run in plans.run_dirs(source, tmp_path).values():
        run.checkpoints.mkdir()
        (run.checkpoints / "best.pt").write_bytes(run.signature.encode())

    def report(plan):
        write_folder(report_of_study(tmp_path, plan.name), study_folder(tmp_path, plan.name))

    plan, outcome, _ = ask(study="next", start_from="best", report=report)
    assert outcome.trained == 6
    page = (plans.study_path(tmp_path, plan.name) / "report" / "report.html").read_text()
    assert "best" in page


def test_a_seed_without_weights_to_start_from_is_not_added(ask, said, tmp_path):
    source, _, _ = ask(study="source", seeds=(1, 2, 3, 4, 5))
    for (_, seed), run in plans.run_dirs(source, tmp_path).items():
        if seed < 5:
            run.checkpoints.mkdir()
            (run.checkpoints / "best.pt").write_bytes(run.signature.encode())
    plan, outcome, _ = ask(study="next", start_from="best", target_half_width=0.001)
    assert (plan.seeds, len(outcome.done)) == ((1, 2), 6)
    assert said[-1].startswith("no runs are added: start_from: best: no other study")
    assert said[-1].endswith("seed 5")


def test_too_many_failures_end_a_session(ask):
    _, outcome, _ = ask(InstantLauncher(lambda spec: "failed", slots=1), compute=Compute(max_failures=1))
    assert len(outcome.failed) == 1
    assert Tracker.stopped == 1
