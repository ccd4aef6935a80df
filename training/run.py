"""One run from its `spec.json` to its scores, with every failure recorded. Imports torch only when it
runs."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ablate.models.errors import InputError, storage_problem

from . import audio_samples
from .config import EvaluationJob
from .contract import Assignment, Program, open_program
from .data.noisy import noisy_scores
from .environment import free_memory
from .failures import DivergedError, Interrupted, cause_of, failure_cause
from .files import atomic_write
from .metrics.passport import KEY
from .progress import Progress
from .rundir import Cause, RunDir, RunState, write_json
from .train_command.process import end_left_behind

logger = logging.getLogger(__name__)


def execute(
    run: RunDir,
    evaluations: Sequence[EvaluationJob],
    *,
    cache: Path,
    threads: int,
    processes: int | None = None,
    device: str = "auto",
    report: Callable[[RunState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    accumulation: int | None = None,
) -> RunState:
    """Train a run to its end, or from where it stopped, and add missing scores.

    A run that is done and scored, or that has diverged, stays as it is. On the CPU, a run stopped at any
    moment, also by `kill -9`, ends with the same weights and scores as an uninterrupted one, bit for bit at
    the same number of threads.

    Args:
        run: has a `spec.json`.
        evaluations: tests to score the selected checkpoint on.
        cache, threads, processes, device, accumulation: as of `Assignment`.
        report: gets every state written, about once a second.
        should_stop: asked before each step; if true, the run writes a checkpoint and becomes pending.

    Returns:
        The state of the training. Failures are states with a cause: "configuration", "data", "out-of-memory",
        "interrupted" (pending: continues next time), "output" (of a command) or "error". If a test could not
            be
        scored, the training stays done and the test has its own record (`RunDir.evaluation`).

    Raises:
        RunLockedError: another process has the run.
        KeyboardInterrupt: the run continues from its last checkpoint next time.
    """
    end_left_behind(run)
    should_stop = should_stop or (lambda: False)
    with run.lock() as lock:
        state = before = run.state
        missing = [job for job in evaluations if not run.has_scores(job.signature)]
        if before.state == "diverged" or (before.state == "done" and not missing):
            return before
        progress = Progress(run, report)
        with _log_to(run.log):
            if before.state != "done":
                run.drop_results()
                here = {"host": socket.gethostname(), "pid": os.getpid()}
                began = {"attempts": before.attempts + 1, "started": before.started or time.time()}
                progress.update(state="running", cause=None, message=None, finished=None, **began, **here)
            assignment = Assignment(
                run, before, progress, should_stop, lock, cache, threads, processes, device, accumulation
            )
            try:
                with open_program(assignment) as training:
                    if before.state != "done":
                        training.train()
                        state = progress.update(state="done", cause=None, message=None, finished=time.time())
                        logger.info("done")
                    for job in missing:
                        if should_stop():
                            break
                        _evaluate(run, training, job, cache)
            except BaseException as failure:
                if state.state != "done":
                    return _ended(run, failure, progress.update)
                if not isinstance(failure, Exception):
                    raise
                for job in missing:
                    _fail_evaluation(run, job, failure)
            finally:
                free_memory()
            return state


def _ended(run: RunDir, failure: BaseException, update: Callable[..., RunState]) -> RunState:
    """Record how a training ended early."""
    if isinstance(failure, Interrupted):
        logger.info("stopped: %s", failure)
        return update(state="pending", cause="interrupted", message=str(failure))
    if isinstance(failure, DivergedError):
        logger.error("%s", failure)
        _keep_evidence(run, failure)
        return update(state="diverged", cause=None, message=str(failure), finished=time.time())
    if isinstance(failure, Exception):
        cause, message = _told(failure)
        return update(state="failed", cause=cause, message=message, finished=time.time())
    if isinstance(failure, KeyboardInterrupt):
        logger.info("interrupted; continues from the last checkpoint")
        update(state="pending", cause="interrupted", message="interrupted by the user")
    raise failure


def _told(failure: Exception) -> tuple[Cause, str]:
    """The cause of a failure, and the message for the user."""
    error, cause = cause_of(failure)
    logger.error("failed (%s)", cause, exc_info=error)
    for told in (failure, error):  # whose frames hold the network and what it computed
        traceback.clear_frames(told.__traceback__)
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if problem := storage_problem(error):
        message = f"{problem}; the last checkpoint and all scores are kept ({message})"
    return cause, message


def _evaluate(run: RunDir, training: Program, job: EvaluationJob, cache: Path) -> None:
    """Score a finished training on a test, and keep a few enhanced utterances of the first test. A failure is
    only recorded for the evaluation."""
    attempts = run.evaluation(job.signature).attempts + 1
    run.update_evaluation(job.signature, state="running", attempts=attempts, cause=None, message=None)
    try:
        with failure_cause("error"), ExitStack() as stack:
            pairs = training.pairs(job)
            logger.info("scores %d test utterances (%s)", len(pairs), job.signature[:12])
            keep = None
            if training.has_audio and not run.audio.exists():
                fixed = audio_samples.fixed_utterances(pairs, noisy_scores(pairs, training.pool, cache=cache))
                kept = audio_samples.kept(run.audio, fixed, run.references(job.test_digest))
                keep = stack.enter_context(kept)
            scores = training.scores(job, pairs, keep)
        with atomic_write(run.scores_path(job.signature)) as temporary:
            scores.to_parquet(temporary, index=False)
        measured = {"test": job.test_digest, "passports": scores.attrs.get(KEY, {})}
        known = run.summary
        run.write_summary(known | {"measured": known.get("measured", {}) | {job.signature: measured}})
        run.evaluation_path(job.signature).unlink()
    except Exception as failure:
        _fail_evaluation(run, job, failure)


def _fail_evaluation(run: RunDir, job: EvaluationJob, failure: Exception) -> None:
    cause, message = _told(failure)
    run.update_evaluation(job.signature, state="failed", cause=cause, message=message)


def _keep_evidence(run: RunDir, error: DivergedError) -> None:
    """Write the evidence of a divergence to `diverged/`: the batch, the gradient norms, the step."""
    import numpy as np

    folder = run.path / "diverged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    waves = {name: error.evidence[name] for name in ("clean", "noisy") if name in error.evidence}
    if waves:
        np.savez(folder / "batch.npz", **waves)
    facts = {name: value for name, value in error.evidence.items() if name not in waves}
    write_json(folder / "evidence.json", {"message": str(error), **facts})


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Also write this package's log to a file."""
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
