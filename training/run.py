"""One run from its `spec.json` to its scores, whatever happens. Imports torch only when it runs."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import math
import os
import platform
import resource
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.models.config import ModelConfig

from .config import EvaluationJob, Recipe
from .data.batches import Batches, DataError
from .provenance import git_commit, machine
from .rundir import Cause, RunDir, RunState, file_digest, write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from .data.corpus import Corpus, Pair
    from .evaluate import Validation
    from .metrics import MetricPool
    from .trainer import Step, Trainer

STATE_SECONDS = 1.0
"""Least time between two writes of `state.json` while training."""

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop and has written all it needs to go on."""


def execute(
    run: RunDir,
    evaluations: Sequence[EvaluationJob],
    *,
    cache: Path,
    threads: int,
    processes: int = 1,
    device: str = "auto",
    report: Callable[[RunState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    accumulation: int | None = None,
) -> RunState:
    """Train a run to its end, or from where it stopped, and score what is not scored yet.

    A run that is done and scored, or that has diverged, is left as it is. On the CPU a run that was
    stopped at any moment, `kill -9` included, ends with the same weights and scores as one that was
    not, bit for bit at the same number of threads.

    Args:
        run: has a `spec.json`.
        evaluations: tests to score the selected checkpoint on.
        cache: folder of the corpora's caches.
        threads: of torch.
        processes: that measure PESQ beside the training; 0 measures in this one.
        device: "auto", or a torch device.
        report: is told of every state written, about once a second.
        should_stop: asked before each step; the run then writes a checkpoint and becomes pending.
        accumulation: micro-batches in place of the recipe's, after running out of memory.

    Returns:
        The state at the end. Failures are states with a cause: "configuration", "data",
        "out-of-memory", "interrupted" (pending: goes on next time) or "error".

    Raises:
        RunLockedError: another process is at it.
        KeyboardInterrupt: as it came; the run goes on from its last checkpoint next time.
    """
    with run.lock():
        state = run.state
        missing = [job for job in evaluations if not run.scores_path(job.signature).exists()]
        if state.state == "diverged" or (state.state == "done" and not missing):
            return state
        with _log_to(run.log):
            work = Execution(
                run,
                missing,
                cache=Path(cache),
                threads=threads,
                processes=processes,
                device=device,
                report=report,
                should_stop=should_stop or (lambda: False),
                accumulation=accumulation,
            )
            return work.run_to_end()


@dataclass(frozen=True)
class _Pending:
    """A validation whose scores are being measured while training goes on."""

    line: dict[str, Any]
    scores: Validation
    weights: dict[str, torch.Tensor]


class Execution:
    """The execution of one run in this process."""

    def __init__(
        self,
        run: RunDir,
        evaluations: list[EvaluationJob],
        *,
        cache: Path,
        threads: int,
        processes: int,
        device: str,
        report: Callable[[RunState], None] | None,
        should_stop: Callable[[], bool],
        accumulation: int | None,
    ) -> None:
        self.run = run
        self.evaluations = evaluations
        self.cache = cache
        self.threads = threads
        self.processes = processes
        self.device_name = device
        self.report = report
        self.should_stop = should_stop
        self.accumulation = accumulation
        self.doing: Cause = "configuration"
        self.updated = 0.0
        self.durations: list[float] = []
        self.pending: _Pending | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.window = _Window()
        self.dropped = 0

    # The way from start to end

    def run_to_end(self) -> RunState:
        """Train, score, and turn whatever goes wrong into a state."""
        from .trainer import DivergedError

        before = self.run.state
        self.update(
            state="running",
            attempts=before.attempts + 1,
            cause=None,
            message=None,
            started=before.started or time.time(),
            finished=None,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        try:
            self.train_and_score()
        except Interrupted as stop:
            logger.info("stopped: %s", stop)
            return self.update(state="pending", cause="interrupted", message=str(stop))
        except KeyboardInterrupt:
            logger.info("interrupted; goes on from the last checkpoint")
            self.update(state="pending", cause="interrupted", message="interrupted by the user")
            raise
        except DivergedError as error:
            logger.error("%s", error)
            self.keep_evidence(error)
            return self.finish(state="diverged", cause=None, message=str(error))
        except Exception as error:
            cause = classify(error, self.doing)
            logger.exception("failed (%s)", cause)
            return self.finish(state="failed", cause=cause, message=f"{type(error).__name__}: {error}")
        logger.info("done")
        return self.finish(state="done", cause=None, message=None)

    def train_and_score(self) -> None:
        import torch

        from ablate.models import build_model
        from ablate.models.plugins import load

        from .metrics import MetricPool

        spec = self.run.spec
        load(spec.get("plugins", []))
        self.spec = spec
        self.config = ModelConfig.model_validate(spec["model"])
        self.recipe = Recipe.model_validate(spec["recipe"])
        name = self.device_name
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        logger.info(
            "run %s, attempt %d, %s, %d threads",
            self.run.signature[:12],
            self.run.state.attempts,
            self.device,
            self.threads,
        )
        with ExitStack() as stack:
            stack.enter_context(reproducible(self.threads))
            self.doing = "data"
            corpus = self.open_corpus()
            self.pool: MetricPool = stack.enter_context(MetricPool(self.processes))
            self.validation = corpus.select_validation(self.recipe.validation_utterances)
            self.doing = "configuration"
            model = self.new_model(build_model)
            self.doing = "error"
            self.train(model, corpus)
            self.score(model, corpus)

    def open_corpus(self) -> Corpus:
        from .data.corpus import Corpus

        wanted = self.spec["corpus"]
        corpus = Corpus.open(wanted["path"], cache=self.cache)
        if corpus.digest != wanted["digest"]:
            raise DataError(
                f"corpus {wanted['name']} at {wanted['path']} has changed since this run was planned: digest "
                f"{corpus.digest[:12]}, planned {wanted['digest'][:12]}; restore it, or plan the run again"
            )
        return corpus

    def new_model(self, build_model: Callable[[ModelConfig], nn.Module]) -> nn.Module:
        """The network as it starts: initialised by the seed, or with the weights it is to start from."""
        import torch

        from . import seeds
        from .checkpoint import load_weights, read

        torch.manual_seed(seeds.torch_seed(self.spec["seed"], "init"))
        model = build_model(self.config)
        start = self.spec.get("start_from")
        if start:
            path = Path(start["path"])
            content = read(path)
            if (found := file_digest(path)) != start["digest"]:
                raise ValueError(
                    f"{path} is not the checkpoint this run was planned to start from: digest {found[:12]}, "
                    f"planned {start['digest'][:12]}"
                )
            load_weights(model, content["weights"], path)
            logger.info("starts from the weights of %s", path)
        return model.to(self.device)

    # Training

    def train(self, model: nn.Module, corpus: Corpus) -> None:
        """Train to the last step; `self.best` is then the selected checkpoint."""
        from .trainer import DivergedError, Trainer

        batches = Batches(
            corpus.train,
            batch_size=self.recipe.batch_size,
            crop=round(self.recipe.crop_seconds * 16_000),
            seed=self.spec["seed"],
        )
        trainer = Trainer(
            model,
            self.recipe,
            batches,
            seed=self.spec["seed"],
            device=self.device,
            scorer=self.start_pesq,
            accumulation=self.accumulation,
        )
        self.resume(trainer)
        self.update(steps=trainer.steps, step=trainer.step)
        while True:
            step = trainer.step
            if self.is_due(step, trainer.steps):
                self.finish_validation(trainer)
                self.start_validation(trainer)
            if step == trainer.steps:
                break
            if self.should_stop():
                self.finish_validation(trainer)
                self.save(trainer)
                self.update(step=step, **self.speed())
                raise Interrupted(f"asked to stop after step {step} of {trainer.steps}")
            began = time.perf_counter()
            try:
                result = trainer.train_step()
            except DivergedError:
                self.finish_validation(trainer)
                raise
            took = time.perf_counter() - began
            self.durations.append(took)
            self.window.add(result, took)
            self.dropped += result.dropped_clips
            if time.monotonic() - self.updated >= STATE_SECONDS:
                self.update(step=trainer.step, **self.speed())
            if self.pending and self.pending.scores.done():
                self.finish_validation(trainer)
            if trainer.step % self.recipe.checkpoint_every == 0 or trainer.step == trainer.steps:
                self.finish_validation(trainer)
                self.save(trainer)
            if self.recipe.keep_every and trainer.step % self.recipe.keep_every == 0:
                self.write_weights(f"step-{trainer.step:06d}.pt", model.state_dict(), trainer.step)
        self.finish_validation(trainer)
        self.save(trainer)
        (self.run.checkpoints / "previous.pt").unlink(missing_ok=True)
        self.update(step=trainer.steps, **self.speed())

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the weights after this step are to be validated and have not been."""
        known = {line["step"] for line in self.history} | (
            {self.pending.line["step"]} if self.pending else set()
        )
        regular = step % self.recipe.validation_interval(steps) == 0
        return step > 0 and step not in known and (regular or step == steps)

    def start_pesq(self, pairs: list[tuple[Any, Any]]) -> Callable[[], list[float | None]]:
        """Measure PESQ-WB beside the training step; see `trainer.Scorer`."""
        futures = [self.pool.submit(reference, judged, ["pesq_wb"]) for reference, judged in pairs]

        def wait() -> list[float | None]:
            values = [future.result().values["pesq_wb"] for future in futures]
            return [None if math.isnan(value) else value for value in values]

        return wait

    def start_validation(self, trainer: Trainer) -> None:
        """Enhance the validation utterances now; their scores are measured while training goes on."""
        from .evaluate import start_validation

        scores = start_validation(trainer.model, self.validation, self.pool, device=self.device)
        weights = {name: value.detach().cpu().clone() for name, value in trainer.model.state_dict().items()}
        self.pending = _Pending(
            {"step": trainer.step, "time": time.time(), **self.window.take()}, scores, weights
        )

    def finish_validation(self, trainer: Trainer) -> None:
        """Wait for the scores of the validation under way, write its line, select."""
        if self.pending is None:
            return
        line, scores = self.pending.line, self.pending.scores
        for name, reason in scores.errors().items():
            logger.warning("validation of %s: %s", name, reason)
        line |= {name: _measured(value) for name, value in scores.collect().items()}
        value, step = line["val/pesq_wb"], line["step"]
        if value is not None and (self.best is None or value > self.best["val_pesq_wb"]):
            self.best = {
                "step": step,
                "val_pesq_wb": value,
                "val_stoi": line["val/stoi"],
                "weights": self.pending.weights,
            }
        self.pending = None
        self.history.append(line)
        self.run.append_metrics(line)
        logger.info("%s", " ".join(f"{k}={v:.5g}" if v is not None else f"{k}=-" for k, v in line.items()))
        self.update(step=trainer.step, val_pesq_wb=self.best and self.best["val_pesq_wb"])

    # Checkpoints

    def save(self, trainer: Trainer) -> None:
        """Write all that the training needs to go on from here, and the selected weights."""
        from .checkpoint import BEST, random_states, write_latest

        content = {
            "kind": "training",
            "signature": self.run.signature,
            "model": self.config.model_dump(mode="json"),
            "config": self.spec,
            **trainer.state(),
            "random": random_states(),
            "history": self.history,
            "window": self.window.state(),
            "best": self.best,
            "dropped_pesq_clips": self.dropped,
        }
        write_latest(self.run.checkpoints, content)
        if self.best is not None:
            self.write_weights(BEST, self.best["weights"], self.best["step"], self.best["val_pesq_wb"])

    def write_weights(
        self, name: str, weights: dict[str, torch.Tensor], step: int, val_pesq_wb: float | None = None
    ) -> None:
        from .checkpoint import write

        content = {
            "kind": "weights",
            "signature": self.run.signature,
            "model": self.config.model_dump(mode="json"),
            "weights": weights,
            "step": step,
            "val_pesq_wb": val_pesq_wb,
        }
        write(self.run.checkpoints / name, content)

    def resume(self, trainer: Trainer) -> None:
        """Go on from the latest checkpoint that can be read, or from the start where there is none."""
        from .checkpoint import read_latest, restore_random_states

        content, problems = read_latest(self.run.checkpoints)
        for problem in problems:
            logger.warning("%s; the checkpoint before it is used", problem)
        if content is not None and content["signature"] != self.run.signature:
            logger.warning("the checkpoint is of run %s; training starts anew", content["signature"][:12])
            content = None
        if content is not None:
            trainer.restore(content)
            restore_random_states(content["random"])
            self.history = content["history"]
            self.window.restore(content["window"])
            self.best = content["best"]
            self.dropped = content["dropped_pesq_clips"]
            logger.info("goes on after step %d", trainer.step)
        write_text(self.run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))

    # After the training

    def score(self, model: nn.Module, corpus: Corpus) -> None:
        """Score the selected checkpoint on each test that lacks scores, and write what was measured."""
        from .checkpoint import load_weights

        if self.best is not None:
            load_weights(model, self.best["weights"], "the selected checkpoint")
            logger.info("selected step %d", self.best["step"])
        else:
            logger.warning("no validation could be scored; the last weights are taken")
        for job in self.evaluations:
            self.score_test(model, job, corpus)
        if not self.run.summary:
            self.doing = "error"
            self.run.write_summary(self.measure(model, corpus))

    def score_test(self, model: nn.Module, job: EvaluationJob, corpus: Corpus) -> None:
        """Score one test and keep a few enhanced utterances of the first."""
        from . import evaluate

        self.doing = "data"
        pairs = self.test_pairs(job, corpus)
        self.doing = "error"
        logger.info("scores %d test utterances (%s)", len(pairs), job.signature[:12])
        audio = self.run.audio
        heard: set[str] = set()
        if not audio.exists():
            noisy = evaluate.noisy_scores(pairs, self.pool, cache=self.cache)
            heard = {pair.name for pair in evaluate.fixed_utterances(pairs, noisy)}

        def keep(pair: Pair, enhanced: np.ndarray) -> None:
            if pair.name in heard:
                evaluate.write_audio(audio, pair, enhanced)

        scores = evaluate.score_test(
            model, pairs, job.evaluation, self.pool, cache=self.cache, device=self.device, keep=keep
        )
        evaluate.write_parquet(self.run.scores_path(job.signature), scores)

    def test_pairs(self, job: EvaluationJob, corpus: Corpus) -> Sequence[Pair]:
        from .data.corpus import Corpus

        other = job.test_path is not None
        tested = (
            Corpus.open(self.spec["corpus"]["path"], cache=self.cache, test_data=job.test_path)
            if other
            else corpus
        )
        if tested.test_digest != job.test_digest:
            raise DataError(
                f"the test split of {job.test_path or self.spec['corpus']['path']} has changed since it was "
                f"planned: digest {tested.test_digest[:12]}, planned {job.test_digest[:12]}"
            )
        return tested.test

    def measure(self, model: nn.Module, corpus: Corpus) -> dict[str, Any]:
        """The content of `summary.json`."""
        from . import evaluate

        best = self.best or {}
        noisy = evaluate.noisy_scores(self.validation, self.pool, cache=self.cache)
        return {
            **_sizes(model, self.config),
            "seconds_per_step": statistics.median(self.durations)
            if self.durations
            else self.run.state.seconds_per_step,
            "peak_memory_bytes": _peak_memory(self.device),
            "real_time_factor": evaluate.real_time_factor(model, corpus.validation, device=self.device),
            "threads": self.threads,
            "device": str(self.device),
            "scan_backend": _scan_backend(model, self.device),
            "versions": _versions(),
            "git_commit": git_commit(Path(__file__).parent),
            "machine": machine(),
            "selected_step": best.get("step", self.recipe.steps),
            "val_pesq_wb": best.get("val_pesq_wb"),
            "val_stoi": best.get("val_stoi"),
            "noisy_val_pesq_wb": _measured(noisy["pesq_wb"].mean()),
            "noisy_val_stoi": _measured(noisy["stoi"].mean()),
            "dropped_pesq_clips": self.dropped,
        }

    def keep_evidence(self, error: Any) -> None:
        """Write what a divergence left into `diverged/`: the batch, the gradient norms, where it was."""
        import numpy as np

        folder = self.run.path / "diverged"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        waves = {name: error.evidence[name] for name in ("clean", "noisy") if name in error.evidence}
        if waves:
            np.savez(folder / "batch.npz", **waves)
        facts = {name: value for name, value in error.evidence.items() if name not in waves}
        write_json(folder / "evidence.json", {"message": str(error), **facts})

    # What others see

    def speed(self) -> dict[str, float]:
        """Seconds of a step, of late; nothing while there was none."""
        return {"seconds_per_step": statistics.median(self.durations[-20:])} if self.durations else {}

    def update(self, **changes: Any) -> RunState:
        self.updated = time.monotonic()
        state = self.run.update_state(**changes)
        if self.report is not None:
            self.report(state)
        return state

    def finish(self, **changes: Any) -> RunState:
        return self.update(finished=time.time(), **changes)


class _Window:
    """Means over the training steps since the last validation."""

    def __init__(self) -> None:
        self.restore({"steps": 0, "loss": 0.0, "grad_norm": 0.0, "judged": 0, "judged_loss": 0.0})
        self.seconds = 0.0
        self.timed = 0

    def add(self, step: Step, seconds: float) -> None:
        self.sums["steps"] += 1
        self.sums["loss"] += step.loss
        self.sums["grad_norm"] += step.grad_norm
        self.learning_rate = step.learning_rate
        if step.discriminator_loss is not None:
            self.sums["judged"] += 1
            self.sums["judged_loss"] += step.discriminator_loss
        self.seconds += seconds
        self.timed += 1

    def take(self) -> dict[str, float]:
        """The means, for a line of `metrics.jsonl`; counting starts anew."""
        sums = self.sums
        means = {
            "train/loss": sums["loss"] / sums["steps"],
            "train/grad_norm": sums["grad_norm"] / sums["steps"],
            "train/learning_rate": self.learning_rate,
        }
        if sums["judged"]:
            means["train/discriminator_loss"] = sums["judged_loss"] / sums["judged"]
        if self.timed:
            means["seconds_per_step"] = self.seconds / self.timed
        self.__init__()  # type: ignore[misc]
        return means

    def state(self) -> dict[str, float]:
        return {**self.sums, "learning_rate": self.learning_rate}

    def restore(self, state: dict[str, float]) -> None:
        self.sums = {name: value for name, value in state.items() if name != "learning_rate"}
        self.learning_rate = state.get("learning_rate", 0.0)


def classify(error: BaseException, doing: Cause) -> Cause:
    """The cause of a failure: by the error where that tells, else by what was being done."""
    text = str(error).lower()
    exhausted = ("out of memory", "can't allocate memory", "not enough memory", "defaultcpuallocator")
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in text for sign in exhausted))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return "out-of-memory"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "error"
    return doing


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fixed threads and deterministic algorithms, and as it was before afterwards."""
    import torch

    filling: Any = torch.utils.deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads_before = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = filling.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        filling.fill_uninitialized_memory = filled


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write what this package logs to a file too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger(__package__)
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def _measured(value: float) -> float | None:
    """A mean as JSON has it: None where nothing could be measured."""
    return None if math.isnan(value) else float(value)


def _peak_memory(device: torch.device) -> int:
    """Most memory held, in bytes: of this process, or on the GPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _sizes(model: nn.Module, config: ModelConfig) -> dict[str, Any]:
    """Parameters of a network, in all and by part, and its multiply-adds per second of audio."""
    from ablate.models.summary import macs_per_second, parameters_by_part

    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_by_part": parameters_by_part(model),
        "macs_per_second": macs_per_second(config),
    }


def _scan_backend(model: nn.Module, device: torch.device) -> str | None:
    """What computes the selective scans; None where there is none."""
    from ablate.models.mamba import SelectiveSSM
    from ablate.models.scan import choose_backend

    scans = any(isinstance(module, SelectiveSSM) for module in model.modules())
    return choose_backend(device)[0] if scans else None


def _versions() -> dict[str, str]:
    names = ("ablate", "torch", "numpy", "scipy", "numba", "pesq", "pystoi")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
