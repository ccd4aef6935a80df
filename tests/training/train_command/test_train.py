"""Runs of a command that goes well and wrong in every way we know."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.training.data.corpus import Corpus
from ablate.training.enhance import checkpoint_of_run
from ablate.training.rundir import RunDir, read_json
from ablate.training.train_command import process
from ablate.training.train_command.config import TrainingCommand
from ablate.training.train_command.outputs import OutputError, scores_at

COMMAND = f"{sys.executable} toy.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}"


def called(run: RunDir) -> list[str]:
    return (run.path / "out" / "called.txt").read_text().split()


def test_a_command_to_its_end(new_run, go):
    run, job = new_run()
    state = go(run, job)
    assert (state.state, state.cause, state.step, state.steps) == ("done", None, 20, 20), state.message
    assert [line["step"] for line in run.metrics()] == [10, 20]
    assert state.val_pesq_wb == max(line["val/pesq_wb"] for line in run.metrics())
    table = pd.read_parquet(run.scores_path("plain"))
    assert list(table["utterance"]) == ["d_1", "d_2"]
    assert {"pesq_wb", "stoi", "si_sdr", "noisy_pesq_wb", "speaker", "seconds"} <= set(table)
    assert table["pesq_wb"].notna().all()
    summary = run.summary
    assert summary["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "numpy" in summary["packages"]
    assert summary["seconds_per_step"] > 0
    assert (run.audio / "d_1-enhanced.wav").exists()
    assert "seed 1, mode well, resumed from None" in run.log.read_text()
    assert go(run, job) == state
    assert called(run) == ["-"]
    with pytest.raises(InputError, match="trained by a command"):
        checkpoint_of_run(run.path.parents[1], run.signature)


def test_other_seeds_give_other_scores(new_run, go):
    tables = []
    for seed in (1, 2):
        run, job = new_run(seed=seed, name=str(seed) * 64)
        go(run, job)
        tables.append(pd.read_parquet(run.scores_path("plain")))
    assert not tables[0].equals(tables[1])


def test_a_table_of_its_own(new_run, go):
    run, job = new_run(scores="scores.csv", metrics=("pesq_wb",), curve=None)
    state = go(run, job)
    assert (state.state, state.val_pesq_wb, state.steps) == ("done", None, 1), state.message
    table = pd.read_parquet(run.scores_path("plain"))
    assert table["pesq_wb"].between(2, 3).all()
    assert "extra" not in table
    assert {"noisy_pesq_wb", "seconds", "speaker"} <= set(table)


def test_a_long_curve_costs_no_sync_a_line(new_run, go, monkeypatch, folder):
    with (folder / "toy.py").open("a") as file:
        file.write(
            "with open(f'{options.out}/metrics.jsonl', 'a') as file:\n"
            "    for step in range(21, 20_001):\n"
            "        print(json.dumps({'step': step, 'val/pesq_wb': 2.0}), file=file)\n"
        )
    run, job = new_run()
    syncs, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: syncs.append(file) or fsync(file))
    assert go(run, job).state == "done"
    assert len(run.metrics()) == 19_982
    assert len(syncs) < 500


@pytest.mark.slow
def test_seconds_of_an_attempt_whose_worker_died_count(new_run, go, worker, wait_for):
    run, job = new_run("waiting")
    killed = worker(run, job)
    wait_for(run.path / "out" / "pids")
    deadline = time.monotonic() + 60
    while (read_json(run.path / "seconds.json") or 0) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    before = read_json(run.path / "seconds.json")
    assert go(run, job).state == "done", run.state.message
    assert run.summary["seconds"] > before >= 3


FAILURES = {
    "failing": ("failed", "error", "exit code 1: ValueError: the learning rate is a fish"),
    "memory": ("failed", "out-of-memory", "exit code 1: torch.OutOfMemoryError: CUDA out of memory"),
    "SIGSEGV": ("failed", "error", "ended by SIGSEGV"),
    "SIGKILL": ("failed", "lost-worker", "ended by SIGKILL"),
    "silent": ("failed", "output", "left no enhanced; expected 2 enhanced test files such as d_1.wav in"),
    "elsewhere": ("failed", "output", "it wrote outside {out}, next to its code: enhanced/d_1.wav"),
    "partial": ("failed", "output", "1 of 2 test files are missing"),
    "short": ("failed", "output", "enhanced files must be as long as the noisy ones"),
    "nan": ("diverged", None, "train/loss is not finite at the end of metrics.jsonl"),
}


@pytest.mark.parametrize("mode", FAILURES)
def test_what_goes_wrong_is_told(new_run, go, mode):
    run, job = new_run(mode)
    state = go(run, job)
    kind, cause, said = FAILURES[mode]
    if cause == "output":
        assert state.state == "done"
        state = run.evaluation("plain")
    assert (state.state, state.cause) == (kind, cause)
    assert said in state.message
    assert not run.scores_path("plain").exists()
    assert (run.path / "ended.json").exists() == (cause == "output")


@pytest.mark.parametrize(
    ("train", "cause", "said"),
    [
        ({"command": "pyhton toy.py {seed} {out} {overrides}"}, "configuration", "pyhton"),
        ({"command": COMMAND + " --fish"}, "configuration", "--fish"),
        ({"digest": "0" * 64}, "configuration", "is missing"),
    ],
)
def test_a_command_that_is_not_there_or_refuses(new_run, go, train, cause, said):
    run, job = new_run(**train)
    state = go(run, job)
    assert (state.state, state.cause) == ("failed", cause)
    assert said in state.message


def test_a_folder_without_audio_is_told_by_what_was_expected(tiny_corpus, cache, tmp_path):
    (tmp_path / "enhanced").mkdir()
    pairs = Corpus.open(tiny_corpus, cache=cache).test
    with pytest.raises(OutputError) as told:
        scores_at(TrainingCommand(command=COMMAND, folder=str(tmp_path)), tmp_path, pairs)
    assert str(told.value) == (
        "the command succeeded but left no audio file in enhanced; expected 2 enhanced test files such as "
        "d_1.wav in {out}/enhanced; {out} has enhanced"
    )


WHERE = {
    "enhanced/{}.wav": "enhanced",
    "enhanced/{}_enh.wav": "enhanced/{name}_enh.wav",
    "samples/epoch_3/{}.wav": "samples/epoch_3",
    "{}.flac": "{name}.flac",
}


@pytest.mark.parametrize("place", WHERE)
def test_scores_names_files_wherever_they_lie(tiny_corpus, cache, tmp_path, place):
    pairs = Corpus.open(tiny_corpus, cache=cache).test
    for pair in pairs:
        path = tmp_path / place.format(pair.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = WHERE[place]
    if wanted != "enhanced":
        with pytest.raises(OutputError) as told:
            scores_at(TrainingCommand(command=COMMAND, folder=str(tmp_path)), tmp_path, pairs)
        assert str(told.value).endswith(f"; did you mean scores: {wanted}?")
    own = TrainingCommand(command=COMMAND, folder=str(tmp_path), scores=wanted)
    found = scores_at(own, tmp_path, pairs)
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        pair.name: place.format(pair.name) for pair in pairs
    }


def test_of_several_dated_folders_the_newest_is_scored(tiny_corpus, cache, tmp_path):
    pairs = Corpus.open(tiny_corpus, cache=cache).test
    for number, day in enumerate(("2026-02-01", "2026-01-01")):
        for pair in pairs:
            (tmp_path / day / "wavs").mkdir(parents=True, exist_ok=True)
            (tmp_path / day / "wavs" / f"{pair.name}-out.wav").touch()
        os.utime(tmp_path / day / "wavs", ns=(number, number))
    own = TrainingCommand(command=COMMAND, folder=str(tmp_path), scores="*/wavs/{name}-out.wav")
    assert {path.parts[-3] for path in scores_at(own, tmp_path, pairs).values()} == {"2026-01-01"}


def test_a_table_may_name_files(new_run, go, folder):
    program = folder / "toy.py"
    program.write_text(program.read_text().replace("name.removesuffix('.wav')", "name"))
    run, job = new_run(scores="scores.csv", metrics=("pesq_wb",))
    go(run, job)
    assert run.evaluation("plain").state == "done", run.evaluation("plain").message


def test_scores_that_are_no_numbers_are_a_divergence(new_run, go):
    run, job = new_run("nan-scores", scores="scores.csv", metrics=("pesq_wb",))
    state = go(run, job)
    assert (state.state, state.message.count("d_1")) == ("diverged", 1)


def test_a_table_that_lacks_the_measure(new_run, go):
    run, job = new_run(scores="scores.csv", metrics=("si_sdr",))
    assert go(run, job).state == "done"
    evaluation = run.evaluation("plain")
    assert (evaluation.state, evaluation.cause) == ("failed", "output")
    assert "utterance, pesq_wb, extra; it needs si_sdr" in evaluation.message


@pytest.mark.slow
def test_asked_to_stop_it_is_resumed(new_run, go, alive):
    run, job = new_run("waiting")
    pids = run.path / "out" / "pids"
    state = go(run, job, should_stop=pids.exists)
    assert (state.state, state.cause) == ("pending", "interrupted")
    assert not any(alive(int(pid)) for pid in pids.read_text().split())
    state = go(run, job)
    assert (state.state, state.attempts) == ("done", 2), state.message
    assert called(run)[0] == "-"
    assert called(run)[1].endswith("latest.pt")
    assert [line["resumed"] for line in run.attempts()] == [False, True]
    assert [line["step"] for line in run.metrics()] == [10, 20]


@pytest.mark.parametrize("mode", ["waiting", "polite3", "polite0"])
@pytest.mark.slow
def test_one_that_was_asked_to_end_by_others_too_is_resumed(new_run, go, mode):
    """SLURM asks all processes of a job at once."""
    run, job = new_run(mode)
    pids = run.path / "out" / "pids"
    asked = []

    def should_stop():
        if pids.exists() and not asked:
            asked.append(pid := int(pids.read_text().split()[0]))
            os.kill(pid, signal.SIGTERM)
            return False
        return bool(asked)

    state = go(run, job, should_stop=should_stop)
    assert (state.state, state.cause) == ("pending", "interrupted"), state.message
    assert go(run, job).state == "done"


def test_the_signal_by_which_time_is_up_is_the_workers_alone(new_run, go):
    run, job = new_run(command="sh -c 'kill -USR2 $$; exec \"$@\"' sh " + COMMAND)
    state = go(run, job)
    assert state.state == "done", state.message


def test_one_that_does_not_end_is_killed(new_run, go, alive, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.3)
    run, job = new_run("stubborn")
    pids = run.path / "out" / "pids"
    assert go(run, job, should_stop=pids.exists).state == "pending"
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


@pytest.mark.slow
def test_two_equal_failures_of_the_resume_start_anew(new_run, go):
    run, job = new_run("broken-resume")
    (run.path / "out").mkdir()
    (run.path / "out" / "latest.pt").write_text("cut off")
    state = go(run, job)
    assert state.state == "done", state.message
    assert called(run) == ["-"]
    former = run.path / "out-failed" / "called.txt"
    assert len(former.read_text().split()) == 2


def test_scores_of_an_earlier_attempt_are_removed(new_run, go):
    run, job = new_run("failing")
    for path in (run.path / "out" / "enhanced" / "d_1.wav", run.scores_path("old"), run.audio / "x.wav"):
        path.parent.mkdir(parents=True)
        path.write_text("old")
    go(run, job)
    assert not (run.path / "out" / "enhanced").exists()
    assert not run.scores_path("old").exists()
    assert not run.audio.exists()


def test_an_edit_in_the_middle_of_a_study_changes_nothing(new_run, go, folder):
    run, job = new_run()
    (folder / "toy.py").write_text("raise SystemExit('edited')")
    assert go(run, job).state == "done"


@pytest.mark.slow
def test_a_worker_killed_while_its_command_runs(new_run, go, worker, alive, wait_for):
    """The command outlives its worker and holds the run; the next one ends it before it writes."""
    run, job = new_run("waiting")
    other = worker(run, job)
    pids = [int(pid) for pid in wait_for(run.path / "out" / "pids").split()]
    other.kill()
    other.wait()
    assert run.locked
    assert all(map(alive, pids))
    state = go(run, job)
    assert (state.state, state.attempts) == ("done", 2), state.message
    assert not any(map(alive, pids))
    assert len(called(run)) == 2


def test_a_command_whose_worker_lives_is_left_alone(new_run, worker, alive, wait_for):
    run, job = new_run("waiting")
    other = worker(run, job)
    pids = [int(pid) for pid in wait_for(run.path / "out" / "pids").split()]
    process.end_left_behind(run)
    assert all(map(alive, pids))
    other.send_signal(signal.SIGINT)
    other.wait(60)
    assert not any(map(alive, pids))
    assert run.state.cause == "interrupted"


@pytest.mark.parametrize("whose", ["this worker", "another host", "another run"])
def test_only_what_a_dead_worker_of_this_host_left_of_this_run_is_ended(new_run, alive, whose):
    run, _ = new_run()
    (run.path / "work").mkdir(exist_ok=True)
    path, host = process._place(run)
    marker = {
        "this worker": [path, host, os.getpid()],
        "another host": [path, "another", 1],
        "another run": [path + "x", host, 1],
    }
    environment = os.environ | {process.MARKER: json.dumps(marker[whose])}
    sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment)
    try:
        process.end_left_behind(run)
        assert alive(sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_run_of_a_network_costs_no_look_at_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_marked", lambda *_, **__: pytest.fail("every process is looked at"))
    process.end_left_behind(RunDir(tmp_path))


def test_what_it_writes_is_seen_while_it_runs(new_run, go, wait_for):
    run, job = new_run("waiting")
    stop = threading.Event()
    seen = []

    def look():
        wait_for(run.path / "out" / "pids")
        deadline = time.monotonic() + 20
        while run.state.step != 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.append((run.state.step, len(run.metrics()), run.state.state))
        stop.set()

    thread = threading.Thread(target=look)
    thread.start()
    go(run, job, should_stop=stop.is_set)
    thread.join()
    assert seen == [(20, 2, "running")]


@pytest.mark.slow
def test_the_environment_and_the_file_carry_overrides(new_run, go, folder):
    (folder / "toy.py").write_text(
        "import os, sys, pathlib\n"
        "out = pathlib.Path(sys.argv[2])\n"
        "text = os.environ['MODE'] if sys.argv[1] == 'env' else pathlib.Path(sys.argv[3]).read_text()\n"
        "(out / 'told.txt').write_text(text + os.environ['OMP_NUM_THREADS'])\n"
    )
    python = sys.executable
    for name, style, rest in (("e" * 64, "env", ""), ("f" * 64, "yaml", " {config}")):
        command = f"{python} toy.py {style} {{out}}{rest} {{seed}}"
        run, job = new_run(name=name, command=command, overrides=style, given={"MODE": "7"})
        os.environ.pop("OMP_NUM_THREADS", None)
        assert go(run, job).state == "done"
        told = (run.path / "out" / "told.txt").read_text()
        assert told == ("71" if style == "env" else "MODE: 7\n1")


def test_of_several_commands_a_retry_takes_up_at_the_one_that_failed(new_run, go, folder):
    (folder / "test.py").write_text(
        "import pathlib, shutil, sys\n"
        "out, data, weights = map(pathlib.Path, sys.argv[1:])\n"
        "print('tests', weights.name)\n"
        "if not (out / 'once').exists():\n"
        "    (out / 'once').touch(); raise RuntimeError('no such layer')\n"
        "shutil.move(out / 'enhanced', out / 'tested')\n"
    )
    later = f"{sys.executable} test.py {{out}} {{data}} {{out}}/late*.pt"
    run, job = new_run(then=[later], scores="tested")
    state = go(run, job)
    assert (state.state, state.message) == (
        "failed",
        "CommandError: exit code 1: RuntimeError: no such layer",
    )
    assert go(run, job).state == "done"
    assert run.evaluation("plain").state == "done", run.evaluation("plain").message
    assert called(run) == ["-"]
    assert "tests latest.pt" in run.log.read_text()
    assert run.state.step == 20


def test_a_port_that_is_taken_is_a_cause_of_its_own(new_run, go, folder):
    (folder / "toy.py").write_text("raise OSError(98, 'Address already in use')\n")
    run, job = new_run()
    assert go(run, job).cause == "port-taken"


def test_the_python_behind_a_shell_and_a_launcher_is_found(tmp_path):
    launcher = tmp_path / "torchrun"
    launcher.write_text(f"#!{sys.executable}\n")
    launcher.chmod(0o755)
    path = os.environ["PATH"]
    for words in (
        [sys.executable, "train.py"],
        ["env", "A=1", sys.executable],
        ["sh", "-c", f"exec {sys.executable} train.py"],
        [str(launcher), "train.py"],
    ):
        assert process.find_python(words, path) == sys.executable
    assert process.find_python(["sleep", "1"], path) is None
