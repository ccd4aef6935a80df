import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from ablate.models import plugins
from ablate.training import checkpoint
from ablate.training.config import Evaluation, EvaluationJob, Recipe
from ablate.training.data.batches import Batches, DataError
from ablate.training.data.corpus import Corpus
from ablate.training.failures import classify
from ablate.training.run import execute
from ablate.training.rundir import RunDir, RunLockedError, file_digest

SCORES = ["pesq_wb", "pesq_nb", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr"]
TIMES = {"time", "seconds_per_step"}


@pytest.fixture
def new_run(tmp_path, make_spec):
    def make(name: str = "a" * 64, **changes) -> RunDir:
        run = RunDir(tmp_path / "runs" / name)
        run.write_spec(make_spec(training_signature=name, **changes))
        return run

    return make


@pytest.fixture(scope="session")
def job(tiny_corpus, cache) -> EvaluationJob:
    digest = Corpus.open(tiny_corpus, cache=cache).test_digest
    return EvaluationJob(signature="plain", evaluation=Evaluation(), test_digest=digest)


@pytest.fixture
def go(cache, job):
    def go(run: RunDir, jobs=(), **changes):
        return execute(
            run, list(jobs), **{"cache": cache, "threads": 1, "processes": 0, "device": "cpu", **changes}
        )

    return go


@pytest.fixture
def scored(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The weights of every network that was scored on a test."""
    from ablate.training import evaluate

    seen, score_test = [], evaluate.score_test

    def spy(model, *args, **options):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return score_test(model, *args, **options)

    monkeypatch.setattr(evaluate, "score_test", spy)
    return seen


def lines(run: RunDir) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in run.metrics()]


def weights(run: RunDir, name: str = "latest.pt") -> dict[str, torch.Tensor]:
    return checkpoint.read(run.checkpoints / name)["weights"]


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(steps: int):
    """A `should_stop` that says yes after so many steps."""
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps


def test_a_run_to_its_end(new_run, go, job):
    run, states = new_run(), []
    state = go(run, [job], report=states.append, processes=1)
    assert (state.state, state.step, state.steps, state.attempts, state.cause) == ("done", 6, 6, 1, None)
    assert states[0].state == "running"
    assert states[-1] == state == run.state
    assert state.finished >= state.started

    assert [line["step"] for line in run.metrics()] == [2, 4, 6]
    keys = {"step", "time", "train/loss", "train/grad_norm", "train/learning_rate"}
    validated = {"val/pesq_wb", "val/stoi", "val/broken", "seconds_per_step"}
    assert all(keys | validated == set(line) for line in run.metrics())

    summary = run.summary
    best = max(run.metrics(), key=lambda line: line["val/pesq_wb"])
    assert summary["selected_step"] == best["step"]
    assert summary["val_pesq_wb"] == best["val/pesq_wb"] == state.val_pesq_wb
    assert summary["parameters"] == sum(summary["parameters_by_part"].values()) > 10_000
    for name in ("seconds_per_step", "peak_memory_bytes", "real_time_factor", "noisy_val_pesq_wb"):
        assert summary[name] > 0
    assert (summary["threads"], summary["device"], summary["scan_backend"]) == (1, "cpu", None)
    assert (summary["precision"], summary["micro_batches"]) == ("fp32", 1)
    assert summary["changed_between_attempts"] == []
    assert summary["instruction_set"]["torch"] == torch.backends.cpu.get_cpu_capability()
    assert summary["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]

    import pandas as pd

    scores = pd.read_parquet(run.scores_path("plain"))
    assert list(scores["utterance"]) == ["d_1", "d_2"]
    assert set(SCORES) | {"noisy_pesq_wb", "noisy_stoi", "seconds", "error"} <= set(scores.columns)
    assert {path.name for path in run.audio.iterdir()} == {
        f"d_{number}-{kind}.wav" for number in (1, 2) for kind in ("noisy", "clean", "enhanced")
    }
    assert {path.name for path in run.checkpoints.iterdir()} == {"latest.pt", "best.pt"}
    selected = checkpoint.read(run.checkpoints / "best.pt", "weights")
    assert (selected["step"], selected["val_pesq_wb"]) == (best["step"], best["val/pesq_wb"])
    assert not checkpoint.load_model(run.checkpoints / "best.pt").training
    assert "selected step" in run.log.read_text()

    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert go(run, [job]) == state
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert {p for p in after if before.get(p) != after[p]} == set()

    contrast = job.model_copy(update={"signature": "pcs", "evaluation": Evaluation(post_processing="pcs")})
    state = go(run, [job, contrast])
    assert state.state == "done"
    other = pd.read_parquet(run.scores_path("pcs"))
    assert (other["pesq_wb"] != scores["pesq_wb"]).any()
    assert set(run.summary["measured"]) == {"plain", "pcs"}
    assert run.summary["measured"]["plain"]["passports"]["pesq_wb"]["standard"]
    assert {**run.summary, "measured": summary["measured"]} == summary
    assert lines(run) == [{k: v for k, v in x.items() if k not in TIMES} for x in run.metrics()]
    assert len(run.metrics()) == 3


@pytest.mark.numerics
@pytest.mark.parametrize("model", [{}, {"core": "mamba"}])
def test_two_runs_of_a_seed_are_equal_bit_for_bit(new_run, go, model):
    one, other = new_run("a" * 64, model=model), new_run("b" * 64, model=model)
    go(one), go(other)
    assert lines(one) == lines(other)
    assert equal(weights(one), weights(other))


@pytest.mark.numerics
@pytest.mark.slow
def test_equal_in_fresh_processes(new_run, cache):
    one, other = new_run("a" * 64), new_run("b" * 64)
    for run in (one, other):
        subprocess.run([sys.executable, "-c", SCRIPT, str(run.path), str(cache)], check=True)
    assert lines(one) == lines(other)
    assert equal(weights(one), weights(other))


@pytest.mark.numerics
@pytest.mark.slow
def test_stopped_and_gone_on_is_as_never_stopped(new_run, go):
    recipe = {"adversarial_weight": 1.0, "adversarial_start": 0.3, "checkpoint_every": 4}
    whole, broken = new_run("a" * 64, recipe=recipe), new_run("b" * 64, recipe=recipe)
    go(whole)
    state = go(broken, should_stop=stop_after(1))
    assert (state.state, state.cause, state.step) == ("pending", "interrupted", 1)
    assert go(broken, should_stop=stop_after(2)).state == "pending"
    state = go(broken)
    assert (state.state, state.attempts, state.message) == ("done", 3, None)
    assert lines(broken) == lines(whole)
    assert equal(weights(broken), weights(whole))
    assert equal(weights(broken, "best.pt"), weights(whole, "best.pt"))


@pytest.mark.numerics
def test_a_damaged_latest_checkpoint_is_passed_over(new_run, go):
    whole, broken = new_run("a" * 64), new_run("b" * 64)
    go(whole)
    go(broken, should_stop=stop_after(5))
    with (broken.checkpoints / "latest.pt").open("r+b") as handle:
        handle.truncate(2000)
    assert go(broken).state == "done"
    assert "latest.pt is truncated" in broken.log.read_text()
    assert "continues after step 4" in broken.log.read_text()
    assert lines(broken) == lines(whole)
    assert equal(weights(broken), weights(whole))


def test_a_line_cut_off_by_a_full_disk_does_no_harm(new_run, go):
    whole, broken = new_run("a" * 64), new_run("b" * 64)
    go(whole)
    go(broken, should_stop=stop_after(3))
    with (broken.path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4, "ti')
    go(broken)
    assert lines(broken) == lines(whole)


def test_a_torn_line_of_attempts_does_not_fail_the_run(new_run, go, job):
    run = new_run()
    go(run, should_stop=stop_after(3))
    with (run.path / "attempts.jsonl").open("a") as handle:
        handle.write('{"attempt": 2, "time": 1790')
    state = go(run, [job])
    assert (state.state, state.message) == ("done", None)
    assert [line["attempt"] for line in run.attempts()] == [1, 2]


def test_steps_that_a_dead_attempt_took_are_counted(new_run, go, job):
    run = new_run()
    go(run, should_stop=stop_after(2))
    run.update_state(state="running", step=5)  # it went on, and was killed before its next checkpoint
    go(run, [job])
    assert [line["lost_steps"] for line in run.attempts()] == [0, 3]
    assert (run.lost_steps, run.summary["lost_steps"]) == (3, 3)


def test_nan_at_a_step_diverges_there(new_run, go, monkeypatch):
    run, batch = new_run(), Batches.batch

    def poisoned(self, step):
        clean, noisy = batch(self, step)
        return (clean, noisy * np.nan) if step == 4 else (clean, noisy)

    monkeypatch.setattr(Batches, "batch", poisoned)
    state = go(run)
    assert state.state == "diverged"
    assert state.message == "diverged at step 5 of 6: the loss is nan"
    evidence = json.loads((run.path / "diverged" / "evidence.json").read_text())
    assert evidence["step"] == 5
    assert len(evidence["items"]) == 2
    with np.load(run.path / "diverged" / "batch.npz") as kept:
        assert np.isnan(kept["noisy"]).all()
        assert kept["clean"].shape == (2, 11_200)
    assert checkpoint.read(run.checkpoints / "latest.pt", "training")["step"] == 4
    assert [line["step"] for line in run.metrics()] == [2, 4]
    assert all(line["val/pesq_wb"] > 1 for line in run.metrics())
    assert go(run) == state


def test_no_measurable_validation_selects_nothing(new_run, go, monkeypatch, job):
    from ablate.training import selection

    missing = {"val/pesq_wb": None, "val/stoi": 0.5, "val/broken": 0}
    monkeypatch.setattr(selection, "mean_scores", lambda _: dict(missing))
    run = new_run()
    assert go(run, [job]).state == "done"
    assert [line["val/pesq_wb"] for line in run.metrics()] == [None] * 3
    assert run.summary["selected_step"] == 6
    assert run.summary["val_pesq_wb"] is None


@pytest.mark.numerics
def test_averaged_weights_are_validated_tested_and_kept(new_run, go, job, scored):
    recipe = {"ema": 0.5, "steps": 4, "validate_every": 4, "keep_every": 4, "checkpoint_every": 4}
    run = new_run(recipe=recipe)
    go(run, [job])
    state = checkpoint.read(run.checkpoints / "latest.pt", "training")
    averaged = state["weights"]
    assert not equal(averaged, state["unaveraged"])
    for name in ("best.pt", "step-000004.pt"):
        assert equal(weights(run, name), averaged)
    assert equal(scored[0], averaged)
    assert equal(checkpoint.load_model(run.checkpoints / "latest.pt").state_dict(), averaged)


@pytest.mark.numerics
def test_without_a_validation_the_last_averages_are_tested(new_run, go, job, scored, monkeypatch):
    from ablate.training import selection

    monkeypatch.setattr(selection, "mean_scores", lambda _: {"val/pesq_wb": None, "val/stoi": None})
    run = new_run(recipe={"ema": 0.5})
    go(run, [job])
    assert equal(scored[0], weights(run))


def test_last_step_is_validated_and_checkpoints_are_kept(new_run, go):
    run = new_run(recipe={"steps": 5, "validate_every": 3, "keep_every": 2})
    go(run)
    assert [line["step"] for line in run.metrics()] == [3, 5]
    kept = {path.name for path in run.checkpoints.iterdir()} - {"latest.pt", "best.pt"}
    assert kept == {"step-000002.pt", "step-000004.pt"}


@pytest.mark.numerics
def test_starts_from_weights(new_run, go):
    first = new_run("a" * 64)
    go(first)
    path = first.checkpoints / "best.pt"
    start = {"path": str(path), "digest": file_digest(path)}
    frozen = {"learning_rate": 1e-12, "steps": 1, "validate_every": 1}
    second = new_run("b" * 64, recipe=frozen, start_from=start)
    assert go(second).state == "done"
    wanted, found = weights(first, "best.pt"), weights(second)
    assert all(torch.allclose(wanted[name], found[name], atol=1e-9) for name in wanted)
    changed = new_run("c" * 64, start_from={**start, "digest": "0" * 64})
    state = go(changed)
    assert (state.state, state.cause) == ("failed", "configuration")
    assert "not the checkpoint" in state.message


def test_failures_have_causes(new_run, go, tmp_path, monkeypatch):
    state = go(new_run("a" * 64, corpus={"path": str(tmp_path / "none"), "digest": "", "name": "none"}))
    assert (state.state, state.cause) == ("failed", "data")
    assert "none" in state.message
    corpus = {**new_run("b" * 64).spec["corpus"], "digest": "f" * 64}
    state = go(new_run("b" * 64, corpus=corpus))
    assert state.cause == "data"
    assert "has changed" in state.message
    assert "planned ffffffffffff" in state.message
    state = go(new_run("c" * 64, plugins=[str(tmp_path / "part.py")]))
    assert state.cause == "configuration"
    assert "part.py" in state.message

    from ablate.training.trainer import Trainer

    def exhausted(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    run = new_run("d" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_start", exhausted)
        assert go(run).cause == "out-of-memory"
        assert "Traceback" in run.log.read_text()
    assert go(run, accumulation=2).state == "done"
    assert run.summary["micro_batches"] == 2
    assert [line["micro_batches"] for line in run.attempts()] == [1, 2]
    assert run.summary["changed_between_attempts"] == ["micro_batches"]


def test_nothing_is_held_of_a_run_that_failed(new_run, go, monkeypatch):
    """The next run of the process, and others on the GPU, want that memory at once."""
    from ablate.training.pipeline import BuiltIn

    networks, initial = [], BuiltIn.initial_network

    def seen(training):
        network = initial(training)
        networks.append(weakref.ref(network))
        return network

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(BuiltIn, "initial_network", seen)
    monkeypatch.setattr("ablate.training.trainer.Trainer._start", exhausted)
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(networks[0]() is None))
    assert go(new_run()).cause == "out-of-memory"
    assert emptied == [True]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), "out-of-memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out-of-memory"),
        (torch.OutOfMemoryError("CUDA"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out-of-memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out-of-memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (ValueError("CUDA error"), "configuration"),
        (OSError(12, "Cannot allocate memory"), "out-of-memory"),
        (DataError("empty"), "data"),
        (ValueError("out of memory of the author"), "configuration"),
        (OSError(28, "No space left on device"), "storage"),
        (OSError(30, "Read-only file system"), "storage"),
        (OSError("40083 requested and 0 written"), "storage"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "storage"),
    ],
)
def test_causes(error, cause):
    assert classify(error, "configuration") == cause


def test_plugin_networks_are_trained(new_run, go, tmp_path):
    plugin = tmp_path / "my_part.py"
    plugin.write_text(
        "from torch import nn\n"
        "from ablate.models.config import CORES\n"
        "class Damped(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(config.channels, config.channels)\n"
        "    def forward(self, x):\n"
        "        return x + 0.1 * self.fc(x)\n"
        "CORES.register('damped-by-test', Damped)\n"
    )
    run = new_run(plugins=plugins.digests([plugin]))
    spec = run.spec
    spec["model"]["core"] = "damped-by-test"
    run.write_spec(spec)
    assert go(run).state == "done"
    state = go(new_run("e" * 64, plugins={str(plugin): "0" * 64}))
    assert (state.state, state.cause) == ("failed", "configuration")
    assert "my_part.py has changed since this run was planned" in state.message


def test_a_locked_run_is_left_alone(new_run, go):
    run = new_run()
    with run.lock(), pytest.raises(RunLockedError):
        go(run)
    assert run.state.attempts == 0


def test_a_checkpoint_of_another_version_is_never_trained_over(new_run, go):
    run = new_run()
    go(run, should_stop=stop_after(3))
    path = run.checkpoints / "latest.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "version": 99}, path)
    before = path.read_bytes(), (run.path / "metrics.jsonl").read_bytes()
    state = go(run)
    assert (state.state, state.cause) == ("failed", "configuration")
    assert "version 99" in state.message
    assert (path.read_bytes(), (run.path / "metrics.jsonl").read_bytes()) == before
    torch.save({**content, "signature": "f" * 64}, path)
    assert "belongs to run ffffffffffff" in go(run).message


def test_a_corpus_that_moved_is_found_by_its_digest(new_run, go, tmp_path, cache, tiny_corpus):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(tiny_corpus, old)
    other = shutil.copytree(tiny_corpus / "train", tmp_path / "other")
    private = tmp_path / "cache"
    corpus = Corpus.open(old, cache=private, test_data=other)
    job = EvaluationJob(signature="x", test_path=str(other), test_digest=corpus.test_digest)
    run = new_run(
        recipe={"steps": 1, "validate_every": 1},
        corpus={"path": str(old), "digest": corpus.digest, "name": "old"},
    )
    old.rename(new)
    other.rename(tmp_path / "moved")
    state = go(run, [job], cache=private)
    assert (state.state, state.cause) == ("failed", "data")
    assert f"no data folder {old}" in state.message
    Corpus.open(new, cache=private, test_data=tmp_path / "moved")
    assert go(run, [job], cache=private).state == "done"


def test_audio_is_whole_after_a_kill_in_the_scoring(new_run, go, job, monkeypatch):
    from ablate.training import audio_samples

    run, write = new_run(recipe={"steps": 1, "validate_every": 1}), audio_samples.write_wav

    def killed(path, audio, rate):
        write(path, audio, rate)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audio_samples, "write_wav", killed)
        with pytest.raises(KeyboardInterrupt):
            go(run, [job])
    assert not run.audio.exists()
    assert go(run, [job]).state == "done"
    assert len(list(run.audio.glob("*-enhanced.wav"))) == 2


def test_a_dead_metric_process_fails_the_evaluation_and_leaves_no_score(new_run, go, job, monkeypatch):
    from ablate.training import evaluate
    from ablate.training.metrics import MetricProcessError

    def died(*_, **__):
        raise MetricProcessError("3 processes died")

    run = new_run(recipe={"steps": 1, "validate_every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "score_test", died)
        state = go(run, [job])
    assert (state.state, state.cause) == ("done", None)
    failed = run.evaluation("plain")
    assert (failed.state, failed.cause, failed.attempts) == ("failed", "error", 1)
    assert not run.scores_path("plain").exists()
    assert go(run, [job]) == state
    assert run.evaluation("plain").state == "done"
    assert not run.evaluation_path("plain").exists()


def test_networks_that_draw_from_any_global_stream_resume_exactly(new_run, go, tmp_path):
    plugin = tmp_path / "noisy_part.py"
    plugin.write_text(
        "import random, numpy as np\n"
        "from torch import nn\n"
        "from ablate.models.config import CORES\n"
        "class Noisy(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(config.channels, config.channels)\n"
        "    def forward(self, x):\n"
        "        return x + (0.1 + 0.01 * random.random() + 0.01 * np.random.rand()) * self.fc(x)\n"
        "CORES.register('noisy-by-test', Noisy)\n"
    )

    def make(name):
        run = new_run(name, plugins=plugins.digests([plugin]))
        spec = run.spec
        spec["model"]["core"] = "noisy-by-test"
        run.write_spec(spec)
        return run

    whole, broken = make("a" * 64), make("b" * 64)
    go(whole)
    go(broken, should_stop=stop_after(3))
    random.seed(5)
    go(broken)
    assert equal(weights(broken), weights(whole))


def test_other_test_data(new_run, go, tmp_path, job, cache, tiny_corpus):
    other = tmp_path / "other"
    (other / "clean").mkdir(parents=True)
    (other / "noisy").mkdir()
    for kind in ("clean", "noisy"):
        (other / kind / "x.wav").write_bytes((tiny_corpus / "train" / kind / "b_1.wav").read_bytes())
    digest = Corpus.open(tiny_corpus, cache=cache, test_data=other).test_digest
    elsewhere = job.model_copy(update={"signature": "x", "test_path": str(other), "test_digest": digest})
    run = new_run(recipe={"steps": 1, "validate_every": 1})
    assert go(run, [elsewhere]).state == "done"

    import pandas as pd

    assert list(pd.read_parquet(run.scores_path("x"))["utterance"]) == ["x"]
    state, scores = run.state, run.scores_path("x").read_bytes()
    lost = elsewhere.model_copy(update={"signature": "y", "test_digest": "0" * 64})
    assert go(run, [lost, job]) == state == run.state
    assert (run.evaluation("y").state, run.evaluation("y").cause) == ("failed", "data")
    assert run.evaluation("plain").state == "done"
    assert run.scores_path("x").read_bytes() == scores


def cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(2000)


def test_a_finished_run_is_never_trained_again_unasked(new_run, go, job, scored):
    run = new_run()
    state = go(run, [job])
    attempts = run.attempts()
    for damaged in ("latest.pt", "best.pt"):
        cut(run.checkpoints / damaged)
        other = job.model_copy(update={"signature": damaged})
        assert go(run, [job, other]) == state == run.state
        assert run.evaluation(damaged).state == ("done" if damaged == "latest.pt" else "failed")
    assert equal(scored[0], scored[1])
    assert "--cell" in run.evaluation("best.pt").message
    assert run.attempts() == attempts
    assert run.scores_path("plain").exists()


def test_scores_of_former_weights_go_before_others_are_trained(new_run, go, job):
    run = new_run()
    go(run, [job])
    run.update_state(state="pending")
    (run.checkpoints / "latest.pt").unlink()
    state = go(run, should_stop=stop_after(3))
    assert state.state == "pending"
    assert not run.scores_path("plain").exists()
    assert not run.audio.exists()


SCRIPT = """
import sys
from pathlib import Path
from ablate.training.run import execute
from ablate.training.rundir import RunDir
state = execute(RunDir(sys.argv[1]), [], cache=Path(sys.argv[2]), threads=1, device="cpu")
sys.exit(state.state != "done")
"""


def written(run: RunDir) -> int:
    """When the latest checkpoint was written; 0 where there is none, as for a moment between two."""
    try:
        return (run.checkpoints / "latest.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        {"ema": 0.3, "warmup": 0.2},
        {"adversarial_weight": 1.0, "adversarial_start": 0.3},
        {"adversarial_weight": 1.0, "judge_lag": 2, "judged_clips": 0.5},
    ],
)
def test_killed_at_any_moment_is_as_never_killed(new_run, go, cache, recipe):
    recipe = {"steps": 24, "validate_every": 7, "checkpoint_every": 3, "keep_every": 10, **recipe}
    whole, killed = new_run("a" * 64, recipe=recipe), new_run("b" * 64, recipe=recipe)
    go(whole)
    command = [sys.executable, "-c", SCRIPT, str(killed.path), str(cache)]
    chance, kills = random.Random(int.from_bytes(os.urandom(4))), 0
    while True:
        process = subprocess.Popen(command)
        before = written(killed)
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline and written(killed) in (0, before):
            time.sleep(0.005)
        if kills < 3:
            time.sleep(chance.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        if process.wait(timeout=1500) == 0:
            break
        kills += 1
        assert kills < 20
    assert kills >= 1
    assert killed.state.state == "done"
    assert lines(killed) == lines(whole)
    assert equal(weights(killed), weights(whole))
    assert equal(weights(killed, "best.pt"), weights(whole, "best.pt"))
    assert equal(weights(killed, "step-000020.pt"), weights(whole, "step-000020.pt"))


@pytest.mark.slow
def test_a_full_disk_fails_the_run_and_it_goes_on_afterwards(new_run, go, tmp_path):
    whole, disk = new_run("a" * 64), tmp_path / "disk"
    go(whole)
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]).returncode:
        pytest.skip("may not mount")
    try:
        run = RunDir(disk / whole.signature)
        run.write_spec(whole.spec)
        assert go(run, should_stop=stop_after(2)).step == 2
        filler = disk / "filler"
        with filler.open("wb") as handle:
            free = os.statvfs(disk)
            handle.write(b"\0" * (free.f_bavail * free.f_frsize - 100_000))
        state = go(run)
        assert (state.state, state.cause) == ("failed", "storage")
        assert state.message.startswith("the disk is full")
        assert checkpoint.read(run.checkpoints / "latest.pt", "training")["step"] == 2
        filler.unlink()
        assert go(run).state == "done"
        assert lines(run) == lines(whole)
        assert equal(weights(run), weights(whole))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("recipe", "place", "threads", "wanted"),
    [({}, "cpu", 4, 4), ({}, "cuda", 16, 15), ({}, "cuda", 1, 1), ({"metric_processes": 3}, "cuda", 16, 3)],
)
def test_metrics_have_the_cores_of_the_slot(recipe, place, threads, wanted):
    from ablate.training.pipeline import metric_processes

    assert metric_processes(Recipe(**recipe), torch.device(place), threads) == wanted


def test_importing_needs_no_torch():
    code = "import sys, ablate.training.run, ablate.training.rundir; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
