"""One run from its `spec.json` to its scores, whatever happens. Imports torch only when it runs."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ablate.models.errors import InputError, storage_problem

from .causes import DivergedError, Interrupted, cause_of, failing_as
from .config import EvaluationJob
from .environment import free_memory
from .own.process import end_left_behind
from .progress import Progress
from .rundir import RunDir, RunState, write_json

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
    """Train a run to its end, or from where it stopped, and score what is not scored yet.

    A run that is done and scored, or that has diverged, is left as it is. On the CPU a run that was
    stopped at any moment, `kill -9` included, ends with the same weights and scores as one that was
    not, bit for bit at the same number of threads.

    Args:
        run: has a `spec.json`.
        evaluations: tests to score the selected checkpoint on.
        cache: folder of the corpora's caches.
        threads: of torch.
        processes: that measure beside the training, in place of what the recipe says; 0: in this one.
        device: "auto", or a torch device.
        report: is told of every state written, about once a second.
        should_stop: asked before each step; the run then writes a checkpoint and becomes pending.
        accumulation: micro-batches in place of the recipe's, after running out of memory.

    Returns:
        The state at the end. Failures are states with a cause: "configuration", "data",
        "out-of-memory", "interrupted" (pending: goes on next time), "output" (of a command) or "error".

    Raises:
        RunLockedError: another process is at it.
        KeyboardInterrupt: as it came; the run goes on from its last checkpoint next time.
    """
    end_left_behind(run)
    with run.lock() as lock:
        before = run.state
        missing = [job for job in evaluations if not run.has_scores(job.signature)]
        if before.state == "diverged" or (before.state == "done" and not missing):
            return before
        progress = Progress(run, report)
        with _log_to(run.log):
            progress.update(
                state="running",
                attempts=before.attempts + 1,
                cause=None,
                message=None,
                started=before.started or time.time(),
                finished=None,
                host=socket.gethostname(),
                pid=os.getpid(),
            )

            def work() -> None:
                if "train" in run.spec:
                    from .own.train import train_and_score

                    train_and_score(
                        run,
                        evaluations,
                        progress,
                        lock=lock,
                        cache=Path(cache),
                        threads=threads,
                        processes=threads if processes is None else processes,
                        should_stop=should_stop or (lambda: False),
                    )
                    return
                from . import pipeline

                opened = pipeline.opened(
                    run, Path(cache), device=device, threads=threads, processes=processes
                )
                with opened as context:
                    model = pipeline.initial_network(context)
                    with failing_as("error"):
                        best = pipeline.train(
                            context, model, progress, should_stop or (lambda: False), accumulation
                        )
                        for job in missing:
                            pipeline.score(context, model, job)
                        if not run.summary:
                            run.write_summary(pipeline.summary(context, model, progress, best))

            try:
                return _outcome(run, work, progress.update)
            finally:
                free_memory()


def _outcome(run: RunDir, work: Callable[[], None], update: Callable[..., RunState]) -> RunState:
    """Do the work and write how it ended into the state."""
    try:
        work()
    except Interrupted as stop:
        logger.info("stopped: %s", stop)
        return update(state="pending", cause="interrupted", message=str(stop))
    except KeyboardInterrupt:
        logger.info("interrupted; goes on from the last checkpoint")
        update(state="pending", cause="interrupted", message="interrupted by the user")
        raise
    except DivergedError as diverged:
        logger.error("%s", diverged)
        _keep_evidence(run, diverged)
        return update(state="diverged", cause=None, message=str(diverged), finished=time.time())
    except Exception as failure:
        error, cause = cause_of(failure)
        logger.error("failed (%s)", cause, exc_info=error)
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if problem := storage_problem(error):
            message = f"{problem}; the last checkpoint and all scores are kept ({message})"
        for told in (failure, error):  # whose frames hold the network and what it computed
            traceback.clear_frames(told.__traceback__)
        return update(state="failed", cause=cause, message=message, finished=time.time())
    logger.info("done")
    return update(state="done", cause=None, message=None, finished=time.time())


def _keep_evidence(run: RunDir, error: DivergedError) -> None:
    """Write what a divergence left into `diverged/`: the batch, the gradient norms, where it was."""
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
