"""The table of outcomes over every state of a run directory and every report of a launcher."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from ablate.studies.retry_policy import RETRIED, Action, Exit, at_start, decide, is_final
from ablate.training.rundir import Cause, RunState

OWN = (
    "time-limit",
    "configuration",
    "data",
    "output",
    "same-for-every-seed",
    "changed-link",
    "error",
    "cancelled",
    "a cause of tomorrow",
)
STATES = {
    "pending": RunState(),
    "asked to stop": RunState(state="pending", cause="interrupted"),
    "running": RunState(state="running"),
    "done": RunState(state="done"),
    "diverged": RunState(state="diverged"),
    **{cause: RunState(state="failed", cause=cause) for cause in (*sorted(RETRIED), *OWN)},
    "failed without a cause": RunState(state="failed"),
}
EXITS = get_args(Exit)
FINAL = ("diverged", *OWN, "failed without a cause")
FLAGS = ("scored", "locked", "retries_left", "divisible")
ALL = [
    (name, exit, dict(zip(FLAGS, flags, strict=True)))
    for name, exit, flags in product(STATES, EXITS, product((True, False), repeat=len(FLAGS)))
]


def test_every_case_has_one_consistent_action():
    for name, exit, facts in ALL:
        action = decide(STATES[name], exit, **facts)
        case = (name, exit, facts, action)
        if name == "done" and facts["scored"]:
            assert action == Action("done"), case
            continue
        assert action.then != "done", case
        assert (action.then == "wait") == (facts["locked"] and name not in FINAL), case
        assert action.becomes in (None, "pending", "failed"), case
        assert not action.smaller or (action.then == "retry" and facts["divisible"]), case
        assert action.then != "retry" or (facts["retries_left"] and action.cause), case
        assert (action.cause is None) == (action.then in ("wait", "requeue")), case


def test_no_report_overwrites_a_final_state():
    for name, exit, facts in ALL:
        if name in (*FINAL, "done"):
            assert decide(STATES[name], exit, **facts).becomes is None, (name, exit, facts)


@pytest.mark.parametrize("exit", EXITS)
@pytest.mark.parametrize("name", FINAL)
def test_what_failed_for_its_own_reason_is_trained_once(name, exit):
    state = STATES[name]
    for locked in (False, True):
        action = decide(state, exit, scored=False, locked=locked)
        assert action == Action("fail", state.cause or state.state)


@pytest.mark.parametrize(
    ("name", "exit", "expected"),
    [
        ("running", "killed", Action("retry", "lost-worker", "pending")),
        ("running", "finished", Action("retry", "lost-worker", "pending")),
        ("running", "preempted", Action("retry", "preempted", "pending")),
        ("running", "out-of-memory", Action("retry", "out-of-memory", "pending", smaller=True)),
        ("running", "cancelled", Action("fail", "cancelled", "failed")),
        ("running", "stopped", Action("leave", "interrupted", "pending")),
        ("running", "busy", Action("requeue")),
        ("pending", "killed", Action("retry", "lost-worker", "pending")),
        ("pending", "refused", Action("fail", "refused", "failed")),
        ("asked to stop", "finished", Action("retry", "interrupted", "pending")),
        ("asked to stop", "preempted", Action("retry", "preempted", "pending")),
        ("asked to stop", "cancelled", Action("fail", "cancelled", "failed")),
        ("out-of-memory", "finished", Action("retry", "out-of-memory", "pending", smaller=True)),
        ("out-of-memory", "killed", Action("retry", "out-of-memory", "pending", smaller=True)),
        ("lost-worker", "out-of-memory", Action("retry", "out-of-memory", "pending", smaller=True)),
        ("out-of-memory", "stopped", Action("leave", "interrupted")),
        ("device", "killed", Action("retry", "device", "pending")),
        ("done", "finished", Action("retry", "not scored")),
        ("done", "killed", Action("retry", "lost-worker")),
        ("done", "stopped", Action("leave", "interrupted")),
    ],
)
def test_lost_attempts(name, exit, expected):
    assert decide(STATES[name], exit, scored=False) == expected


@pytest.mark.parametrize("retry_failed", [False, True])
@pytest.mark.parametrize("cause", [*sorted(RETRIED), *OWN])
def test_a_scoring_that_failed_leaves_the_training_done(cause, retry_failed):
    done, again = STATES["done"], cause in RETRIED
    found = at_start(done, scored=False, unscorable=cause, retry_failed=retry_failed)
    assert found == ("run" if again else "retry-failed" if retry_failed else "fail")
    assert decide(done, "finished", scored=False, unscorable=cause).becomes is None
    assert decide(done, "finished", scored=False, unscorable=cause).then == ("retry" if again else "fail")
    assert decide(done, "finished", scored=True, unscorable=cause) == Action("done")
    for exit in EXITS:
        action = decide(done, exit, scored=False, unscorable=cause)
        assert action.becomes is None
        assert action.cause is not None or action.then == "requeue"


def test_attempts_end():
    lost = decide(STATES["running"], "killed", scored=False, retries_left=False)
    assert lost == Action("fail", "lost-worker", "failed")
    whole = decide(STATES["out-of-memory"], "finished", scored=False, divisible=False)
    assert whole == Action("fail", "out-of-memory", "failed")
    assert at_start(STATES["out-of-memory"], scored=False, divisible=False) == "fail"
    again = at_start(STATES["out-of-memory"], scored=False, divisible=False, retry_failed=True)
    assert again == "retry-failed"


@pytest.mark.parametrize("name", STATES)
def test_what_a_driver_finds(name):
    state = STATES[name]
    assert is_final(state) == (name in FINAL)
    found = {
        (scored, retry): at_start(state, scored=scored, retry_failed=retry)
        for scored, retry in product((True, False), repeat=2)
    }
    if name == "output":  # of earlier versions: the training is scored again, which trains nothing
        assert set(found.values()) == {"run"}
    elif name in FINAL:
        assert {found[s, False] for s in (True, False)} == {"fail"}
        assert {found[s, True] for s in (True, False)} == {"retry-failed"}
    else:
        assert found[False, True] == found[False, False] == "run"
        assert found[True, False] == ("done" if name == "done" else "run")


def test_every_cause_that_a_run_records_is_known():
    assert set(get_args(Cause)) <= RETRIED | set(OWN)
