"""The SLURM launcher on stand-ins for SLURM's commands: refusals, silence, deaths at the wrong moment."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from ablate.models.errors import InputError
from ablate.studies.launchers import Job
from ablate.studies.launchers import slurm as launchers
from ablate.studies.launchers.slurm import SlurmLauncher, find_job, job_states, parse_parameters
from ablate.studies.launchers.slurm_job import agreed_device, time_is_up
from ablate.studies.retry_policy import Action, decide
from ablate.training.rundir import RunDir, read_json, write_json

STAND_IN = '''#!{python}
"""Keeps jobs in jobs.json: id -> [name, state]. `{{command}}.fails` holds how often a command fails first."""
import json, re, sys, time
from pathlib import Path

here = Path(__file__).parent
command, words = Path(__file__).name, sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([command, *words]) + "\\n")
fails = here / f"{{command}}.fails"
left = int(fails.read_text()) if fails.exists() else 0
if left:
    fails.write_text(str(left - 1))
hangs = here / f"{{command}}.hangs"
if hangs.exists():
    time.sleep(30)
book = here / "jobs.json"
jobs = json.loads(book.read_text()) if book.exists() else {{}}
if command == "sbatch":
    script = Path(words[0]).read_text()
    name = re.search("--job-name=(.*)", script)[1]
    array = re.search("--array=0-([0-9]+)", script)
    first = str(100 + len(jobs))
    limit, wanted = here / "limit", int(array[1]) + 1 if array else 1
    running = sum(state == "RUNNING" for _, state in jobs.values())
    if limit.exists() and wanted + running > int(limit.read_text()):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    if not left or (here / "accepts").exists():
        ids = [f"{{first}}_{{i}}" for i in range(int(array[1]) + 1)] if array else [first]
        jobs |= {{job: [name, "RUNNING"] for job in ids}}
        book.write_text(json.dumps(jobs))
    if left:
        sys.exit("sbatch: error: Batch job submission failed: Socket timed out")
    print("Submitted batch job", first)
elif command == "squeue":
    if left:
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
    name = next((word[7:] for word in words if word.startswith("--name=")), None)
    reason = here / "reason"
    for job, (of, state) in jobs.items():
        if name in (None, of):
            print(job, state, reason.read_text() if reason.exists() else "None", sep="|")
elif command == "scancel":
    names = [word[7:] for word in words if word.startswith("--name=")]
    for job in jobs:
        if job in words or jobs[job][0] in names:
            jobs[job][1] = "CANCELLED"
    book.write_text(json.dumps(jobs))
'''


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder of stand-ins, first on the path."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (folder / name).write_text(STAND_IN.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(launchers, "POLL", 0.0)
    monkeypatch.setattr(launchers, "PAUSE", 0.01)
    return folder


def tasks(root, count):
    made = [RunDir(root / "runs" / str(index)) for index in range(count)]
    for run in made:
        run.write_spec({})
    return [Job(run, root / "cache") for run in made]


def calls(commands, name):
    lines = [json.loads(line) for line in (commands / "calls").read_text().splitlines()]
    return [words for command, *words in lines if command == name]


def end(commands, state):
    jobs = read_json(commands / "jobs.json")
    write_json(commands / "jobs.json", {job: [name, state] for job, (name, _) in jobs.items()})


def wait_for(launcher, count):
    ended, deadline = [], time.time() + 20
    while len(ended) < count and time.time() < deadline:
        ended += launcher.wait(0.01)
    return ended


@pytest.mark.parametrize(
    ("state", "exit"),
    [
        ("COMPLETED", "finished"),
        ("FAILED", "killed"),
        ("OUT_OF_MEMORY", "out-of-memory"),
        ("PREEMPTED", "preempted"),
        ("NODE_FAIL", "preempted"),
        ("TIMEOUT", "preempted"),
        ("CANCELLED", "cancelled"),
    ],
)
def test_the_launcher_reports_facts(commands, tmp_path, state, exit):
    launcher = SlurmLauncher(tmp_path / "study")
    for task in tasks(tmp_path, 2):
        launcher.submit(task)
    launcher.wait(0)
    end(commands, state)
    assert [ended.exit for ended in wait_for(launcher, 2)] == [exit, exit]
    assert launcher.free == launcher.slots


def test_a_failed_submission_is_tried_again(commands, tmp_path):
    (commands / "sbatch.fails").write_text("2")
    launcher = SlurmLauncher(tmp_path / "study")
    for task in tasks(tmp_path, 8):
        launcher.submit(task)
    while launcher._waiting:
        assert launcher.wait(0.01) == []
        launcher._since = 0.0
    jobs = read_json(commands / "jobs.json")
    assert len(jobs) == 8
    assert {launcher._jobs[job] for job in jobs} == {task.run.path for task in tasks(tmp_path, 8)}


def test_a_limit_on_jobs_lowers_the_slots_and_fails_nothing(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(launchers, "GATHER", 0.0)
    (commands / "limit").write_text("3")
    launcher, queued, ended, told = SlurmLauncher(tmp_path / "study", slots=20), tasks(tmp_path, 12), [], []
    deadline = time.time() + 120
    while len(ended) < 12 and time.time() < deadline:
        while launcher.free and queued:
            launcher.submit(queued.pop())
        ended += launcher.wait(0.01)
        told += launcher.told()
        if launcher.slots == 3 and not ended:
            assert len(launcher._jobs) == 3
            (commands / "limit").write_text("5")
        if len(launcher._jobs) == 5 or (ended and launcher._jobs):
            (commands / "limit").unlink(missing_ok=True)
            end(commands, "COMPLETED")
    assert {e.exit for e in ended} == {"finished"}
    assert len({e.run for e in ended}) == 12
    assert any(line.startswith("SLURM accepts no more than 3 jobs at once now: ") for line in told)
    assert launcher.slots > 5


def test_another_study_of_the_user_uses_up_the_limit_and_it_waits(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "LONGEST_PAUSE", 0.05)
    (commands / "limit").write_text("0")
    (commands / "jobs.json").write_text(json.dumps({"7": ["another", "RUNNING"]}))
    launcher = SlurmLauncher(tmp_path / "study")
    launcher.submit(tasks(tmp_path, 1)[0])
    assert launcher.wait(0.01) == []
    while len(calls(commands, "sbatch")) < 8:
        assert launcher.wait(0.01) == []
    (commands / "jobs.json").write_text("{}")
    (ended,) = wait_for(launcher, 1)
    assert ended.exit == "refused"
    assert "QOSMaxSubmitJobPerUserLimit" in ended.message


def test_what_holds_a_job_back_is_told_once(commands, tmp_path):
    launcher = SlurmLauncher(tmp_path / "study")
    for task in tasks(tmp_path, 2):
        launcher.submit(task)
    launcher.wait(0)
    end(commands, "PENDING")
    for reason, told in (("Priority", 0), ("QOSMaxJobsPerUserLimit", 0), ("PartitionTimeLimit", 1)):
        (commands / "reason").write_text(reason)
        for _ in range(2):
            assert launcher.wait(0) == []
            lines = launcher.told()
            assert lines == [
                f"SLURM does not start job 100_{i}: {reason} (scontrol show job 100_{i})" for i in range(told)
            ]
            told = 0


def attempt(run, number, **line):
    run.update_state(state="running", attempts=number)
    run.append_attempt({"attempt": number, **line})


def test_two_attempts_at_the_time_limit_without_a_step_are_the_last(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    attempt(run, 1, step=0)
    assert time_is_up(run) is None
    attempt(run, 2, step=10)
    assert time_is_up(run) is None
    assert time_is_up(run) is None, "told of the same attempt by the job and by SLURM"
    attempt(run, 3, step=10)
    assert "attempts 2 and 3 both ended at SLURM's time limit and started at step 10" in time_is_up(run)


def test_an_attempt_that_was_lost_between_two_at_the_limit_tells_nothing(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    for number, up in ((1, True), (2, False), (3, True)):
        attempt(run, number, step=0)
        assert not up or time_is_up(run) is None


@pytest.mark.parametrize("resumed", [False, True])
def test_a_command_without_its_resume_file_makes_no_headway(tmp_path, resumed):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    attempt(run, 1, resumed=False)
    assert time_is_up(run) is None
    attempt(run, 2, resumed=resumed)
    assert (time_is_up(run) is None) == resumed


def test_slurm_ends_a_task_at_its_time_limit_for_good(commands, tmp_path):
    (task,) = tasks(tmp_path, 1)
    launcher = SlurmLauncher(tmp_path / "study")
    for number, exit in ((1, "preempted"), (2, "time-limit")):
        launcher.submit(task)
        launcher.wait(0)
        attempt(task.run, number, step=0)
        end(commands, "TIMEOUT")
        (ended,) = wait_for(launcher, 1)
        assert ended.exit == exit
    assert decide(task.run.state, ended.exit, scored=False) == Action("fail", "time-limit", "failed")


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ({"torch": True}, {"torch": True}, "cuda"),
        ({"torch": False}, {"torch": True}, "cpu"),
        ({"torch": True}, {"torch": False}, "has no GPU"),
        ({"visible": "0"}, {"visible": "NoDevFiles"}, "has no GPU"),
        ({"visible": "-1", "torch": True}, {"visible": "", "torch": True}, "cpu"),
        ({"visible": "NoDevFiles"}, {"visible": "0"}, "has a GPU"),
        ({"visible": "GPU-1"}, {"visible": "1,2"}, "cuda"),
    ],
)
def test_the_jobs_of_a_study_train_on_one_device(tmp_path, monkeypatch, first, second, outcome):
    import torch

    for job in (first, second):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if "visible" in job:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", job["visible"])
        monkeypatch.setattr(torch.cuda, "is_available", lambda job=job: job.get("torch", False))
        if job is first:
            agreed_device(tmp_path)
        elif outcome in ("cpu", "cuda"):
            assert agreed_device(tmp_path) == outcome
        else:
            with pytest.raises(InputError, match=outcome):
                agreed_device(tmp_path)


def test_what_a_failed_submission_left_in_the_queue_is_cancelled(commands, tmp_path):
    (commands / "sbatch.fails").write_text("1")
    (commands / "accepts").touch()
    launcher = SlurmLauncher(tmp_path / "study")
    for task in tasks(tmp_path, 2):
        launcher.submit(task)
    while launcher._waiting:
        launcher.wait(0.01)
        launcher._since = 0.0
    states = [state for _, state in read_json(commands / "jobs.json").values()]
    assert sorted(states) == ["CANCELLED", "CANCELLED", "RUNNING", "RUNNING"]


def test_a_submission_that_is_always_refused_fails_its_tasks_clearly(commands, tmp_path):
    (commands / "sbatch.fails").write_text("99")
    launcher = SlurmLauncher(tmp_path / "study")
    for task in tasks(tmp_path, 3):
        launcher.submit(task)
    ended = wait_for(launcher, 3)
    assert [(e.exit, launcher.free) for e in ended] == [("refused", launcher.slots)] * 3
    assert "sbatch failed 5 times" in ended[0].message
    assert "Socket timed out" in ended[0].message


def test_freed_slots_are_filled_in_waves(commands, tmp_path, monkeypatch):
    launcher = SlurmLauncher(tmp_path / "study")
    first, *rest = tasks(tmp_path, 5)
    launcher.submit(first)
    launcher.wait(0)
    for task in rest:
        launcher.submit(task)
        launcher.wait(0)
    assert len(calls(commands, "sbatch")) == 1
    monkeypatch.setattr(launchers, "GATHER", 0.0)
    launcher.wait(0)
    assert len(calls(commands, "sbatch")) == 2
    assert len(read_json(commands / "jobs.json")) == 5


def test_a_full_launcher_does_not_wait_for_more(commands, tmp_path):
    launcher = SlurmLauncher(tmp_path / "study", slots=2)
    for task in tasks(tmp_path, 2):
        launcher.submit(task)
        launcher.wait(0)
    assert len(calls(commands, "sbatch")) == 2


def test_a_death_between_sbatch_and_its_note_leaves_no_orphan(commands, tmp_path, monkeypatch):
    submitted = tasks(tmp_path, 3)
    launcher = SlurmLauncher(tmp_path / "study")
    for task in submitted:
        launcher.submit(task)
    written = []

    def die(path, value):
        if "id" in value:
            raise SystemExit
        written.append(path)
        write_json(path, value)

    monkeypatch.setattr(launchers, "write_json", die)
    with pytest.raises(SystemExit):
        launcher.wait(0)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    assert written == [task.run.path / "job.json" for task in submitted]
    following = SlurmLauncher(tmp_path / "study")
    assert all(following.adopt(read_json(task.run.path / "job.json"), task) for task in submitted)
    assert following._jobs == {f"100_{i}": task.run.path for i, task in enumerate(submitted)}


def test_an_intent_that_was_never_submitted_is_no_job(commands, tmp_path):
    (task,) = tasks(tmp_path, 1)
    note = {"launcher": "slurm", "name": "ablate-0", "index": 0}
    assert not SlurmLauncher(tmp_path / "study").adopt(note, task)
    (commands / "squeue.fails").write_text("1")
    with pytest.raises(InputError, match="job ablate-0 may have been submitted"):
        find_job("ablate-0", 0)


def test_stopping_tells_of_every_task_at_once(commands, tmp_path):
    waiting, running = tasks(tmp_path, 2)
    launcher = SlurmLauncher(tmp_path / "study")
    launcher.submit(running)
    launcher.wait(0)
    launcher.submit(waiting)
    launcher.stop()
    assert {(e.run, e.exit) for e in wait_for(launcher, 2)} == {
        (waiting.run.path, "stopped"),
        (running.run.path, "preempted"),
    }


def test_a_cancellation_that_nobody_saw_is_told_by_the_next_driver_once(commands, tmp_path):
    (task,) = tasks(tmp_path, 1)
    launcher = SlurmLauncher(tmp_path / "study")
    launcher.submit(task)
    launcher.wait(0)
    launcher.close()
    end(commands, "CANCELLED")
    following = SlurmLauncher(tmp_path / "study")
    assert following.adopt(read_json(task.run.path / "job.json"), task)
    assert [(e.exit, "ablate retry" in e.message) for e in wait_for(following, 1)] == [("cancelled", True)]
    assert not following.adopt(read_json(task.run.path / "job.json"), task)


def test_nothing_is_concluded_from_a_silent_controller(commands, tmp_path, monkeypatch):
    (commands / "squeue.fails").write_text("1")
    assert job_states(["7"]) == {"7": "PENDING"}
    assert job_states(["7"]) == {"7": "GONE"}
    monkeypatch.setattr(launchers, "ANSWER", 0.5)
    (commands / "squeue.hangs").touch()
    began = time.time()
    assert job_states(["7"]) == {"7": "PENDING"}
    assert time.time() - began < 20


def test_settings_stay_text_and_keep_the_allocator(commands, tmp_path):
    lines = ["account=00123", "time=90", "setup=module load 'a b'", "setup=ulimit -c 0", "exclusive=true"]
    launcher = SlurmLauncher(tmp_path / "study", settings=lines)
    (task,) = tasks(tmp_path, 1)
    launcher.submit(task)
    launcher.wait(0)
    script = next((tmp_path / "study" / "slurm").glob("*.sh")).read_text()
    for line in ("#SBATCH --account=00123", "#SBATCH --time=90", "#SBATCH --exclusive", "ulimit -c 0"):
        assert line in script.splitlines()
    assert "export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432}" in script
    assert "module load 'a b'" in script.splitlines()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("time", "write name=value"),
        ("tme=3", "unknown SLURM setting 'tme'; known: account, time"),
        ("time=1-00:00", "a whole number"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        parse_parameters([setting], known=["time", "account"])


def test_a_missing_submitit_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'ablate-speech\[slurm\]'"):
        SlurmLauncher(tmp_path)
