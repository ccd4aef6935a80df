"""A long-lived worker: reads jobs from standard input, one JSON line each, and runs them.

Input lines: `{"job": {...}}`, `{"stop": true}`. Output lines: an `Ended` for each job. If the input ends, the
driver is gone: the worker then ends at once, and its run continues later from a checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable

from ablate.training.rundir import RunLockedError

from .launchers.base import Ended, Job


def carry_out(job: Job, *, threads: int, should_stop: Callable[[], bool], device: str) -> Ended:
    """Train and score one job in this process."""
    from ablate.training.run import execute

    try:
        execute(
            job.run,
            list(job.evaluations.values()),
            cache=job.cache,
            threads=threads,
            device=device,
            accumulation=job.accumulation,
            should_stop=should_stop,
        )
    except RunLockedError as error:
        return Ended(run=job.run.path, exit="busy", message=str(error))
    return Ended(run=job.run.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    jobs: queue.Queue[Job] = queue.Queue()
    stop = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "job" in message:
                jobs.put(Job.of(message["job"]))
            else:
                stop.set()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    import ablate.training.evaluate
    import ablate.training.trainer  # noqa: F401  (imports are the slow part of a short run; done while none waits)

    while True:
        job = jobs.get()
        ended = carry_out(job, threads=options.threads, device=options.device, should_stop=stop.is_set)
        failed = job.unscorable or job.run.state
        if failed.cause == "device":
            os._exit(1)  # after a CUDA error nothing in this process works; the launcher starts another
        answers.write(ended.model_dump_json() + "\n")


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    main()
