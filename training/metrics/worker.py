"""The process behind `MetricPool`: reads pairs from standard input until it closes."""

from __future__ import annotations

import json
import os
import signal
import sys

from ablate.models.plugins import load_planned

from .pool import measure, read, write
from .registry import METRICS


def main() -> None:
    """Answer every pair with its scores; output of libraries goes to standard error.

    The argument has plug-ins (`models.plugins.Planned`, as JSON), imported when a metric is requested that is
    not built in.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            job = read(sys.stdin.buffer)
        except EOFError:
            return
        if not METRICS.keys() >= set(job[3]):
            load_planned(json.loads(sys.argv[1]))
        write(replies, measure(*job))


if __name__ == "__main__":
    main()
