"""What a command does to records, its own or another's: each fault was seen to falsify one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ablate.models.errors import InputError
from ablate.training.run import execute
from ablate.training.train_command import code
from ablate.training.train_command.config import TrainingCommand

PROGRAM = """
import argparse, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("seed", "out", "data", "mode", "resume"):
    parser.add_argument("--" + name)
options = parser.parse_args()
out, data = Path(options.out), Path(options.data)
with open(out / "called.txt", "a") as file:
    file.write("x")


def curve(step, **values):
    with open(out / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, **values}) + "\\n")


def enhance(folder="enhanced"):
    shutil.copytree(data / "test" / "noisy", out / folder, dirs_exist_ok=True)


"""


@pytest.fixture
def program(folder):
    """`program(text)`: the command's program from here on."""

    def write(text: str) -> None:
        (folder / "toy.py").write_text(PROGRAM + text)

    return write


def calls(run) -> int:
    return len((run.path / "out" / "called.txt").read_text())


HYDRA = "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."
TORCHRUN = """E1130 09:00:00.1 77 api.py:882] failed (exitcode: 1) local_rank: 0 (pid: 78) of binary: python
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  exitcode  : 1 (pid: 78)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================"""
OTHER_RANK = TORCHRUN.replace("Root Cause", "Failures:\n[1]:\n  exitcode  : -15 (pid: 79)\nRoot Cause")
ACCELERATE = (
    "Traceback (most recent call last):\n"
    "subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1."
)


@pytest.mark.parametrize(
    ("text", "state", "cause", "said"),
    [
        ("print('grad_norm inf', flush=True); os.kill(os.getpid(), 9)", "failed", "lost-worker", "SIGKILL"),
        (
            "curve(1, **{'train/loss': float('nan')}); os.kill(os.getpid(), 9)",
            "failed",
            "lost-worker",
            "KILL",
        ),
        ("sys.exit(137)", "failed", "lost-worker", ""),
        ("open('/home/nan/train.lst')", "failed", "error", "FileNotFoundError"),
        ("open('/home/nan/loss/train.lst')", "failed", "error", "FileNotFoundError"),
        ("print('loss nan'); raise ValueError('embed_dim')", "failed", "error", "ValueError: embed_dim"),
        ("print('step 1 grad_norm inf'); sys.exit(1)", "failed", "error", "grad_norm inf"),
        ("raise RuntimeError('loss is nan at step 1200')", "diverged", None, "loss is nan"),
        ("raise FloatingPointError('non-finite gradient in step 3')", "diverged", None, "gradient"),
        (
            "curve(1, **{'train/loss': float('nan')}); curve(2, lr=1); enhance()",
            "diverged",
            None,
            "train/loss",
        ),
    ],
)
def test_only_a_loss_or_gradient_that_is_not_finite_is_a_divergence(
    program, new_run, go, text, state, cause, said
):
    program(text)
    run, job = new_run()
    found = go(run, job)
    assert (found.state, found.cause) == (state, cause), found.message
    assert said in found.message


@pytest.mark.parametrize("footer", [HYDRA, TORCHRUN, OTHER_RANK, ACCELERATE])
@pytest.mark.parametrize(("words", "state"), [("loss is nan", "diverged"), ("no such layer", "failed")])
def test_the_childs_exception_is_found_before_a_launchers_words(program, new_run, go, footer, words, state):
    text = f"Traceback (most recent call last):\n[rank0]: RuntimeError: {words}\n{footer}"
    program(f"print({text!r}, file=sys.stderr); sys.exit(1)")
    run, job = new_run()
    found = go(run, job)
    assert found.state == state
    assert f"RuntimeError: {words}" in found.message


def test_options_that_a_program_refuses_behind_a_launcher_are_not_a_lost_worker(program, new_run, go):
    footer = OTHER_RANK.replace("exitcode  : 1", "exitcode  : 2")
    text = f"usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --bogus 1\n{footer}"
    program(f"print({text!r}, file=sys.stderr); sys.exit(1)")
    run, job = new_run()
    found = go(run, job)
    assert (found.state, found.cause) == ("failed", "configuration")
    assert found.message.endswith("exit code 2: train.py: error: unrecognized arguments: --bogus 1")


@pytest.mark.slow
def test_weights_and_logs_of_the_users_folder_are_not_every_runs(program, new_run, go, folder):
    program(
        "latest = Path('checkpoints/latest.pt')\n"
        "print('starts from', latest.read_text() if latest.exists() else 'nothing')\n"
        "latest.write_text('weights of ' + options.mode); Path('logs').mkdir(exist_ok=True)\n"
        "Path('logs/train.log').write_text(options.mode); Path('empty/new.pt').write_text('x')\n"
        "assert Path('data/list.txt').read_text() == 'files'\n"
        "enhance()"
    )
    for name, text in (
        ("checkpoints/latest.pt", "old weights"),
        ("logs/old.log", "old"),
        ("data/list.txt", "files"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    for name in ("base", "x"):
        run, job = new_run(name, name=name[0] * 64)
        assert go(run, job).state == "done", run.state.message
        assert "starts from nothing" in run.log.read_text()
    assert (folder / "checkpoints/latest.pt").read_text() == "old weights"
    assert [path.name for path in (folder / "logs").iterdir()] == ["old.log"]
    assert not any((folder / "empty").iterdir())
    run, job = new_run("y", name="f" * 64, links=("checkpoints",))
    found = go(run, job)
    assert "starts from old weights" in run.log.read_text()
    assert found.state == "failed"
    assert "checkpoints/latest.pt" in found.message


@pytest.mark.parametrize("ending", ["enhance()", "sys.exit(1)", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("change", ["Path('data/list.txt').write_text('other')", "Path('data/x').touch()"])
def test_a_linked_path_that_changed_fails_the_run(program, new_run, go, folder, change, ending):
    (folder / "data").mkdir()
    (folder / "data" / "list.txt").write_text("files")
    program(f"{change}\n{ending}")
    run, job = new_run()
    found = go(run, job)
    assert (found.state, found.cause) == ("failed", "changed-link"), found.message
    assert str(folder / "data") in found.message


def git(place: Path, *words: str) -> None:
    settings = ("-c", "user.email=a@b", "-c", "user.name=a", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "-C", place, *settings, *words], check=True, capture_output=True)


@pytest.fixture
def nested(folder, tmp_path):
    """A repository with a submodule, a nested repository and a linked folder, each with code."""
    for name in ("other", "apart"):
        place = tmp_path / name
        place.mkdir()
        (place / "core.py").write_text("VALUE = 1\n")
        (place / "notes.log").write_text("x")
    git(tmp_path / "other", "init", "-q")
    git(tmp_path / "other", "add", "core.py")
    git(tmp_path / "other", "commit", "-qm", "x")
    git(folder, "init", "-q")
    git(folder, "submodule", "add", "-q", str(tmp_path / "other"), "sub")
    git(folder, "add", "toy.py")
    git(folder, "commit", "-qm", "x")
    shutil.copytree(tmp_path / "other", folder / "nest")
    (folder / "linked").symlink_to(tmp_path / "apart")
    (folder / "sub" / "loop").symlink_to(folder)
    return folder


@pytest.mark.parametrize("patterns", [(), ("**/*.py",)])
def test_code_that_lies_elsewhere_is_code(nested, patterns, tmp_path):
    files = code.find_code(nested, patterns)
    assert {"toy.py", "sub/core.py", "nest/core.py", "linked/core.py"} == set(files)
    digest = code.digest_of(files)
    copy = code.keep(files, digest, tmp_path / "code")
    own = TrainingCommand(
        command="x {seed} {out} {overrides}", folder=str(nested), code=patterns, digest=digest
    )
    for name in ("sub", "nest", "linked"):
        path = nested / name / "core.py"
        path.write_text("VALUE = 2\n")
        assert code.digest_of(code.find_code(nested, patterns)) != digest
        code.lay_out(copy, own, tmp_path / "work", tmp_path / "runs")
        assert (tmp_path / "work" / name / "core.py").read_text() == "VALUE = 1\n"
        path.write_text("VALUE = 1\n")
    assert code.digest_of(code.find_code(nested, patterns)) == digest


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own a folder by another")
def test_a_folder_that_git_refuses_to_read_is_refused(nested):
    for path in (nested, *nested.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    with pytest.raises(InputError, match=r"safe\.directory"):
        code.find_code(nested, ())
    assert "toy.py" in code.find_code(nested, ("*.py",))


@pytest.mark.slow
def test_a_dead_attempts_curve_is_not_the_next_ones_result(program, new_run, go):
    program(
        "if options.mode == 'dead':\n"
        "    curve(10, **{'val/pesq_wb': 3.5}); (out / 'metrics.old').touch(); sys.exit(1)\n"
        "assert not (out / 'metrics.old').exists()\n"
        "curve(5, **{'val/pesq_wb': 1.2}); enhance()"
    )
    run, job = new_run("dead")
    assert go(run, job).state == "failed"
    run.write_spec(run.spec | {"overrides": {"mode": "well"}})
    found = go(run, job)
    assert (found.state, found.val_pesq_wb, found.step) == ("done", 1.2, 5), found.message
    assert [line["val/pesq_wb"] for line in run.metrics()] == [1.2]
    assert (run.path / "out-failed" / "metrics.old").exists()


@pytest.mark.slow
def test_a_program_that_resumes_itself_keeps_its_folder(program, new_run, go):
    program("if not (out / 'half').exists():\n    (out / 'half').touch(); sys.exit(1)\nenhance()")
    run, job = new_run(resume="own")
    assert go(run, job).state == "failed"
    assert go(run, job).state == "done"
    assert calls(run) == 2


@pytest.mark.slow
def test_what_a_user_has_mended_is_scored_and_not_trained_again(program, new_run, go):
    program("enhance('enh')")
    run, job = new_run()
    assert go(run, job).state == "done"
    assert run.evaluation("plain").cause == "output"
    (run.path / "out" / "enh").rename(run.path / "out" / "enhanced")
    assert go(run, job).state == "done"
    assert calls(run) == 1


@pytest.mark.slow
def test_a_failed_evaluation_leaves_training_and_scores_as_they_are(program, new_run, go, cache):
    program("enhance()")
    run, job = new_run()
    done = go(run, job)
    before = run.scores_path("plain").read_bytes()
    other = job.model_copy(update={"signature": "other", "test_digest": "0" * 64})
    assert execute(run, [job, other], cache=cache, threads=1, processes=0) == done == run.state
    assert run.scores_path("plain").read_bytes() == before
    assert (run.path / "ended.json").exists()
    failed = run.evaluation("other")
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert "have changed" in failed.message
    execute(run, [job, other], cache=cache, threads=1, processes=0)
    assert run.evaluation("other").attempts == 2
    assert calls(run) == 1


DAEMON = """
pids = out / "daemon"
text = ("import os, sys, time; os.setsid(); os.fork() and os._exit(0); open(sys.argv[1], 'w')"
        ".write(str(os.getpid())); time.sleep(600)")
subprocess.Popen([sys.executable, "-c", text, str(pids)], close_fds=False, env={ENV})
while not pids.exists() or not pids.read_text():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("env", ["None", "{}"])
@pytest.mark.parametrize("ending", ["sys.exit(1)", "enhance()"])
@pytest.mark.slow
def test_a_daemon_left_behind_is_ended(program, new_run, go, alive, env, ending):
    program(DAEMON.replace("{ENV}", env) + ending)
    run, job = new_run()
    assert go(run, job).state == ("done" if ending == "enhance()" else "failed"), run.state.message
    assert not run.locked
    assert not alive(int((run.path / "out" / "daemon").read_text()))


@pytest.mark.slow
def test_what_is_in_a_session_of_its_own_is_ended_before_the_next_attempt(
    program, new_run, go, worker, alive, wait_for
):
    """As the ranks of torchrun are: their launcher and their worker die, they go on."""
    program(
        DAEMON.replace("{ENV}", "None")
        + "(out / 'pid').write_text(str(os.getpid())); (out / 'ready').touch()\n"
        + "if not options.resume: time.sleep(600)\nenhance()"
    )
    run, job = new_run(resume="--resume {out}/ready")
    other = worker(run, job)
    wait_for(run.path / "out" / "ready")
    daemon = int((run.path / "out" / "daemon").read_text())
    command = int((run.path / "out" / "pid").read_text())
    other.kill()
    other.wait()
    os.kill(command, 9)
    time.sleep(0.2)
    assert alive(daemon)
    (run.path / "out" / "daemon").unlink()
    assert go(run, job).state == "done", run.state.message
    assert not alive(daemon)
