"""Slots on a machine of four GPUs, for which a stand-in of `nvidia-smi` speaks."""

from __future__ import annotations

import json
import os
import time

import pytest

from ablate.models.errors import InputError
from ablate.studies.compute import Compute
from ablate.studies.launchers import LAUNCHERS, Job, local
from ablate.studies.launchers import slots as machine
from ablate.studies.launchers.slots import Gpu, Slot, check_gpus, find_gpus, find_slots
from ablate.training.rundir import RunDir

UUIDS = [f"GPU-{letter * 8}-0000" for letter in "abcd"]
NVIDIA_SMI = "#!/bin/sh\n" + "".join(
    f"echo '{index}, {uuid}, {memory}'\n"
    for index, (uuid, memory) in enumerate(zip(UUIDS, (81559, 81559, 40960, 81559), strict=True))
)
WORKER = '''
"""Tells where it runs; dies of the task called `dies`, once."""
import json, os, sys, time
from pathlib import Path

for line in sys.stdin:
    task = json.loads(line)["job"]
    run = Path(task["run"])
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
    place = {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "words": sys.argv[1:]}
    with (run / "places").open("a") as places:
        places.write(json.dumps(place) + "\\n")
    if run.name == "dies" and not (run / "died").exists():
        (run / "died").touch()
        os._exit(139)
    while not (run.parent / "go").exists():
        time.sleep(0.01)
    print(json.dumps({"run": str(run), "exit": "finished"}), flush=True)
'''


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.fixture
def no_gpus(monkeypatch):
    monkeypatch.setattr(machine, "_listed_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def names(slots):
    return [slot.gpu and slot.gpu.name for slot in slots]


def test_every_gpu_takes_its_runs(four_gpus):
    slots = find_slots(per_gpu=2)
    assert names(slots) == ["0", "1", "2", "3"] * 2
    assert {(slot.threads, slot.beside, slot.device) for slot in slots} == {(2, 2, "cuda")}
    assert [slot.gpu.memory >> 20 for slot in slots[:4]] == [81559, 81559, 40960, 81559]
    environment = slots[1].environment
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_jobs_beside_gpus_are_runs_on_gpus(four_gpus):
    assert names(find_slots(jobs=2)) == ["0", "1"]
    assert names(find_slots(jobs=6, per_gpu=2)) == ["0", "1", "2", "3", "0", "1"]
    assert [slot.beside for slot in find_slots(jobs=6, per_gpu=2)] == [2, 2, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"8 jobs, but 4 GPUs x 1 runs hold 4 at once: raise --runs-per-gpu"):
        find_slots(jobs=8)
    assert names(find_slots(jobs=8, gpus="")) == [None] * 8


def test_gpus_are_called_by_index_or_uuid(four_gpus):
    assert names(find_slots(gpus="3, 1")) == ["3", "1"]
    assert names(find_slots(gpus="GPU-cccc")) == ["2"]
    with pytest.raises(InputError, match=r"GPU 7 not found; available: 0, 1, 2, 3$"):
        find_slots(gpus="0,7")


@pytest.mark.parametrize(
    ("allocation", "found", "memory"),
    [
        ("2,1", ["2", "1"], [40960, 81559]),
        (f"{UUIDS[2]},{UUIDS[0]}", [UUIDS[2], UUIDS[0]], [40960, 81559]),
        ("GPU-bbbb", ["GPU-bbbb"], [81559]),
        ("MIG-77777777-1111", ["MIG-77777777-1111"], [None]),
        ("1,-1,2", ["1"], [81559]),
        ("", [], []),
        ("NoDevFiles", [], []),
    ],
)
def test_an_inherited_allocation_is_kept_to(four_gpus, monkeypatch, allocation, found, memory):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allocation)
    gpus = find_gpus()
    assert [gpu.name for gpu in gpus] == found
    assert [gpu.memory and gpu.memory >> 20 for gpu in gpus] == memory
    assert names(find_slots(jobs=len(found) or 1)) == (found or [None])


def test_gpus_outside_the_allocation_are_refused(four_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[2])
    assert names(find_slots(gpus="2")) == [UUIDS[2]]
    with pytest.raises(InputError, match=r"GPU 0 not found; .*GPU-cccc.*\(CUDA_VISIBLE_DEVICES=GPU-cccc"):
        find_slots(gpus="0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=5 names GPU 5; nvidia-smi lists 0, 1, 2, 3"):
        find_slots()


def test_an_allocation_counts_where_nvidia_smi_is_missing(no_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert find_gpus() == [Gpu("0"), Gpu("1")]


def test_cores_are_shared_where_there_is_no_gpu(no_gpus):
    cores = len(os.sched_getaffinity(0))
    assert find_slots(jobs=1) == [Slot(cores)]
    assert len(find_slots()) == cores
    slot = find_slots(jobs=2)[0]
    assert (slot.environment["CUDA_VISIBLE_DEVICES"], slot.device, slot.beside) == ("", "cpu", 2)
    with pytest.raises(InputError, match="GPU 97 not found; available: none"):
        find_slots(gpus="97")
    with pytest.raises(InputError, match="positive"):
        find_slots(jobs=0)


def test_a_gpu_that_torch_cannot_use_is_an_error_before_anything_trains(four_gpus, monkeypatch, tmp_path):
    probe = "import os, sys; sys.exit('no kernel image' if os.environ['CUDA_VISIBLE_DEVICES'] == '2' else 0)"
    monkeypatch.setattr(machine, "PROBE", probe)
    check_gpus(find_slots(gpus="0,1,3"))
    with pytest.raises(InputError, match=r"torch cannot use GPU 2: no kernel image; .*--gpus ''"):
        LAUNCHERS["local"].open(tmp_path, Compute(runs_per_gpu=2))


def test_eight_runs_on_four_gpus_of_which_one_kills_its_worker(four_gpus, monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(local, "PROGRAM", (str(script),))
    monkeypatch.setattr(machine, "PROBE", "")
    launcher = LAUNCHERS["local"].open(tmp_path / "study", Compute(runs_per_gpu=2))
    runs = [RunDir(tmp_path / "runs" / name) for name in ("dies", *"1234567")]
    for run in runs:
        run.write_spec({})
    try:
        for run in runs:
            launcher.submit(Job(run, tmp_path))
        assert launcher.free == 0
        (lost,) = wait_for(launcher, 1)
        assert (lost.run, lost.exit, launcher.free) == (runs[0].path, "killed", 1)
        launcher.submit(Job(runs[0], tmp_path))
        (tmp_path / "runs" / "go").touch()
        assert sorted(ended.run for ended in wait_for(launcher, 8)) == sorted(run.path for run in runs)
    finally:
        launcher.close()
    places = {run.path.name: read_places(run) for run in runs}
    assert [len(places[name]) for name in places] == [2] + [1] * 7
    last = [place[-1] for place in places.values()]
    assert sorted(place["CUDA_VISIBLE_DEVICES"] for place in last) == list("00112233")
    assert len({place["pid"] for place in last}) == 8
    first, second = places["dies"]
    assert first["CUDA_VISIBLE_DEVICES"] == second["CUDA_VISIBLE_DEVICES"]
    assert first["pid"] != second["pid"]
    assert {place["CUDA_DEVICE_ORDER"] for place in last} == {"PCI_BUS_ID"}
    assert {tuple(place["words"]) for place in last} == {("--threads", "2", "--device", "cuda")}


def read_places(run):
    return [json.loads(line) for line in (run.path / "places").read_text().splitlines()]


def wait_for(launcher, count):
    ended, deadline = [], time.time() + 60
    while len(ended) < count and time.time() < deadline:
        ended += launcher.wait(0.1)
    return ended


@pytest.mark.slow
def test_a_worker_whose_device_broke_ends_and_says_nothing(monkeypatch, tmp_path):
    """The launcher then starts another, and the table of outcomes tries the run again."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import ablate.studies.worker as worker\n"
        "def broken(run, *_, **__): run.update_state(state='failed', cause='device', message='CUDA error')\n"
        "import ablate.training.run\n"
        "ablate.training.run.execute = broken\n"
        "worker.main()\n"
    )
    monkeypatch.setattr(local, "PROGRAM", (str(script),))
    launcher = local.LocalLauncher([Slot(1)], tmp_path / "log")
    run = RunDir(tmp_path / "run")
    run.write_spec({})
    try:
        for _ in range(2):
            launcher.submit(Job(run, tmp_path))
            assert [ended.exit for ended in wait_for(launcher, 1)] == ["killed"]
    finally:
        launcher.close()


def test_a_run_of_several_gpus_takes_a_slot_of_several(monkeypatch):
    gpus = [Gpu(str(index), memory=memory) for index, memory in enumerate((8, 6, 8, 8, 8))]
    monkeypatch.setattr(machine, "find_gpus", lambda: gpus)
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    found = find_slots(each=2)
    assert [slot.environment[machine.VISIBLE] for slot in found] == ["0,1", "2,3"]
    assert [slot.gpu.memory for slot in found] == [6, 8]
    with pytest.raises(InputError, match=r"uses 6 GPUs .* only 5 are available"):
        find_slots(each=6)
    with pytest.raises(InputError, match="3 jobs, but 2 GPUs sets of 2"):
        find_slots(3, each=2)
    assert all(slot.gpu is None for slot in find_slots(gpus="", each=2))
