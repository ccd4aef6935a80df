"""Metrics in their own processes, so that a training continues beside them: pesq holds the GIL."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from ablate.models.errors import InputError
from ablate.models.plugins import Planned

from .. import subprocess_env
from ..audio import SAMPLE_RATE
from .registry import METRICS
from .scores import Scored, check_metrics, failed, score_with_errors

ATTEMPTS = 3
"""Processes that try a pair before the pool gives it up."""
CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS"})
CROWDED = 20.0
"""A recording longer than this, in seconds, may have more than the 55 utterances for which PESQ's code has
room; it then writes past the end of its tables, which may crash the process."""
TOO_MANY = "PESQ crashes on files with more than 55 utterances; split the file"


class MetricProcessError(RuntimeError):
    """The processes that measured a pair died, one after another. This is not a score and must not be
    stored."""


class _Job(NamedTuple):
    clean: np.ndarray
    enhanced: np.ndarray
    sample_rate: int
    metrics: tuple[str, ...]
    future: Future[Scored]

    @property
    def crowded(self) -> bool:
        """Whether PESQ may crash on the pair."""
        long = len(self.clean) > CROWDED * self.sample_rate
        return long and any("pesq" in METRICS[name].packages for name in self.metrics)


Item = TypeVar("Item")
_Entry = tuple[int, int, "_Job | None"]
"""An item of the queue: priority, order within it, and a pair (None ends a worker)."""
URGENT, USUAL, END = range(3)


class MetricPool:
    """Worker processes that turn pairs into `Scored`, urgent ones first.

    A worker imports neither torch nor the program that started the pool, runs on one thread, ends with its
    parent, and is replaced when it dies: the next one gets its pair.

    Args:
        processes: workers; 0 measures within `submit`, in this process.
        plugins: of a plan or run directory, imported by workers for the metrics they register.
    """

    def __init__(self, processes: int = 1, *, plugins: Planned = ()) -> None:
        if processes < 0:
            raise InputError(f"{processes} processes are not possible; use 0 or more")
        self.processes = processes
        self._plugins = plugins
        self._jobs: queue.PriorityQueue[_Entry] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"metrics-{i}", daemon=True) for i in range(processes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        clean: Any,
        enhanced: Any,
        metrics: Iterable[str] | None = None,
        *,
        sample_rate: int = SAMPLE_RATE,
        urgent: bool = False,
    ) -> Future[Scored]:
        """Measure one pair: (sample,) each, of equal length; an urgent one before all others.

        The future's result never raises for a bad pair: its values are missing, with reasons, also if PESQ
        crashed twice on a long recording. It raises `MetricProcessError` if one process after another died
        otherwise.

        Raises:
            InputError: a metric is unknown.
            RuntimeError: the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the pool of metric processes is closed")
        names = check_metrics(metrics)
        future: Future[Scored] = Future()
        if self.processes == 0:
            future.set_result(measure(np.asarray(clean), np.asarray(enhanced), sample_rate, names))
        else:
            job = _Job(np.array(clean), np.array(enhanced), sample_rate, names, future)
            self._put(URGENT if urgent else USUAL, job)
        return future

    def _put(self, priority: int, job: _Job | None) -> None:
        self._jobs.put((priority, next(self._numbers), job))

    def map(
        self,
        pairs: Iterable[tuple[Any, Any]],
        metrics: Iterable[str] | None = None,
        *,
        sample_rate: int = SAMPLE_RATE,
    ) -> Iterator[Scored]:
        """Measure pairs, in order; memory holds only a few at a time."""
        names = check_metrics(metrics)
        submitted = ((None, self.submit(*pair, names, sample_rate=sample_rate)) for pair in pairs)
        return (scored for _, scored in self.in_order(submitted))

    def in_order(self, submitted: Iterable[tuple[Item, Future[Scored]]]) -> Iterator[tuple[Item, Scored]]:
        """Each item with its scores once they are ready; takes only a few futures at a time."""
        pending: deque[tuple[Item, Future[Scored]]] = deque()
        for entry in submitted:
            pending.append(entry)
            while len(pending) > 4 * max(self.processes, 1):
                item, future = pending.popleft()
                yield item, future.result()
        for item, future in pending:
            yield item, future.result()

    def close(self) -> None:
        """End the workers; waiting pairs are cancelled."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()[2]) is not None:
                job.future.cancel()
        for _ in self._threads:
            self._put(END, None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> MetricPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _without_pesq(job: _Job, worker: _Worker) -> Scored:
        """The other metrics of a long pair on which PESQ has crashed twice."""
        missing = failed(TOO_MANY, [name for name in job.metrics if "pesq" in METRICS[name].packages])
        rest = tuple(name for name in job.metrics if name not in missing.values)
        if not rest:
            return missing
        found = worker.measure(job._replace(metrics=rest))
        values = missing.values | found.values
        in_order = {name: values[name] for name in job.metrics}
        return found._replace(values=in_order, errors=missing.errors | found.errors)

    def _serve(self) -> None:
        """Keep one worker busy, and replace it when it dies."""
        worker: _Worker | None = None
        while (job := self._jobs.get()[2]) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            endings: list[str] = []
            while len(endings) < ATTEMPTS:
                try:
                    worker = worker or _Worker(self._plugins)
                    if job.crowded and len(endings) > 1 and CRASHES.issuperset(endings):
                        job.future.set_result(self._without_pesq(job, worker))
                    else:
                        job.future.set_result(worker.measure(job))
                    break
                except Exception as error:  # whatever happens, the one who waits for the future is told
                    endings.append(f"{type(error).__name__}: {error}" if worker is None else worker.end())
                    worker = None
            else:
                job.future.set_exception(
                    MetricProcessError(f"{ATTEMPTS} processes crashed scoring a pair: {', '.join(endings)}")
                )
        if worker:
            worker.end()


class _Worker:
    """A process that reads pickled pairs from its input and writes pickled scores to its output."""

    def __init__(self, plugins: Planned) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            subprocess_env.command("ablate.training.metrics.worker", json.dumps(plugins)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=subprocess_env.environment(**threads),
        )

    def measure(self, job: _Job) -> Scored:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        write(self.process.stdin, job[:4])
        return read(self.process.stdout)

    def end(self) -> str:
        """Stop the process and say how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait()
        self.process.stdout.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def measure(clean: Any, enhanced: Any, sample_rate: int, metrics: tuple[str, ...]) -> Scored:
    """`score_with_errors` that reports a refused pair as failed."""
    try:
        return score_with_errors(clean, enhanced, sample_rate, metrics)
    except InputError as error:
        return failed(str(error), metrics)


def write(stream: BinaryIO | Any, value: Any) -> None:
    """Send one value through a pipe."""
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def read(stream: BinaryIO | Any) -> Any:
    """Receive one value; EOFError if the other end is closed."""
    return pickle.load(stream)
