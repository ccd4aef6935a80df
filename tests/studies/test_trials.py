"""One suite for every Optuna storage."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from ablate.models.errors import InputError
from ablate.studies import database
from ablate.studies.tracking import resolve_uri
from ablate.studies.trials import POINTS, TrialBook, open_storage, plan_book, study_key, thinned


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request):
    return None if request.param == "journal" else request.getfixturevalue("postgresql")


@pytest.fixture
def opened(url, tmp_path):
    return lambda: open_storage(tmp_path, url)


@pytest.fixture
def name(request):
    return request.node.name


KINDS = {"core": CategoricalDistribution(["lstm", "mamba"])}


def test_a_trial_goes_from_waiting_to_complete(opened, name):
    book = TrialBook(opened(), name)
    entry = book.add(("base", 1), {"core": "mamba"}, KINDS, {"training_signature": "abc"})
    assert entry.state == TrialState.WAITING
    book.start(entry)
    book.complete(entry, 2.5, {10: 2.1, 20: 2.5})
    (trial,) = optuna.load_study(storage=opened(), study_name=name).get_trials()
    assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, 2.5, {"core": "mamba"})
    assert trial.intermediate_values == {10: 2.1, 20: 2.5}
    assert trial.user_attrs == {"cell": "base", "seed": 1, "training_signature": "abc"}


def test_a_second_look_finds_the_same_trials(opened, name):
    first = TrialBook(opened(), name)
    entry = first.add(("base", 1), {"core": "mamba"}, KINDS, {})
    first.start(entry)
    second = TrialBook(opened(), name)
    assert second.trials[("base", 1)].state == TrialState.RUNNING
    assert second.trials[("base", 1)].number == entry.number


def test_complete_happens_once(opened, name):
    book = TrialBook(opened(), name)
    entry = book.add(("base", 1), {"core": "lstm"}, KINDS, {})
    book.complete(entry, 2.0, {})
    book.complete(entry, 3.0, {})
    book.fail(entry, "error")
    (trial,) = optuna.load_study(storage=opened(), study_name=name).get_trials()
    assert (trial.value, trial.state) == (2.0, TrialState.COMPLETE)


def test_a_retry_is_a_new_trial_that_names_the_old_one(opened, name):
    book = TrialBook(opened(), name)
    entry = book.add(("base", 1), {"core": "lstm"}, KINDS, {"training_signature": "abc"})
    book.fail(entry, "lost-worker")
    again = book.retry(entry)
    book.complete(again, 2.0, {})
    trials = optuna.load_study(storage=opened(), study_name=name).get_trials()
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[0].user_attrs["cause"] == "lost-worker"
    assert trials[1].user_attrs == {
        "cell": "base",
        "seed": 1,
        "training_signature": "abc",
        "retry_of": trials[0].number,
    }
    assert TrialBook(opened(), name).trials[("base", 1)].number == again.number


def test_processes_that_open_a_book_at_once_agree(opened, name, url, tmp_path):
    script = (
        "import sys; from pathlib import Path; from ablate.studies.trials import TrialBook, open_storage; "
        f"TrialBook(open_storage(Path({str(tmp_path)!r}), {url!r}), {name!r})"
    )
    opened()
    racing = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    for process in racing:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    assert optuna.get_all_study_names(opened()).count(name) == 1


def test_sqlite_is_refused_as_a_queue(tmp_path):
    with pytest.raises(ValueError, match="SQLite cannot be used as a queue"):
        open_storage(tmp_path, "sqlite:///x.db")


def test_two_roots_with_studies_of_one_name_share_no_trial(opened, url, make_plan, tmp_path):
    plan, storage = make_plan("bidirectional", (1,)), opened()
    roots = [tmp_path / name for name in ("one", "two")]
    one, two = (plan_book(storage, plan, key=study_key(plan, root, url or "postgresql://")) for root in roots)
    one.complete(one.trials["base", 1], 2.0, {})
    assert two.trials["base", 1].trial_id != one.trials["base", 1].trial_id
    (keys,) = {study_key(plan, roots[0], "postgresql://")}
    again = plan_book(storage, plan, key=keys)
    assert again.trials["base", 1].state == TrialState.COMPLETE
    roots[0].rename(tmp_path / "moved")
    assert study_key(plan, tmp_path / "moved", "postgresql://") == keys
    assert study_key(plan, tmp_path / "moved") == plan.name


SECRET = "postgresql://me:open-sesame@127.0.0.1:9/none"


def test_no_password_of_a_database_is_told(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match="does not answer") as told:
        open_storage(tmp_path, SECRET)
    assert "open-sesame" not in str(told.value)
    assert told.value.__cause__ is None


def test_a_password_on_the_command_line_is_refused(tmp_path, monkeypatch):
    for words in (["--storage", SECRET], [f"--storage={SECRET}"]):
        monkeypatch.setattr(sys, "argv", ["ablate", "run", *words])
        with pytest.raises(InputError, match="ABLATE_STORAGE") as told:
            open_storage(tmp_path, SECRET)
        assert "open-sesame" not in str(told.value)
    monkeypatch.setattr(sys, "argv", ["ablate", "run", "--tracking-uri", SECRET])
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        resolve_uri(tmp_path, SECRET)


def test_what_a_trial_takes_does_not_grow_with_the_grid(make_plan, tmp_path):
    sizes = []
    for grid in (
        "bidirectional,norm=layer,group",
        "bidirectional,norm=layer,group,d_state=8,12,16,20,24,28,32,36",
    ):
        plan = make_plan(grid, (1,))
        folder = tmp_path / str(len(plan.cells))
        plan_book(open_storage(folder), plan)
        sizes.append((folder / "journal.log").stat().st_size / len(plan.cells))
    assert sizes[1] < 1.5 * sizes[0]


@pytest.fixture(scope="module")
def journal(make_plan, tmp_path_factory):
    """A plan, and the journal of a study that trained it."""
    plan, folder = make_plan("bidirectional", (1,)), tmp_path_factory.mktemp("journal")
    book = plan_book(open_storage(folder), plan)
    for entry in list(book.trials.values()):
        book.complete(entry, 2.0, {10: 1.5, 20: 2.0})
    return plan, (folder / "journal.log").read_bytes()


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 3000), tail=st.sampled_from([b"", b"\0" * 512]))
def test_a_journal_cut_anywhere_goes_on(journal, tmp_path_factory, cut, tail):
    plan, whole = journal
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "journal.log"
    path.write_bytes(whole[: max(0, len(whole) - cut)] + tail)
    for _ in range(2):
        book = plan_book(open_storage(folder), plan)
        for entry in list(book.trials.values()):
            book.complete(entry, 2.0, {10: 1.5, 20: 2.0})
    assert [p.name for p in folder.iterdir()] == ["journal.log"]
    studied = optuna.load_study(storage=open_storage(folder), study_name=plan.name)
    assert sum(trial.state == TrialState.COMPLETE for trial in studied.get_trials()) == len(plan.runs)


@pytest.mark.parametrize(
    "line", [b'{"op_code": 4, "wor\n', b"\0" * 100 + b"\n", b'{"op_code": 77}\n', b"3\n"]
)
def test_a_journal_that_cannot_be_read_is_set_aside(journal, tmp_path, caplog, line):
    plan, whole = journal
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([*lines[:2], line, *lines[3:]])
    (tmp_path / "journal.log").write_bytes(damaged)
    book = plan_book(open_storage(tmp_path), plan)
    assert {entry.state for entry in book.trials.values()} == {TrialState.WAITING}
    (aside,) = tmp_path.glob("journal.log.damaged-*")
    assert aside.read_bytes() == damaged
    assert "journal.log cannot be read" in caplog.text


def test_what_optuna_itself_reads_and_writes_is_the_same(journal, tmp_path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    plan, whole = journal
    (tmp_path / "journal.log").write_bytes(whole)
    theirs = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.load_study(storage=theirs, study_name=plan.name)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    ours = optuna.load_study(storage=open_storage(tmp_path), study_name=plan.name)
    assert ours.get_trials() == study.get_trials()


def test_a_long_curve_is_thinned_for_optuna(tmp_path):
    curve = {step: step / 20_000 for step in range(1, 20_001)}
    kept = thinned(curve)
    assert (len(kept), min(kept), max(kept)) == (POINTS, 1, 20_000)
    assert thinned({5: 1.0, 1: 2.0}) == {1: 2.0, 5: 1.0}
    book = TrialBook(open_storage(tmp_path), "study")
    book.complete(book.add(("base", 1), {}, {}, {}), 2.5, curve)
    assert len((tmp_path / "journal.log").read_text().splitlines()) < POINTS + 10


def test_a_cell_that_is_another_training_by_now_has_a_trial_of_its_own(make_plan, tmp_path):
    old = make_plan("bidirectional", (1,), steps=10)
    new = make_plan("bidirectional", (1,), steps=20)
    book = plan_book(open_storage(tmp_path), old)
    done, waiting = book.trials["base", 1], book.trials["bidirectional", 1]
    book.complete(done, 2.0, {})
    entries = plan_book(open_storage(tmp_path), new).trials
    assert entries == plan_book(open_storage(tmp_path), new).trials
    for cell, former in (("base", done), ("bidirectional", waiting)):
        entry = entries[cell, 1]
        assert entry.state == TrialState.WAITING
        assert entry.attributes["training_signature"] == new.cell(cell).signatures[1]
        assert entry.attributes["retry_of"] == former.number


@pytest.mark.slow
def test_dropped_connections_and_a_restart_of_the_server_lose_no_trial(
    postgresql, postgresql_stopped, make_plan, tmp_path
):
    import psycopg

    plan = make_plan("bidirectional", (1, 2), name="patient")
    storage = open_storage(tmp_path, postgresql)
    book = plan_book(storage, plan, key="patient")
    first, second, *_ = book.trials.values()
    book.start(first)
    with psycopg.connect(postgresql, autocommit=True) as admin:
        dropped = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
    assert dropped
    book.complete(first, 2.5, {1: 2.0, 2: 2.5})
    with ThreadPoolExecutor() as threads:
        with postgresql_stopped():
            waiting = threads.submit(book.complete, second, 3.5, {1: 3.5})
            assert not wait([waiting], timeout=3).done
        waiting.result(timeout=120)
    found = plan_book(open_storage(tmp_path, postgresql), plan, key="patient").trials
    assert [found[entry.key].state.name for entry in (first, second)] == ["COMPLETE", "COMPLETE"]
    assert {entry.number for entry in found.values()} == {entry.number for entry in book.trials.values()}


def test_a_database_that_stays_away_is_said_without_its_password(monkeypatch, tmp_path):
    def away(*_):
        cause = OperationalError("SELECT 1", {}, Exception("connection refused by me:open-sesame"))
        raise StorageInternalError("no answer") from cause

    monkeypatch.setattr(database, "PATIENCE", 0.0)
    monkeypatch.setattr(database, "PAUSE", 0.0)
    storage = SimpleNamespace(url=SECRET)
    with pytest.raises(InputError, match="same command continues the runs") as told:
        database._patient(away)(storage)
    assert "open-sesame" not in str(told.value)


def test_a_lock_left_in_a_root_that_was_moved_holds_nothing_up(tmp_path):
    open_storage(tmp_path, None)
    (tmp_path / "journal.log.lock").symlink_to(tmp_path / "where-it-was" / "journal.log")
    storage = open_storage(tmp_path, None)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    assert [study.study_name for study in storage.get_all_studies()] == ["s"]
