from __future__ import annotations

import json
import os
import socket
import time

import pytest

from ablate.studies import lease as leases
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.lease import Lease, LeaseLostError, StudyHeldError, hold
from ablate.studies.trials import TrialBook, open_storage, plan_book
from ablate.training.rundir import read_json, write_json


def note(folder):
    return read_json(folder / "driver.json")


def take_over(folder):
    """What a driver on another host writes when it takes the study."""
    write_json(
        folder / "driver.json",
        {"host": "elsewhere", "pid": 1, "token": note(folder)["token"] + 1},
    )


def renewed(folder):
    return (folder / "driver.json").stat().st_mtime


def test_one_driver_holds_a_study(tmp_path):
    with hold(tmp_path), pytest.raises(StudyHeldError, match=f"process {os.getpid()}"), hold(tmp_path):
        pass
    with hold(tmp_path):
        assert note(tmp_path)["host"] == socket.gethostname()


def test_a_driver_on_another_host_is_respected_until_its_lease_expires(tmp_path):
    write_json(tmp_path / "driver.json", {"host": "elsewhere", "pid": 1})
    with pytest.raises(StudyHeldError, match="elsewhere"), hold(tmp_path):
        pass
    os.utime(tmp_path / "driver.json", (time.time() - 3600,) * 2)
    with hold(tmp_path):
        pass


def test_a_study_given_back_is_free_on_every_host(tmp_path, monkeypatch):
    with hold(tmp_path):
        pass
    monkeypatch.setattr(leases.socket, "gethostname", lambda: "elsewhere")
    with hold(tmp_path):
        assert note(tmp_path)["host"] == "elsewhere"
    with hold(tmp_path):
        pass


def test_the_clocks_of_two_hosts_may_differ(tmp_path, monkeypatch):
    write_json(tmp_path / "driver.json", {"host": "elsewhere", "pid": 1})
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with pytest.raises(StudyHeldError, match="elsewhere"), hold(tmp_path):
        pass


def test_every_driver_has_a_higher_token(tmp_path):
    tokens = []
    for _ in range(3):
        with hold(tmp_path) as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]
    assert note(tmp_path)["token"] == 3


def test_the_lease_is_renewed_while_the_driver_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "EXPIRES", 0.3)
    with hold(tmp_path):
        first = renewed(tmp_path)
        deadline = time.time() + 120
        while renewed(tmp_path) - first < 0.3 and time.time() < deadline:
            time.sleep(0.02)
        assert renewed(tmp_path) - first >= 0.3


def test_a_takeover_right_after_the_check_stands(tmp_path, monkeypatch):
    check, taken = Lease.check, []

    def late(lease):
        check(lease)
        take_over(tmp_path)
        taken.append(note(tmp_path))

    monkeypatch.setattr(leases, "EXPIRES", 0.3)
    monkeypatch.setattr(Lease, "check", late)
    with hold(tmp_path) as lease:
        lease._heartbeat.join(30)
        assert not lease._heartbeat.is_alive()
        assert [note(tmp_path)] == taken


def test_a_driver_that_lost_its_lease_neither_renews_nor_removes_the_note_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "EXPIRES", 3.0)
    with hold(tmp_path) as lease:
        take_over(tmp_path)
        taken = note(tmp_path)
        with pytest.raises(LeaseLostError, match="taken over by process 1 on elsewhere"):
            lease.check()
        lease._heartbeat.join(30)
        assert not lease._heartbeat.is_alive()
    assert note(tmp_path) == taken
    assert time.time() - renewed(tmp_path) < 3600


def test_a_note_that_somebody_deleted_ends_the_lease(tmp_path):
    with hold(tmp_path) as lease:
        (tmp_path / "driver.json").unlink()
        with pytest.raises(LeaseLostError):
            lease.check()
    assert note(tmp_path) is None


@pytest.mark.parametrize("write", ["add", "start", "complete", "fail", "retry"])
def test_trials_are_not_written_with_an_older_token(tmp_path, write):
    with hold(tmp_path) as lease:
        book = TrialBook(open_storage(tmp_path), "study", lease.check)
        waiting = book.add(("base", 1), {}, {}, {})
        failed = book.add(("base", 2), {}, {}, {})
        book.fail(failed, "data")
        take_over(tmp_path)
        before = (tmp_path / "journal.log").read_bytes()
        arguments = {
            "add": (("base", 3), {}, {}, {}),
            "start": (waiting,),
            "complete": (waiting, 2.0, {}),
            "fail": (waiting, "data"),
            "retry": (failed,),
        }
        with pytest.raises(LeaseLostError):
            getattr(book, write)(*arguments[write])
        with pytest.raises(LeaseLostError):
            TrialBook(open_storage(tmp_path), "another", lease.check)
        assert (tmp_path / "journal.log").read_bytes() == before


def test_a_driver_whose_study_was_taken_over_stops(make_plan, tmp_path):
    from ablate.studies.launchers import Launcher

    class Endless(Launcher):
        slots = free = 1
        closed = False

        def submit(self, task):
            take_over(folder)

        def wait(self, timeout):
            raise AssertionError("the driver went on")

        stop = close = lambda self: None

    plan = make_plan("bidirectional", (1,))
    folder = tmp_path / "studies" / plan.name
    with hold(folder) as lease:
        jobs = plan_jobs(plan, tmp_path, plan_book(open_storage(folder), plan, lease.check))
        with pytest.raises(LeaseLostError):
            Driver(Endless(), check=lease.check).run(jobs)
    assert json.loads((folder / "driver.json").read_text())["host"] == "elsewhere"
