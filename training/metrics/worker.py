"""The process behind `MetricPool`: pairs come in through standard input until it closes."""

from __future__ import annotations

import os
import signal
import sys

from .pool import measure, read, write


def main() -> None:
    """Answer every pair with its scores; what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            job = read(sys.stdin.buffer)
        except EOFError:
            return
        write(replies, measure(*job))


if __name__ == "__main__":
    main()
