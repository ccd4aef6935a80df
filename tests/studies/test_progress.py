from __future__ import annotations

from io import StringIO

from optuna.trial import TrialState
from rich.console import Console

from ablate.studies.launchers import Job
from ablate.studies.progress import ConsoleProgress
from ablate.studies.trials import Trial
from ablate.training.rundir import RunDir


def job(root, cell, seed, length=1.0):
    trial = Trial((cell, seed), seed, seed, TrialState.WAITING, {} if length == 1.0 else {"length": length})
    run = RunDir(root / f"{cell}-{seed}-{length}")
    run.path.mkdir(parents=True)
    run.update_state(state="pending")
    return Job(run, root, trials=[(None, trial)])


def test_every_round_is_counted_for_itself(tmp_path):
    told = StringIO()
    progress = ConsoleProgress(Console(file=told))
    jobs = [job(tmp_path, "base", seed) for seed in (1, 2, 3)]
    for count, done in ((2, []), (3, jobs[1:2])):
        progress.start(jobs[:count], done, [])
        progress.ended(jobs[0], "done", final=True)
        progress.close()
    assert told.getvalue().splitlines() == ["[1/2] base seed 1: done", "[2/3] base seed 1: done"]


def test_a_line_is_never_folded_outside_a_terminal(tmp_path):
    told = StringIO()
    progress = ConsoleProgress(Console(file=told, width=40))
    one = job(tmp_path, "bidirectional+decoder4x+crossband", 1, 2.0)
    progress.start([one], [], [])
    progress.ended(one, "done", final=True)
    assert told.getvalue() == "[1/1] bidirectional+decoder4x+crossband seed 1 at 2: done\n"


def test_a_terminal_shows_cells_by_seeds_with_what_became_of_each(tmp_path):
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=90, height=30, color_system=None)
    progress = ConsoleProgress(console)
    jobs = [job(tmp_path, cell, seed) for cell in ("base", "wide") for seed in (1, 2)]
    jobs.append(job(tmp_path, "wide", 1, 0.5))
    progress.start(jobs, jobs[:1], [])
    jobs[1].run.update_state(state="failed", cause="data")
    progress.ended(jobs[1], "failed: data", final=True)
    jobs[2].run.update_state(state="running", step=10, steps=40, seconds_per_step=1.0)
    progress.update([jobs[2]])
    progress._live.refresh()
    progress.close()
    shown = [line.split() for line in screen.getvalue().replace("\x1b", "\n").splitlines()]
    assert ["base", "●", "✗"] in shown
    assert ["wide", "◐", "·"] in shown
    assert ["wide", "at", "0.5", "·"] in shown
    assert any(line[:3] == ["wide", "seed", "1"] and "10/40" in line and "30" in line for line in shown)
    (summary,) = {tuple(line) for line in shown if "of" in line and "runs" in line}
    assert summary[1:7] == ("2", "of", "5", "runs", "1", "failed")
