"""The tracker: what it writes, that it writes it once, and that a lost store or a kill costs nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from ablate.models.errors import InputError
from ablate.studies.identity import root_identity
from ablate.studies.plan import extend
from ablate.studies.redaction import redact, scrub
from ablate.studies.tracking import (
    Mirror,
    TrackerProcess,
    TrackingError,
    connect,
    default_uri,
    mirror,
    prepare,
    store,
)
from ablate.studies.tracking.run_mirror import Child
from ablate.studies.tracking.store import Record
from ablate.training.files import locked
from ablate.training.rundir import RunDir
from ablate.training.train_command.config import TrainingCommand

CURVES = {"train/loss", "val/pesq_wb", "val/stoi", "train/seconds_per_step"}


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def study(toy: Any, schema: Path) -> Any:
    """The toy study over an empty store."""
    shutil.copyfile(schema, toy.root / "mlflow.db")
    return toy


@pytest.fixture
def small(study: Any, study_on_disk: Any) -> Any:
    """The same with one seed."""
    return study_on_disk(study.root, "toy", seeds=(1,))


class Store:
    """What MLflow holds of a study."""

    def __init__(self, study: Any, uri: str | None = None) -> None:
        self.client = connect(uri or default_uri(study.root))
        experiment = self.client.get_experiment_by_name(study.name)
        assert experiment is not None
        self.experiment = experiment
        self.runs = list(self.client.search_runs([experiment.experiment_id], max_results=1000))

    @property
    def parent(self) -> Any:
        (found,) = [run for run in self.runs if run.data.tags["ablate.kind"] == "study"]
        return found

    @property
    def children(self) -> dict[tuple[str, int], Any]:
        found = [run for run in self.runs if run.data.tags["ablate.kind"] == "run"]
        by_key = {(r.data.tags["ablate.cell"], int(r.data.tags["ablate.seed"])): r for r in found}
        assert len(by_key) == len(found), "a cell x seed has two runs"
        return by_key

    def history(self, run: Any) -> dict[str, list[tuple[int, float]]]:
        return {
            key: [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }

    def check_equal_to_disk(self, study: Any) -> None:
        """Every cell x seed has one child, with each step of its run directory once."""
        assert sorted(self.children) == sorted(study.slots())
        for (cell, seed), child in self.children.items():
            history = self.history(child)
            lines = study.run(cell, seed).metrics()
            for key in CURVES | {"train/grad_norm"}:
                name = key if key in lines[-1] else key.removeprefix("train/")
                wanted = [(m["step"], m[name]) for m in lines if m[name] == m[name]]
                assert sorted(history[key]) == sorted(wanted), (cell, seed, key)
            assert all(len(values) == 1 for key, values in history.items() if key.startswith("test/"))
            assert child.info.status == "FINISHED"


def test_a_finished_study(study: Any) -> None:
    for cell, seed in study.slots():
        study.complete(cell, seed, audio=True)
    (study.folder / "report").mkdir()
    (study.folder / "report" / "table.md").write_text("| effect | PESQ |\n|---|---|\n| gap | -0.38 |\n")
    outcome = mirror(study.root, "toy")
    assert outcome, outcome.message
    store = Store(study)
    store.check_equal_to_disk(study)

    child = store.children["base", 2]
    assert child.info.run_name == "base seed 2"
    assert child.data.params["cell"] == "base"
    assert child.data.params["factor.direction"] == "uni"
    assert child.data.params["model.channels"] == "32"
    assert child.data.params["model.crossband"] == "pointwise"
    assert child.data.params["recipe.epochs"] == "none"
    assert child.data.params["parameters"] == "1000"
    tags = child.data.tags
    assert tags["mlflow.parentRunId"] == store.parent.info.run_id
    assert tags["mlflow.source.git.commit"] == "f" * 40
    assert tags["ablate.scan_backend"] == "numba"
    assert tags["ablate.state"] == "done"
    assert "ablate.cause" not in tags
    pesq = study.pesq("base", 2, 60)
    assert child.data.metrics["test/pesq_wb"] == pytest.approx(pesq + 0.1)
    assert child.data.metrics["test/noisy_pesq_wb"] == pytest.approx(1.6)
    assert child.data.metrics["test/errors"] == 1
    assert child.data.metrics["selected/val_pesq_wb"] == pytest.approx(pesq)
    assert "cost/real_time_factor" not in child.data.metrics, "NaN is never logged"
    assert [0 for step, _ in store.history(child)["train/grad_norm"] if step == 0] == []
    inputs = {i.dataset.name: i.tags[0].value for i in child.inputs.dataset_inputs}
    assert inputs == {"demo": "training", "demo (test)": "test"}

    client = store.client
    files = {f.path for f in client.list_artifacts(child.info.run_id)}
    assert files >= {
        "config.json",
        "scores.parquet",
        "scores.csv",
        "metrics.jsonl",
        "audio",
    }
    audio = [f.path for f in client.list_artifacts(child.info.run_id, "audio")]
    assert audio == ["audio/p1_001-enhanced.wav"]

    parent = store.parent
    assert parent.info.status == "FINISHED"
    note = parent.data.tags["mlflow.note.content"]
    assert "| gap | -0.38 |" in note
    assert "Demo corpus" in note
    assert all(run.info.run_id in note for run in store.children.values())
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"plan.json", "report", "audio"}
    audio = [f.path for f in client.list_artifacts(parent.info.run_id, "audio")]
    assert audio == ["audio/p1_001-clean.wav", "audio/p1_001-noisy.wav"], "once for all runs"


def test_a_study_of_a_command_shows_the_commit_of_its_folder(study: Any) -> None:
    theirs = TrainingCommand(command="python t.py {seed} {out} {overrides}", folder="/repo", commit="c" * 40)
    study.write(study.plan.model_copy(update={"train": theirs}))
    mirror(study.root, "toy")
    found = Store(study)
    commits = {run.data.tags["mlflow.source.git.commit"] for run in found.runs}
    assert commits == {"c" * 40}


def test_again_changes_nothing(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for cell, seed in small.slots():
        small.complete(cell, seed)
    assert mirror(small.root, "toy")
    before = {run.info.run_id: run.info.end_time for run in Store(small).runs}
    monkeypatch.setattr(Child, "_send_metrics", lambda *_, **__: pytest.fail("read a run that is complete"))
    assert mirror(small.root, "toy")
    assert {run.info.run_id: run.info.end_time for run in Store(small).runs} == before


def test_passes_while_a_study_runs(study: Any) -> None:
    watching = Mirror(study.root, "toy")
    assert watching.mirror("live") == []
    assert Store(study).parent.info.status == "RUNNING"
    study.start("baseline", 1)
    study.advance("baseline", 1, [0, 20])
    watching.mirror("live")
    store = Store(study)
    assert list(store.children) == [("baseline", 1)], "what has not started has no run"
    child = store.children["baseline", 1]
    assert child.info.status == "RUNNING"
    assert len(store.history(child)["val/pesq_wb"]) == 2
    study.advance("baseline", 1, [40, 60])
    study.finish("baseline", 1)
    watching.mirror("live")
    assert Store(study).children["baseline", 1].info.status == "FINISHED"
    watching.mirror("final")
    store = Store(study)
    assert store.parent.info.status == "KILLED"
    assert store.parent.data.tags["ablate.progress"] == "1 of 4 done"


def test_a_pass_without_news_asks_nobody(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for cell, seed in small.slots():
        small.complete(cell, seed)
    watching = Mirror(small.root, "toy")
    watching.mirror("live")
    monkeypatch.setattr(RunDir, "metrics", lambda _: pytest.fail("read a run again"))
    monkeypatch.setattr(RunDir, "state", property(lambda _: pytest.fail("read a state again")))
    monkeypatch.setattr(Record, "client", property(lambda _: pytest.fail("asked")), raising=False)
    watching.mirror("live")


def test_lines_written_again_after_a_resume_are_not_sent_again(study: Any) -> None:
    study.start("baseline", 1)
    study.advance("baseline", 1, [0, 20, 40])
    watching = Mirror(study.root, "toy")
    watching.mirror("live")
    run = study.run("baseline", 1)
    run.write_metrics([line for line in run.metrics() if line["step"] <= 20])
    study.start("baseline", 1, attempts=2)
    watching.mirror("live")
    study.advance("baseline", 1, [40])
    Mirror(study.root, "toy").mirror("live")
    study.advance("baseline", 1, [60])
    watching.mirror("live")
    store = Store(study)
    steps = [step for step, _ in store.history(store.children["baseline", 1])["val/pesq_wb"]]
    assert sorted(steps) == [0, 20, 40, 60]


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("_remember", 1),
        ("_remember", 2),
        *(pytest.param(w, c, marks=pytest.mark.slow) for w in ("_introduce", "_finish") for c in (1, 2)),
    ],
)
def test_killed_between_two_writes(
    study: Any, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    """Ending just before or just after a step of the bookkeeping leaves nothing twice."""
    for cell, seed in study.slots():
        study.complete(cell, seed)
    whole, calls = getattr(Child, where), 0

    class KilledError(BaseException):
        pass

    def killed(self: Child, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * call:
            raise KilledError
        result = whole(self, *arguments, **options)
        if calls == 2 * call - 1 and call == 2:
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Child, where, killed)
        with pytest.raises(KilledError):
            mirror(study.root, "toy")
    assert mirror(study.root, "toy")
    Store(study).check_equal_to_disk(study)


def test_interrupted_is_killed_and_goes_on_later(study: Any) -> None:
    slots = {"running": ("baseline", 1), "pending": ("baseline", 2)}
    for slot in slots.values():
        study.start(*slot)
        study.advance(*slot, [0, 20])
    watching = Mirror(study.root, "toy")
    watching.mirror("live")
    for state, slot in slots.items():
        study.run(*slot).update_state(state=state)
    watching.mirror("final")
    store = Store(study)
    assert {run.info.status for run in [store.parent, *store.children.values()]} == {"KILLED"}
    for slot in slots.values():
        study.start(*slot, attempts=2)
    Mirror(study.root, "toy").mirror("live")
    assert {run.info.status for run in Store(study).children.values()} == {"RUNNING"}
    for slot in slots.values():
        study.advance(*slot, [40, 60])
        study.finish(*slot)
    assert mirror(study.root, "toy")
    store = Store(study)
    assert sorted(store.children) == sorted(slots.values())
    for child in store.children.values():
        assert child.info.status == "FINISHED"
        assert child.data.tags["ablate.attempts"] == "2"
        assert len(store.history(child)["val/pesq_wb"]) == 4


def test_sync_tells_the_living_from_the_dead(study: Any) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    study.start("baseline", 1)
    study.start("baseline", 2, pid=ended.pid)
    assert mirror(study.root, "toy")
    children = Store(study).children
    assert children["baseline", 1].info.status == "RUNNING"
    assert children["baseline", 2].info.status == "KILLED"
    assert Store(study).parent.info.status == "RUNNING"


def test_how_runs_ended(study: Any) -> None:
    endings = [
        ("diverged", None, "FAILED"),
        ("failed", "out-of-memory", "FAILED"),
        ("failed", "interrupted", "KILLED"),
    ]
    for slot, (state, cause, _) in zip(study.slots(), endings, strict=False):
        study.start(*slot)
        study.advance(*slot, [0, 20])
        study.run(*slot).update_state(state=state, cause=cause, message="loss is NaN at step 23")
    assert mirror(study.root, "toy")
    children = Store(study).children
    assert len(children) == 3
    for slot, (state, cause, status) in zip(study.slots(), endings, strict=False):
        assert children[slot].info.status == status
        tags = children[slot].data.tags
        assert (tags["ablate.state"], tags.get("ablate.cause")) == (state, cause)
        assert tags["ablate.message"] == "loss is NaN at step 23"


def test_a_training_whose_scoring_failed_is_a_failed_run_with_its_curve(study: Any) -> None:
    study.complete("baseline", 1)
    run, evaluation = study.run("baseline", 1), study.plan.cell("baseline").evaluations[1]
    scores = run.scores_path(evaluation).read_bytes()
    run.scores_path(evaluation).unlink()
    failure = {"state": "failed", "attempts": 2, "cause": "error", "message": "no measure 'mine'"}
    run.update_evaluation(evaluation, **failure)
    assert mirror(study.root, "toy")
    store = Store(study)
    child = store.children["baseline", 1]
    assert child.info.status == "FAILED"
    tags = {name: child.data.tags[f"ablate.{name}"] for name in ("state", "cause", "message", "attempts")}
    assert tags == failure | {"state": "done, evaluation failed", "attempts": "2"}
    assert len(store.history(child)["val/pesq_wb"]) == 4
    assert "test/pesq_wb" not in child.data.metrics
    run.scores_path(evaluation).write_bytes(scores)
    run.evaluation_path(evaluation).unlink()
    assert mirror(study.root, "toy")
    again = Store(study).children["baseline", 1]
    assert (again.info.run_id, again.info.status) == (child.info.run_id, "FINISHED")
    assert again.data.tags["ablate.state"] == "done"
    assert "ablate.cause" not in again.data.tags or not again.data.tags["ablate.cause"]
    assert "test/pesq_wb" in again.data.metrics


def test_a_run_shared_by_cells_and_studies(study: Any, study_on_disk: Any) -> None:
    study.complete("baseline", 1)
    other = study_on_disk(study.root, "other", seeds=(1,))
    baseline, base = other.plan.cells
    same = {"signatures": baseline.signatures, "evaluations": baseline.evaluations}
    other.write(other.plan.model_copy(update={"cells": (baseline, base.model_copy(update=same))}))
    assert mirror(study.root, "toy")
    assert mirror(study.root, "other")
    assert sorted(Store(other).children) == [("base", 1), ("baseline", 1)]
    known = json.loads((study.run("baseline", 1).path / "mlflow.json").read_text())
    (by_study,) = known.values()
    assert {name: sorted(children) for name, children in by_study.items()} == {
        "toy": ["baseline seed 1"],
        "other": ["base seed 1", "baseline seed 1"],
    }
    assert by_study["toy"]["baseline seed 1"]["cursor"] == 60


def test_a_run_trained_anew_replaces_what_mlflow_held(study: Any) -> None:
    study.complete("baseline", 1)
    assert mirror(study.root, "toy")
    first = Store(study).children["baseline", 1].info.run_id
    shutil.rmtree(study.run("baseline", 1).path)
    study.pesq = lambda cell, seed, step: 3.0 + step / 1000
    study.complete("baseline", 1)
    assert mirror(study.root, "toy")
    store = Store(study)
    child = store.children["baseline", 1]
    assert child.info.run_id != first
    assert sorted(value for _, value in store.history(child)["val/pesq_wb"]) == [3.0, 3.02, 3.04, 3.06]


def test_a_lost_store_is_rebuilt(small: Any, schema: Path) -> None:
    for cell, seed in small.slots():
        small.complete(cell, seed)
    elsewhere = f"sqlite:///{small.root / 'elsewhere.db'}"
    shutil.copyfile(schema, small.root / "elsewhere.db")
    assert mirror(small.root, "toy", elsewhere)
    assert mirror(small.root, "toy")
    for uri in (None, elsewhere):
        Store(small, uri).check_equal_to_disk(small)
    store = Store(small)
    store.client.delete_run(store.children["baseline", 1].info.run_id)
    assert mirror(small.root, "toy")
    Store(small).check_equal_to_disk(small)
    Store(small).client.delete_experiment(store.experiment.experiment_id)
    assert mirror(small.root, "toy")
    Store(small).check_equal_to_disk(small)


def test_one_unreadable_run_does_not_hold_up_the_others(study: Any) -> None:
    for cell, seed in study.slots():
        study.complete(cell, seed)
    (study.run("baseline", 1).path / "state.json").write_text('{"attempts": "many"}')
    outcome = mirror(study.root, "toy")
    assert not outcome
    assert "baseline seed 1" in outcome.message
    assert len(Store(study).children) == 3


def test_only_one_process_mirrors_a_study_at_a_time(study: Any) -> None:
    with locked(Mirror(study.root, "toy").lock_path):
        outcome = mirror(study.root, "toy")
    assert not outcome
    assert "another process is sending toy" in outcome.message


def test_seeds_added_to_the_plan_are_seen(study: Any) -> None:
    watching = Mirror(study.root, "toy")
    watching.mirror("live")
    study.write(extend(study.plan, (3,), study.root))
    study.complete("baseline", 3)
    watching.mirror("live")
    store = Store(study)
    assert ("baseline", 3) in store.children
    assert store.parent.data.tags["ablate.seeds"] == "1,2,3"


def test_a_long_table_is_cut_at_a_row(study: Any) -> None:
    (study.folder / "report").mkdir()
    rows = "".join(f"| effect {i} | -0.38 |\n" for i in range(1000))
    (study.folder / "report" / "table.md").write_text("| effect | PESQ |\n|---|---|\n" + rows)
    assert mirror(study.root, "toy")
    note = Store(study).parent.data.tags["mlflow.note.content"]
    assert len(note) <= 8000
    *_, last, gap, end = note.split("\n")
    assert last.startswith("| effect")
    assert last.endswith("|")
    assert gap == ""
    assert "the whole table is the artifact report/table.md" in end


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:hunter2@host:5000/x", "https://***@host:5000/x"),
        ("postgresql://me:hunter2@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg://me:p@ss/hunter2@host/db", "postgresql+psycopg://***@host/db"),
        ("postgresql://me:hun?ter2@host/db", "postgresql://***@host/db"),
        ("https://hunter2@host", "https://***@host"),
        (
            "postgresql://host/db?user=me&password=hunter2&sslmode=require",
            "postgresql://host/db?user=***&password=***&sslmode=require",
        ),
        ("https://host/?access_token=hunter2", "https://host/?access_token=***"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    assert "ter2" not in scrub(f"cannot connect to {uri}", uri)


def test_scrub_hides_a_password_on_its_own() -> None:
    text = scrub("login of me failed: hunter2", "postgresql://me:hunter2@host/db")
    assert text == "login of me failed: ***"
    assert scrub("bad token hunter2", "https://hunter2@host") == "bad token ***"


def test_scrub_hides_decoded_passwords_and_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-123")
    text = scrub("p@ss word, p%40ss%20word and tok-123", "postgresql://me:p%40ss%20word@host/db")
    assert text == "***, *** and ***"


@pytest.mark.parametrize("name", ["../toy", "a/b", "..", ".", "", "a\\b"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="study name"):
        mirror(tmp_path, name)


def test_an_unknown_study_names_the_known(toy: Any) -> None:
    with pytest.raises(InputError, match=r"no study 'tyo' under .*; did you mean 'toy'"):
        mirror(toy.root, "tyo")


def test_no_secret_is_written_or_said(study: Any) -> None:
    study.complete("baseline", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(TrackingError, match="does not answer") as error:
        mirror(study.root, "toy", f"http://me:hunter2@127.0.0.1:{port}")
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
    for path in study.root.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


# The process beside the driver


def wait_for(condition: Any, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.mark.slow
def test_process_follows_and_ends_with_a_final_pass(study: Any) -> None:
    process = TrackerProcess(study.root, "toy")
    process.start()
    for cell, seed in study.slots():
        study.start(cell, seed)
    study.advance("baseline", 1, [0, 20])
    known = study.run("baseline", 1).path / "mlflow.json"
    wait_for(known.exists)
    study.advance("baseline", 1, [40, 60])
    study.finish("baseline", 1)
    outcome = process.stop()
    assert outcome, outcome.message
    children = Store(study).children
    assert {key: run.info.status for key, run in children.items()} == {
        ("baseline", 1): "FINISHED",
        ("baseline", 2): "KILLED",
        ("base", 1): "KILLED",
        ("base", 2): "KILLED",
    }


@pytest.mark.slow
def test_process_ends_its_work_when_the_driver_is_killed(study: Any) -> None:
    study.start("baseline", 1)
    code = (
        "import sys, time; from ablate.studies.tracking import TrackerProcess;"
        f"t = TrackerProcess({str(study.root)!r}, 'toy'); t.start(); print(t._process.pid, flush=True);"
        "time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    wait_for((study.run("baseline", 1).path / "mlflow.json").exists)
    driver.kill()
    driver.wait()
    wait_for(lambda: not _runs(pid))
    assert Store(study).children["baseline", 1].info.status == "KILLED"


def _runs(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def forked() -> Any:
    """Starts processes that need not import MLflow anew."""
    connect("sqlite://")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mlflow.store.tracking.sqlalchemy_store", "pandas", "matplotlib.figure", "ablate.studies.tracking"]
    )
    return context


@pytest.mark.slow
def test_killed_at_random_moments(study: Any, forked: Any) -> None:
    """kill -9 of the mirroring process again and again while runs go on, are resumed and end."""
    draw = random.Random(7)
    for cell, seed in study.slots():
        study.start(cell, seed)
    for step in (0, 20, 40, 60):
        for cell, seed in study.slots():
            study.advance(cell, seed, [step])
            if step == 40 and seed == 1:
                run = study.run(cell, seed)
                run.write_metrics([line for line in run.metrics() if line["step"] <= 20])
                study.advance(cell, seed, [40])
            if step == 60:
                study.finish(cell, seed)
        for _ in range(2):
            process = forked.Process(target=mirror, args=(study.root, "toy"))
            process.start()
            time.sleep(draw.uniform(0.1, 2.5))
            process.kill()
            process.join()
    assert mirror(study.root, "toy")
    Store(study).check_equal_to_disk(study)


@pytest.fixture
def server(tmp_path: Path, schema: Path) -> Iterator[Any]:
    """An MLflow server that can be stopped and started on the same port."""
    shutil.copyfile(schema, tmp_path / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"),
        *("--artifacts-destination", str(tmp_path / "server-artifacts")),
    ]
    environment = os.environ | store.CLIENT_SETTINGS | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    class Server:
        uri = f"http://127.0.0.1:{port}"
        process: subprocess.Popen[bytes] | None = None

        def start(self) -> None:
            self.process = subprocess.Popen(
                command,
                start_new_session=True,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_for(self.answers, 120)

        def answers(self) -> bool:
            import urllib.request

            try:
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
            except OSError:
                return False

        def stop(self) -> None:
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                self.process = None

    found = Server()
    yield found
    found.stop()


@pytest.mark.slow
def test_server_down_then_up(study: Any, server: Any) -> None:
    process = TrackerProcess(study.root, "toy", server.uri)
    process.start()
    wait_for(process.log.exists)
    assert f"{server.uri} does not answer" in process.log.read_text()
    study.start("baseline", 1)
    study.advance("baseline", 1, [0, 20])
    server.start()
    wait_for(lambda: "accepts everything again" in process.log.read_text(), 120)
    assert Store(study, server.uri).children["baseline", 1].info.status == "RUNNING"
    server.stop()
    study.advance("baseline", 1, [40, 60])
    study.finish("baseline", 1)
    begun = time.monotonic()
    outcome = process.stop()
    assert time.monotonic() - begun < 60
    assert not outcome
    assert "ablate sync toy" in outcome.message
    for cell, seed in study.slots():
        if (cell, seed) != ("baseline", 1):
            study.complete(cell, seed)
    server.start()
    assert mirror(study.root, "toy", server.uri)
    Store(study, server.uri).check_equal_to_disk(study)


@pytest.mark.slow
def test_server_that_never_answers_is_left(study: Any) -> None:
    study.complete("baseline", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = TrackerProcess(study.root, "toy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        process.start()
        time.sleep(4)
        begun = time.monotonic()
        outcome = process.stop(timeout=5)
        assert time.monotonic() - begun < 8
    assert not outcome
    assert "no data is lost" in outcome.message


@pytest.mark.slow
def test_many_processes_make_one_schema(tmp_path: Path, forked: Any) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    started = [forked.Process(target=prepare, args=(uri,)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * 3
    assert connect(uri).search_experiments()


DIES_WHILE_IT_MAKES_A_SCHEMA = """
import os, sys
from mlflow.store.db import utils
from ablate.studies.tracking import prepare
utils._upgrade_db = lambda engine: os._exit(9)
prepare(sys.argv[1])
"""


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_schema_spoils_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    killed = subprocess.run([sys.executable, "-c", DIES_WHILE_IT_MAKES_A_SCHEMA, uri], timeout=300)
    assert killed.returncode == 9
    prepare(uri)
    assert connect(uri).search_experiments()


@pytest.mark.slow
def test_sync_to_postgresql(toy: Any, postgresql: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A study is mirrored once however often it is sent, and the password shows nowhere."""
    import psycopg

    from ablate.studies.commands.tracking import sync

    secret = "hun%25ter2"
    address = postgresql.removeprefix("postgresql://postgres").removesuffix("postgres")
    uri = f"postgresql+psycopg://postgres:{secret}{address}mirror"
    with psycopg.connect(postgresql, autocommit=True) as server:
        server.execute("CREATE DATABASE mirror")
    for cell, seed in toy.slots():
        toy.complete(cell, seed)

    def rows() -> dict[str, int]:
        with psycopg.connect(postgresql.removesuffix("postgres") + "mirror") as server:
            names = ("runs", "metrics", "params", "tags", "inputs", "experiments")
            return {n: server.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names}  # type: ignore[index]

    sync("toy", toy.root, uri)
    Store(toy, uri).check_equal_to_disk(toy)
    before, ended = rows(), {run.info.run_id: run.info.end_time for run in Store(toy, uri).runs}
    sync("toy", toy.root, uri)
    assert rows() == before
    assert {run.info.run_id: run.info.end_time for run in Store(toy, uri).runs} == ended

    with pytest.raises(typer.Exit) as left:
        sync("toy", toy.root, uri.replace("/mirror", "/missing"))
    assert left.value.exit_code == 4
    output = "".join(capfd.readouterr())
    assert output.count("toy is complete in postgresql+psycopg://***@127.0.0.1") == 2
    assert "does not answer" in output
    for hidden in (secret, unquote(secret)):
        assert hidden not in output
        for path in toy.root.rglob("*"):
            assert hidden not in str(path)
            assert not path.is_file() or hidden.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["a?b", "half%20done", "?mode=memory"])
def test_a_root_may_have_any_name(study_on_disk, schema, tmp_path, name):
    study = study_on_disk(tmp_path / name / "root", seeds=(1,), cells=1)
    shutil.copyfile(schema, study.root / "mlflow.db")
    for slot in study.slots():
        study.complete(*slot)
    empty = (study.root / "mlflow.db").read_bytes()
    assert mirror(study.root, study.name).complete
    assert len(Store(study).runs) == 2
    assert (study.root / "mlflow.db").read_bytes() != empty
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_two_roots_on_one_server_keep_their_runs(study_on_disk: Any, server: Any, tmp_path: Path) -> None:
    """Two roots train a study of one name; a third is a copy of the first."""
    from ablate.reports.sources import scores_from_mlflow

    roots = [study_on_disk(tmp_path / name, "toy", seeds=(1,)) for name in ("one", "two")]
    roots[1].pesq = lambda cell, seed, step: 3.0
    for study in roots:
        for cell, seed in study.slots():
            study.complete(cell, seed)
    server.start()
    for study in (*roots, *roots):
        assert mirror(study.root, "toy", server.uri)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert mirror(tmp_path / "copy", "toy", server.uri)
    assert len({root_identity(tmp_path / name) for name in ("one", "two", "copy")}) == 3
    client = connect(server.uri)
    found = {e.name: e.experiment_id for e in client.search_experiments() if e.name.startswith("toy")}
    others = [f"toy@{root_identity(tmp_path / name)}" for name in ("two", "copy")]
    assert set(found) == {"toy", *others}
    for name, root in zip(("toy", *others), ("one", "two", "copy"), strict=True):
        runs = client.search_runs([found[name]], run_view_type=3)  # deleted ones too
        assert len(runs) == 3
        assert {run.info.lifecycle_stage for run in runs} == {"active"}
        assert {run.data.tags["ablate.root"] for run in runs} == {root_identity(tmp_path / root)}
    with pytest.raises(InputError, match=f"several roots .*{others[0]}|{others[1]}"):
        scores_from_mlflow(server.uri, "toy", "toy")
    for name, study in zip(("toy@first", others[0]), roots, strict=True):
        scores, _ = scores_from_mlflow(server.uri, name, name)
        assert scores["pesq_wb"].min() == pytest.approx(study.pesq(*study.slots()[0], 60), abs=0.5)


@pytest.mark.slow
def test_runs_without_the_roots_name_are_its_own_if_it_names_them(small: Any, server: Any) -> None:
    for cell, seed in small.slots():
        small.complete(cell, seed)
    server.start()
    assert mirror(small.root, "toy", server.uri)
    store = Store(small, server.uri)
    for run in store.runs:
        store.client.delete_tag(run.info.run_id, "ablate.root")
    assert mirror(small.root, "toy", server.uri)
    again = Store(small, server.uri)
    assert {run.info.run_id for run in again.runs} == {run.info.run_id for run in store.runs}
    assert {run.data.tags["ablate.root"] for run in again.runs} == {root_identity(small.root)}


def test_a_root_keeps_its_name_when_it_moves_and_a_copy_gets_another(tmp_path: Path) -> None:
    name = root_identity(tmp_path / "one")
    assert root_identity(tmp_path / "one") == name
    (tmp_path / "one").rename(tmp_path / "moved")
    assert root_identity(tmp_path / "moved") == name
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    other = root_identity(tmp_path / "copy")
    assert other != name
    assert (root_identity(tmp_path / "copy"), root_identity(tmp_path / "moved")) == (other, name)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "identity").write_text("0123456789ab")  # as earlier versions wrote it
    assert root_identity(tmp_path / "old") == "0123456789ab"
