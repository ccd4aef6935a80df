"""Curves of commands: promised, in whatever format, missing, and read again."""

import re
import sys

import pytest

from ablate.training.rundir import RunDir
from ablate.training.train_command import curve
from ablate.training.train_command.config import TrainingCommand

PROGRAM = """
import shutil, sys
from pathlib import Path
out, data = map(Path, sys.argv[2:4])
(out / "logs").mkdir(exist_ok=True)
{write}
shutil.copytree(data / "test" / "noisy", out / "enhanced", dirs_exist_ok=True)
"""
CSV = r"""
(out / 'logs' / 'metrics.csv').write_text(
    'epoch,step,train_loss,val_pesq\n0,10,0.5,\n0,10,,2.5\n1,20,0.4,\n1,20,,2.7\n')
"""
PRINTED = "print('epoch 1 loss 0.5 pesq 2.5', 'epoch 2 loss 0.4 pesq 2.7', sep='\\n', flush=True)"
MAPPED = {"names": {"val/pesq_wb": "val_pesq"}}


@pytest.fixture
def ran(new_run, go, folder):
    def ran(write, how, **rest):
        (folder / "toy.py").write_text(PROGRAM.format(write=write))
        command = f"{sys.executable} toy.py {{seed}} {{out}} {{data}} {{overrides}}"
        run, job = new_run(command=command, curve=how, resume=None, given={}, **rest)
        return run, go(run, job)

    return ran


@pytest.mark.parametrize(
    ("write", "how", "steps"),
    [
        (CSV, {"file": "logs/*.csv", **MAPPED}, [10, 20]),
        (CSV, {"file": "logs/metrics.csv", "step": "epoch", **MAPPED}, [0, 1]),
        (
            PRINTED,
            {"pattern": r"epoch (?P<epoch>\d+) loss (?P<loss>\S+) pesq (?P<val_pesq>\S+)", "step": "epoch"}
            | MAPPED,
            [1, 2],
        ),
    ],
)
def test_a_curve_in_the_format_of_the_program(ran, write, how, steps):
    run, state = ran(write, how)
    assert (state.state, state.curve_problem, state.val_pesq_wb) == ("done", None, 2.7), state.message
    assert [line["step"] for line in run.metrics()] == steps
    assert (state.step, state.steps) == (steps[-1], steps[-1])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("metrics.jsonl", "there is no metrics.jsonl in {out}"),
        ({"file": "logs/metrics.csv", "step": "stop"}, "no row with a step 'stop'; did you mean 'step'"),
        ({"file": "logs/metrics.csv", "names": {"val/pesq_wb": "pesq"}}, "no column 'pesq'"),
        ({"file": "logs"}, "out/logs cannot be read as a curve: .* no TensorBoard event"),
    ],
)
def test_a_promised_curve_that_is_not_there_is_said(ran, how, said):
    run, state = ran(CSV, how)
    assert state.state == "done"
    assert run.metrics() == []
    assert re.search(said, state.curve_problem), state.curve_problem


def test_a_finished_curve_is_read_again_when_the_study_file_is_mended(ran):
    run, state = ran(CSV, "logs/metrics.jsonl")
    assert (state.steps, state.val_pesq_wb) == (1, None)
    seconds = run.summary["seconds"]
    how = {"file": "logs/metrics.csv", **MAPPED}
    train = run.spec["train"] | {"curve": how}
    curve.reread(run, train)
    assert [line["val/pesq_wb"] for line in run.metrics()] == [2.5, 2.7]
    assert (run.state.steps, run.state.val_pesq_wb, run.state.curve_problem) == (20, 2.7, None)
    assert run.summary["seconds_per_step"] == seconds / 20
    written = (run.path / "metrics.jsonl").stat().st_mtime_ns
    curve.reread(run, train)
    assert (run.path / "metrics.jsonl").stat().st_mtime_ns == written


def test_a_log_counts_from_the_attempt_that_began_anew(ran, new_run, go):
    how = {"pattern": r"epoch (?P<epoch>\d+) loss (?P<loss>\S+)", "step": "epoch"}
    write = "print('epoch 9 loss 0.1', flush=True)\nsys.exit(1)"
    run, state = ran(write, how)
    assert state.state == "failed"
    run, state = ran(PRINTED, how)
    assert [line["step"] for line in run.metrics()] == [1, 2]


def test_what_is_said_is_never_of_a_file_outside(tmp_path):
    with pytest.raises(ValueError, match="not below"):
        TrainingCommand(command="x {seed} {out} {overrides}", folder=".", curve={"file": "../log"})
    assert not curve.LiveCurve(None, RunDir(tmp_path)).take(ended=True)
