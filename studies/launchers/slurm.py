"""A launcher for SLURM: submits runs as job arrays with submitit (the optional extra `slurm`).

submitit requeues a job that is preempted or runs out of time, and the run continues from its last checkpoint.
Jobs outlive their driver. The next driver adopts them by the id in the run directory's `job.json`, or by the
name of the array, which is written before `sbatch` is called. Job states come from `squeue`, which works
without an accounting database.
"""

from __future__ import annotations

import getpass
import logging
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from ablate.models.distribution import install
from ablate.models.errors import InputError, plural
from ablate.models.fields import split_settings
from ablate.training.rundir import RunDir, read_json, write_json

from ..compute import Compute
from ..retry_policy import Exit
from .base import ALLOCATOR, Ended, Job, Launcher
from .slurm_job import EARLY, SlurmRun, time_is_up

POLL = 2.0
"""Seconds between two calls of `squeue`."""
ANSWER = 30.0
"""Timeout of SLURM's commands in seconds."""
GATHER = 30.0
"""Seconds to collect tasks for one array while jobs run and slots are free."""
SUBMISSIONS = 5
"""Number of calls of `sbatch` after which a refusal is final, with pauses that double from `PAUSE` seconds
on. While the user has jobs, a refusal is never final."""
PAUSE = 5.0
LONGEST_PAUSE = 300.0
ORDINARY = re.compile(
    "None|Priority|Resources|BeginTime|Cleaning|Prolog|Licenses|JobArrayTaskLimit"
    "|.*(PerUser|PerAccount|MaxJobs).*"
)
"""SLURM's reasons for ordinary waiting. Any other reason is shown to the user, who may have to act."""

EXITS: dict[str, Exit] = {
    "COMPLETED": "finished",
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "out-of-memory",
    **dict.fromkeys(("PREEMPTED", "NODE_FAIL", "TIMEOUT", "BOOT_FAIL", "DEADLINE", "REVOKED"), "preempted"),
    **dict.fromkeys(("FAILED", "LAUNCH_FAILED", "RECONFIG_FAIL", "GONE"), "killed"),
}
"""State of an ended job -> exit; jobs in other states have not ended."""

INTEGERS = frozenset({"time", "nodes", "ntasks_per_node", "array_parallelism", "signal_delay_s"})
LINES = frozenset({"setup", "teardown", "srun_args"})
FLAGS = frozenset({"exclusive", "use_srun", "stderr_to_stdout"})


class SlurmLauncher(Launcher):
    """Submits tasks in arrays: at once if no job runs, else when all slots are filled or `GATHER` has passed.

    Args:
        folder: the study's folder; scripts and logs of the jobs go to its `slurm/`.
        settings: `name=value` texts of submitit's SLURM parameters: partition, time (minutes), mem,
            gres, qos, ...; `setup=` and `teardown=` are lines of the jobs' shell script.
        slots: maximum number of jobs queued or running at once.

    Raises:
        InputError: submitit or SLURM's commands are missing, or a setting is unknown.
    """

    here = False

    def __init__(self, folder: Path, settings: Iterable[str] = (), slots: int = 256) -> None:
        try:
            import submitit
        except ImportError:
            raise InputError(f"the slurm launcher needs submitit: {install('slurm')}") from None
        logging.getLogger("submitit").setLevel(logging.ERROR)
        python = f"{shlex.quote(sys.executable)} -P"
        try:
            self._executor = submitit.SlurmExecutor(
                folder=folder / "slurm", max_num_timeout=100, python=python
            )
        except RuntimeError as error:
            raise InputError(f"the slurm launcher needs SLURM's commands: {error}") from None
        parameters = parse_parameters(settings, known=self._executor._valid_parameters())
        self._name = parameters["job_name"]
        self._executor.update_parameters(**parameters)
        signalled = 60 * parameters["time"] - parameters.get("signal_delay_s", 90)
        self._call = SlurmRun(Path(folder, "slurm").absolute(), signalled - EARLY)
        self.slots = self._asked = self._wave = slots
        self._waiting: list[Job] = []
        self._since = 0.0
        self._failures = self._refusals = 0
        self._again = 0.0
        self._lines: list[str] = []
        self._reasons: set[str] = set()
        self._stopped: list[Ended] = []
        self._jobs: dict[str, Path] = {}
        self._polled = 0.0

    @classmethod
    def open(cls, folder: Path, compute: Compute) -> SlurmLauncher:
        jobs = {} if compute.jobs is None else {"slots": compute.jobs}
        settings = list(compute.slurm)
        if compute.gpus_each > 1 and not any(name.startswith(("gres=", "gpus_")) for name in settings):
            settings.append(f"gres=gpu:{compute.gpus_each}")
        return cls(folder, settings, **jobs)

    @property
    def free(self) -> int:
        """Number of free slots; one more if SLURM's limit lowered it, to test whether that still applies."""
        probe = self.slots < self._asked and not self._waiting
        return max(0, self.slots + probe - len(self._jobs) - len(self._waiting))

    def told(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def submit(self, task: Job) -> None:
        if not self.free:
            raise RuntimeError(f"all {self.slots} slots are in use")
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(task)

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended, self._stopped = self._stopped, []
        if self._waiting and self._due():
            ended += self._submit_wave()
        if ended:
            return ended
        time.sleep(timeout)
        if time.monotonic() - self._polled < POLL or not self._jobs:
            return []
        states = job_states(list(self._jobs), self._tell_reason)
        self._polled = time.monotonic()
        return [self._note(job, states[job]) for job in list(self._jobs) if states[job] in EXITS]

    def _due(self) -> bool:
        now = time.monotonic()
        gathered = not self._jobs or not self.free or now - self._since >= GATHER
        return gathered and now >= self._again

    def _submit_wave(self) -> list[Ended]:
        """Submit waiting tasks as one array, or half of them after a refusal, since clusters limit arrays."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        tasks = self._waiting[: max(1, min(self._wave, self.slots - len(self._jobs)))]
        name = f"{self._name}-{uuid4().hex[:8]}"
        for index, task in enumerate(tasks):
            write_json(task.run.path / "job.json", {"launcher": "slurm", "name": name, "index": index})
        try:
            self._executor.update_parameters(job_name=name)
            jobs = self._executor.map_array(self._call, [task.given for task in tasks])
        except BaseException as error:
            ask("scancel", f"--name={name}")  # what a command that failed may have submitted all the same
            if isinstance(error, FailedJobError | FailedSubmissionError | OSError):
                return self._refused(error, len(tasks))
            raise
        self._failures = self._refusals = 0
        self._wave = min(self._asked, 2 * self._wave)
        self._waiting = self._waiting[len(tasks) :]
        for index, (task, job) in enumerate(zip(tasks, jobs, strict=True)):
            note = {"launcher": "slurm", "name": name, "index": index, "id": job.job_id}
            write_json(task.run.path / "job.json", note)
            self._jobs[job.job_id] = task.run.path
        if len(self._jobs) > self.slots:
            self.slots = min(self._asked, 2 * self.slots)
        elif self.slots < self._asked and len(self._jobs) == self.slots:
            self._again = time.monotonic() + LONGEST_PAUSE
        return []

    def _refused(self, error: Exception, tasks: int) -> list[Ended]:
        """Handle a refusal of `sbatch`."""
        reason = " ".join(str(error).split())
        limit = "limit" in reason.lower()
        self._refusals += 1
        self._wave = max(1, tasks // 2)
        self._again = time.monotonic() + min(LONGEST_PAUSE, PAUSE * 2 ** (self._refusals - 1))
        if self._jobs or (limit and _user_has_jobs()):
            if limit and tasks == 1 and self._jobs:
                self.slots = len(self._jobs)
                self._tell(f"SLURM accepts no more than {plural(self.slots, 'job')} at once now: {reason}")
            return []
        self._failures += 1
        if self._failures < SUBMISSIONS:
            return []
        message = f"sbatch failed {self._failures} times: {reason}"
        given_up, self._waiting, self._failures, self._refusals = self._waiting, [], 0, 0
        return [Ended(run=task.run.path, exit="refused", message=message) for task in given_up]

    def _tell(self, line: str, reason: str | None = None) -> None:
        """Queue a message for the user, once per reason."""
        if (reason or line) not in self._reasons:
            self._reasons.add(reason or line)
            self._lines.append(line)

    def _tell_reason(self, job: str, reason: str) -> None:
        if not ORDINARY.fullmatch(reason):
            self._tell(f"SLURM does not start job {job}: {reason} (scontrol show job {job})", reason)

    def _note(self, job: str, state: str) -> Ended:
        """Record the end of a job, so that no later driver adopts it."""
        run = self._jobs.pop(job)
        self._again = 0.0
        note = read_json(run / "job.json") or {}
        if note.get("id") == job:
            write_json(run / "job.json", note | {"ended": state})
        exit = EXITS[state]
        if state == "TIMEOUT" and (why := time_is_up(RunDir(run))):
            return Ended(run=run, exit="time-limit", message=why)
        if exit == "cancelled" and note.get("stopped"):
            exit = "preempted"
        hint = "; start the run again with ablate retry" if exit == "cancelled" else ""
        return Ended(run=run, exit=exit, message=f"SLURM job {job} ended as {state}{hint}")

    def adopt(self, note: dict[str, Any], job: Job) -> bool:
        """Take over a live job, or one that was cancelled or ran out of memory without being reported yet.

        Raises:
            InputError: SLURM does not answer, and the job has no id.
        """
        if note["launcher"] != "slurm" or "ended" in note:
            return False
        known = note.get("id") or find_job(note["name"], note["index"])
        if known is None:
            return False
        state = job_states([known])[known]
        if EXITS.get(state) not in (None, "cancelled", "out-of-memory"):
            return False
        write_json(job.run.path / "job.json", note | {"id": known})
        self._jobs[known] = job.run.path
        return True

    def stop(self) -> None:
        self._stopped += [Ended(run=task.run.path, exit="stopped") for task in self._waiting]
        self._waiting.clear()
        for job, run in self._jobs.items():
            note = read_json(run / "job.json") or {}
            write_json(run / "job.json", note | {"id": job, "launcher": "slurm", "stopped": True})
        if self._jobs:
            ask("scancel", *self._jobs)

    def close(self) -> None:
        """Leave the jobs to SLURM; the next driver adopts them."""
        self._jobs.clear()


def parse_parameters(settings: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
    """submitit's parameters from `name=value` texts.

    Raises:
        InputError: as in `split_settings`, a setting is not one of `known`, or its value has the wrong type.
    """
    exports = [f"export {name}=${{{name}:-{value}}}" for name, value in ALLOCATOR.items()]
    parameters: dict[str, Any] = {
        "job_name": "ablate",
        "time": 24 * 60,
        "cpus_per_task": 1,
        "setup": exports,
    }
    for name, value in split_settings(settings, "time=60", "SLURM setting", LINES):
        if name not in known:
            raise InputError(f"unknown SLURM setting {name!r}; known: {', '.join(sorted(known))}")
        if name in LINES:
            parameters[name] = [*parameters.get(name, ()), value]
        elif name in FLAGS and value.lower() in ("on", "true", "off", "false"):
            parameters[name] = value.lower() in ("on", "true")
        elif name in INTEGERS:
            if not value.isdecimal():
                raise InputError(f"SLURM setting {name}={value} is not a whole number (time is in minutes)")
            parameters[name] = int(value)
        else:
            parameters[name] = value
    return parameters


def ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a SLURM command and return its result; None after a timeout."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return None


def list_jobs(*which: str) -> dict[str, tuple[str, str]] | None:
    """Job id -> state and reason from `squeue`; None if the controller does not answer."""
    listed = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", *which)
    if listed is None or (listed.returncode != 0 and "Invalid job id" not in listed.stderr):
        return None
    found = {}
    for line in listed.stdout.splitlines():
        job, state, reason = line.strip().split("|", 2)
        found[job] = state, reason
    return found


def _user_has_jobs() -> bool:
    """Whether this user has jobs queued or running, in any study."""
    listed = list_jobs(f"--user={getpass.getuser()}") or {}
    return any(state not in EXITS for state, _ in listed.values())


def job_states(
    jobs: list[str], waits: Callable[[str, str], None] = lambda job, reason: None
) -> dict[str, str]:
    """The state of each job; `GONE` for one that SLURM no longer knows.

    If the controller does not answer, all jobs count as `PENDING`.

    Args:
        waits: called with each pending job and its reason.
    """
    parents = sorted({job.split("_")[0] for job in jobs})
    listed = list_jobs(f"--jobs={','.join(parents)}")
    if listed is None:
        return dict.fromkeys(jobs, "PENDING")
    for job in jobs:
        if listed.get(job, ("", ""))[0] == "PENDING":
            waits(job, listed[job][1])
    return {job: listed.get(job, ("GONE", ""))[0] for job in jobs}


def find_job(name: str, index: int) -> str | None:
    """The id of task `index` of the array `name`; None if it was never submitted.

    Raises:
        InputError: the controller does not answer.
    """
    listed = list_jobs(f"--name={name}")
    if listed is None:
        raise InputError(f"SLURM does not answer: run again later; job {name} may have been submitted")
    ids = [job for job in listed if job.partition("_")[2] in ("", str(index))]
    return ids[0] if ids else None
