"""Studies and run directories as a driver leaves them, without training anything."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.studies.plan import Plan, run_dirs, save
from ablate.training.rundir import RunDir


class StudyOnDisk:
    """Writes a plan and run directories under a root; `advance` plays a training worker."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.folder = root / "studies" / plan.name
        self.write(plan)

    def write(self, plan: Plan) -> None:
        self.plan = plan
        save(plan, self.root)

    @property
    def name(self) -> str:
        return self.plan.name

    def slots(self) -> list[tuple[str, int]]:
        return list(run_dirs(self.plan, self.root))

    def run(self, cell: str, seed: int) -> RunDir:
        return run_dirs(self.plan, self.root)[cell, seed]

    def start(self, cell: str, seed: int, **state: Any) -> RunDir:
        run = self.run(cell, seed)
        run.write_spec({"training_signature": run.signature, "seed": seed})
        running = {"state": "running", "attempts": 1, "cause": None, "started": time.time()}
        here = {"host": socket.gethostname(), "pid": os.getpid(), "steps": 60}
        run.update_state(**{**running, **here, **state})
        return run

    def advance(self, cell: str, seed: int, steps: list[int]) -> None:
        """Write metric lines; the values depend on cell, seed and step only."""
        run = self.run(cell, seed)
        for step in steps:
            run.append_metrics(self.line(cell, seed, step))
            run.update_state(step=step, val_pesq_wb=self.pesq(cell, seed, step))

    def pesq(self, cell: str, seed: int, step: int) -> float:
        return 1.5 + 0.01 * step**0.9 + int(_digest(cell, seed)[:4], 16) / 2**18

    def line(self, cell: str, seed: int, step: int) -> dict[str, float]:
        return {
            "step": step,
            "time": time.time(),
            "train/loss": 1 / (1 + step),
            "train/grad_norm": float("nan") if step == 0 else 1.0,
            "val/pesq_wb": self.pesq(cell, seed, step),
            "val/stoi": 0.8,
            "seconds_per_step": 0.1,
        }

    def finish(self, cell: str, seed: int, *, audio: bool = False) -> None:
        """Scores, summary and the last state of a run."""
        import pandas
        import soundfile

        run = self.run(cell, seed)
        last = run.metrics()[-1]["step"]
        pesq = self.pesq(cell, seed, last)
        rows = {
            "utterance": ["p1_001", "p1_002", "p2_001"],
            "speaker": ["p1", "p1", "p2"],
            "snr": [2.5, 7.5, 2.5],
            "noise": ["hum", "rain", "hum"],
            "pesq_wb": [pesq, pesq + 0.2, float("nan")],
            "stoi": [0.8, 0.9, 0.85],
            "seconds": [1.0, 2.0, 1.5],
            "error": [None, None, "silent"],
            "noisy_pesq_wb": [1.5, 1.7, 1.6],
        }
        path = run.scores_path(self.plan.cell(cell).evaluations[seed])
        path.parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(rows).to_parquet(path)
        if audio:
            run.audio.mkdir(exist_ok=True)
            tone = 0.3 * np.sin(np.arange(16000) * 2 * np.pi * 330 / 16000)
            references = run.references(self.plan.corpus.test_digest)
            references.mkdir(parents=True, exist_ok=True)
            for kind, folder in (("noisy", references), ("clean", references), ("enhanced", run.audio)):
                soundfile.write(folder / f"p1_001-{kind}.wav", tone.astype(np.float32), 16000)
                if folder == references:
                    (run.audio / f"p1_001-{kind}.wav").symlink_to(folder / f"p1_001-{kind}.wav")
        run.write_summary(
            {
                "parameters": 1000,
                "macs_per_second": 1e9,
                "seconds_per_step": 0.1,
                "peak_memory_bytes": 2e8,
                "real_time_factor": float("nan"),
                "scan_backend": "numba",
                "device": "cpu",
                "git_commit": "f" * 40,
                "selected_step": last,
                "val_pesq_wb": pesq,
                "val_stoi": 0.8,
                "noisy_val_pesq_wb": 1.52,
            }
        )
        run.log.write_text("trained\n")
        run.update_state(state="done", finished=time.time(), step=last)

    def complete(self, cell: str, seed: int, *, audio: bool = False) -> None:
        self.start(cell, seed)
        self.advance(cell, seed, [0, 20, 40, 60])
        self.finish(cell, seed, audio=audio)


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()


@pytest.fixture(scope="session")
def study_on_disk(make_plan: Callable[..., Plan]) -> Callable[..., StudyOnDisk]:
    """A study of some cells, the baseline first, and seeds; nothing is trained."""

    def make(
        root: Path, name: str = "toy", *, cells: int = 2, seeds: tuple[int, ...] = (1, 2), **fields: Any
    ) -> StudyOnDisk:
        plan = make_plan("direction=uni,bi", seeds, name=name, git_commit="0123456789" * 4, **fields)
        *others, baseline = plan.cells
        return StudyOnDisk(root, plan.model_copy(update={"cells": (baseline, *others)[:cells]}))

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of noise."""
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    for split, speakers in (("train", ("a", "b", "c")), ("test", ("d",))):
        for kind in ("clean", "noisy"):
            (folder / split / kind).mkdir(parents=True)
        for speaker in speakers:
            for number in range(3):
                speech = 0.1 * draw.standard_normal(16000)
                name = f"{speaker}_{number}.wav"
                soundfile.write(folder / split / "clean" / name, speech, 16000)
                noise = 0.05 * draw.standard_normal(16000)
                soundfile.write(folder / split / "noisy" / name, speech + noise, 16000)
    return folder


@pytest.fixture
def toy(tmp_path: Path, study_on_disk: Callable[..., StudyOnDisk]) -> StudyOnDisk:
    """A study of two cells and two seeds with nothing trained yet."""
    return study_on_disk(tmp_path / "root")


BINARIES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of its own, which lets everybody in."""
    if not BINARIES or os.geteuid() != 0:
        pytest.skip("needs root and the package postgresql")
    pytest.importorskip("psycopg")
    folder = tempfile.mkdtemp(prefix="ablate-postgresql-")
    shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def as_owner(*command: str) -> None:
        words = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = f"{folder}/data"
    as_owner(f"{BINARIES[-1]}/initdb", "-D", data, "--auth=trust", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    as_owner(f"{BINARIES[-1]}/pg_ctl", "-D", data, "-l", f"{folder}/log", "-w", "-o", options, "start")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    as_owner(f"{BINARIES[-1]}/pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """A PostgreSQL server that is stopped inside and started again afterwards."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as admin:
        (data,) = admin.execute("SHOW data_directory").fetchone()
    control = ["runuser", "-u", "postgres", "--", f"{BINARIES[-1]}/pg_ctl", "-D", data]

    def call(*words: str) -> None:
        subprocess.run([*control, *words], check=True, stdout=subprocess.DEVNULL, cwd="/")

    call("-m", "fast", "stop")
    try:
        yield
    finally:
        options = shlex.split(Path(data, "postmaster.opts").read_text())[1:]
        call("-o", shlex.join(word for word in options if word not in ("-D", data)), "-w", "start")


@pytest.fixture
def postgresql_stopped(postgresql: str) -> Callable[[], AbstractContextManager[None]]:
    """`with postgresql_stopped():` the server of `postgresql` is away inside."""
    return lambda: stopped(postgresql)


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
SlurmctldPort={ports[0]}
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
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


ACCOUNTS = """
AuthType=auth/munge
DbdHost=localhost
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port}
StorageUser=root
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def start_munge():
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    if subprocess.run(["pgrep", "-x", "munged"], capture_output=True, check=False).returncode:
        subprocess.run(["su", "munge", "-s", "/bin/sh", "-c", shutil.which("munged")], check=True)


class Cluster:
    """A controller and two nodes.

    Args:
        gpus: of each node; null devices stand for them.
    """

    def __init__(self, folder, gpus=0):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "slurm.conf").write_text(
            CLUSTER.format(host=socket.gethostname(), folder=folder, ports=free_ports(3))
        )
        if gpus:
            self._add_gpus(gpus)
        for name in ("state", "spool/n1", "spool/n2"):
            (folder / name).mkdir(parents=True)
        self.daemons: dict[str, subprocess.Popen] = {}

    def _add_gpus(self, count):
        path = self.folder / "slurm.conf"
        nodes = path.read_text().replace("RealMemory=4000", f"RealMemory=4000 Gres=gpu:{count}")
        path.write_text(f"{nodes}GresTypes=gpu\n")
        for number in range(count):
            os.mknod(self.folder / f"gpu{number}", stat.S_IFCHR, os.makedev(1, 3))
        devices = f"Name=gpu File={self.folder}/gpu[0-{count - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName=n1 {devices}\nNodeName=n2 {devices}\n")

    def limit_submissions(self, most):
        """Have a database hold the accounts, and the user to some jobs queued or running at once."""
        folder, (dbd, port) = self.folder, free_ports(2)
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/db", "--user=root"]
        install += ["--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, capture_output=True)
        where = [f"--datadir={folder}/db", f"--socket={folder}/db.sock", f"--pid-file={folder}/db.pid"]
        where += ["--bind-address=127.0.0.1", f"--port={port}"]
        self.daemons["database"] = self.daemon("mariadbd", "--no-defaults", "--user=root", *where)
        (folder / "slurmdbd.conf").write_text(ACCOUNTS.format(folder=folder, dbd=dbd, port=port))
        (folder / "slurmdbd.conf").chmod(0o600)
        text = (folder / "slurm.conf").read_text()
        (folder / "slurm.conf").write_text(
            text.replace("accounting_storage/none", "accounting_storage/slurmdbd")
            + f"AccountingStorageHost=localhost\nAccountingStoragePort={dbd}\n"
            + "AccountingStorageEnforce=limits,qos\n"
        )
        start_munge()
        ping = ["mariadb-admin", "--no-defaults", f"--socket={folder}/db.sock", "--user=root", "ping"]
        self.until(*ping)
        self.daemons["accounts"] = self.daemon("slurmdbd", "-D")
        self.until("sacctmgr", "show", "cluster")
        for words in (
            "add cluster ablate",
            "add account lab",
            "add user root account=lab",
            f"modify qos normal set MaxSubmitJobsPerUser={most}",
        ):
            self.until("sacctmgr", "-i", *words.split())

    def until(self, *command):
        deadline = time.time() + 300
        while subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode:
            assert time.time() < deadline, command
            time.sleep(0.5)

    def requeue(self, job):
        """Start a job anew; SLURM would hold it back for two minutes, from the end of its processes."""
        subprocess.run(["scontrol", "requeue", job], env=self.environment, check=True)
        asked, deadline = ["squeue", "-h", "-j", job, "-o", "%T"], time.time() + 300
        while time.time() < deadline:
            listed = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=False)
            if listed.stdout.strip() not in ("PENDING", "COMPLETING", "REQUEUED"):
                return
            update = ["scontrol", "update", f"jobid={job}", "starttime=now"]
            subprocess.run(update, env=self.environment, capture_output=True, check=False)
            time.sleep(0.5)

    def start(self):
        start_munge()
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
        deadline = time.time() + 300
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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A controller and two nodes on this host."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        pytest.skip("needs root and the packages slurm-wlm and munge")
    pytest.importorskip("submitit")
    with started(Cluster(tmp_path_factory.mktemp("slurm"))) as running:
        yield running


@pytest.fixture
def gpu_cluster(tmp_path):
    """One whose two nodes have two GPUs each, as far as SLURM knows."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        pytest.skip("needs root and the packages slurm-wlm and munge")
    pytest.importorskip("submitit")
    with started(Cluster(tmp_path, gpus=2)) as running:
        yield running


@pytest.fixture
def limited_cluster(tmp_path):
    """One that takes three jobs of a user's at once, and refuses more."""
    needed = ("slurmctld", "slurmd", "munged", "slurmdbd", "mariadbd", "mariadb-install-db")
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        pytest.skip("needs root and the packages slurm-wlm, munge, slurmdbd and mariadb-server")
    pytest.importorskip("submitit")
    running = Cluster(tmp_path)
    running.limit_submissions(3)
    with started(running):
        yield running


@contextmanager
def started(cluster):
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    cluster.start()
    yield cluster
    cluster.stop()
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before
