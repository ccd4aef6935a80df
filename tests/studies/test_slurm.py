"""The SLURM launcher on a real cluster: a controller and two nodes on this host."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from ablate.ablations.grid import parse_factors
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers.slurm import EXITS, SlurmLauncher, job_states
from ablate.studies.plan import make
from ablate.studies.request import Request
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir, read_json

CLUSTER = """
ClusterName=ablate
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPort=16817
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16821 CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16822 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="needs root and the packages slurm-wlm and munge",
    ),
]


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "slurm.conf").write_text(CLUSTER.format(host=socket.gethostname(), folder=folder))
        for name in ("state", "spool/n1", "spool/n2"):
            (folder / name).mkdir(parents=True)
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self):
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
        if subprocess.run(["pgrep", "-x", "munged"], capture_output=True, check=False).returncode:
            subprocess.run(["su", "munge", "-s", "/bin/sh", "-c", shutil.which("munged")], check=True)
        self.daemons["controller"] = self.daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait_for_nodes()

    def daemon(self, *command):
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def start_node(self, node):
        self.daemons[node] = self.daemon("slurmd", "-D", "-N", node)

    def wait_for_nodes(self):
        deadline = time.time() + 60
        while time.time() < deadline:
            listed = subprocess.run(
                ["sinfo", "-h", "-N", "-o", "%T"],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if listed.stdout.split().count("idle") == 2:
                return
            time.sleep(0.5)
        raise RuntimeError(f"no two idle nodes: {listed.stdout} {listed.stderr}")

    def stop(self):
        subprocess.run(["scancel", "--user=root"], env=self.environment, check=False)
        time.sleep(2)
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = running.environment["SLURM_CONF"]
    running.start()
    yield running
    running.stop()
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


def make_plan(root, seed, steps=4):
    request = Request(
        factors=parse_factors("bidirectional"),
        baseline=None,
        seeds=(seed,),
        set={
            "recipe.steps": steps,
            "recipe.validate_every": 10_000,
            "recipe.validation_utterances": 1,
            "recipe.crop_seconds": 0.5,
            "recipe.batch_size": 2,
            "recipe.checkpoint_every": 5,
        },
    )
    return make(request, root)[0]


def make_driver(plan, root, folder):
    launcher = SlurmLauncher(folder, settings=["time=20", "signal_delay_s=5"])
    jobs = plan_jobs(plan, root, plan_book(open_storage(folder), plan), plan.seeds)
    return Driver(root, launcher), jobs, launcher


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.3)


def when_training(job, act):
    def watch():
        wait_for(lambda: job.run.state.step >= 5)
        act(read_json(job.run.path / "job.json")["id"])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_runs_go_through_an_array(cluster, root):
    plan = make_plan(root, 1)
    driver, jobs, _ = make_driver(plan, root, root / "array")
    outcome = driver.run(jobs)
    assert (len(outcome.done), len(outcome.failed)) == (2, 0), [job.run.state for job in jobs]
    ids = [read_json(job.run.path / "job.json")["id"] for job in jobs]
    assert len({job.split("_")[0] for job in ids}) == 1
    assert len(set(ids)) == 2


def test_a_cancelled_job_is_submitted_again_and_goes_on(cluster, root):
    plan = make_plan(root, 2, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "cancelled")
    watcher = when_training(jobs[0], lambda job: subprocess.run(["scancel", job], check=True))
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0)
    assert jobs[0].run.state.attempts >= 2
    assert jobs[0].retries >= 1


def test_a_requeued_job_goes_on_from_its_checkpoint(cluster, root):
    plan = make_plan(root, 3, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "requeued")

    def requeue(job):
        subprocess.run(["scontrol", "requeue", job], check=True)
        # SLURM holds a requeued job back for two minutes.
        now = ["scontrol", "update", f"jobid={job}", "starttime=now"]
        wait_for(lambda: subprocess.run(now, capture_output=True, check=False).returncode == 0)

    watcher = when_training(jobs[0], requeue)
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0)
    assert jobs[0].run.state.attempts == 2
    assert jobs[0].retries == 0


def test_jobs_of_a_dead_driver_are_adopted(cluster, root):
    plan = make_plan(root, 4, steps=40)
    folder = root / "adopted"
    driver, jobs, launcher = make_driver(plan, root, folder)
    for job in jobs:
        driver._submit(job)
    launcher.wait(0)
    ids = [read_json(job.run.path / "job.json")["id"] for job in jobs]
    launcher.close()
    assert all(state not in EXITS for state in job_states(ids).values())
    driver, jobs, _ = make_driver(plan, root, folder)
    outcome = driver.run(jobs)
    assert (len(outcome.done), len(outcome.failed)) == (2, 0)
    assert [read_json(job.run.path / "job.json")["id"] for job in jobs] == ids
    assert [job.run.state.attempts for job in jobs] == [1, 1]


def test_a_killed_node_loses_no_run(cluster, root):
    plan = make_plan(root, 5, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "node")

    def kill_node(job):
        listed = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%N"], capture_output=True, text=True, check=True
        )
        node = listed.stdout.strip()
        pid = jobs[0].run.state.pid
        cluster.daemons[node].kill()
        cluster.daemons[node].wait()
        os.kill(pid, signal.SIGKILL)
        time.sleep(15)
        cluster.start_node(node)

    watcher = when_training(jobs[0], kill_node)
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0), [job.run.state for job in jobs]
    assert jobs[0].run.state.attempts >= 2


def test_gone_jobs_are_not_adopted(cluster, root):
    launcher = SlurmLauncher(root / "gone")
    plan = make_plan(root, 1)
    _, jobs, _ = make_driver(plan, root, root / "gone")
    task = Driver(root, launcher)._task(jobs[0])
    assert not launcher.adopt({"launcher": "slurm", "id": "999999"}, task)
    assert not launcher.adopt({"launcher": "local", "id": "1"}, task)


def test_wrong_settings_are_refused(cluster, root):
    with pytest.raises(ValueError, match="write name=value"):
        SlurmLauncher(root / "wrong", settings=["time"])


def test_run_directory_is_free_after_every_job(cluster, root):
    runs = [RunDir(path) for path in (root / "runs").iterdir()]
    assert len(runs) >= 10
    assert not any(run.locked for run in runs)
