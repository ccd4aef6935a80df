"""The mirroring process, and how the driver starts and stops it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ablate.training.files import LockHeldError, locked

from ..redaction import brief, redact, scrub
from .passes import LONGEST_PAUSE, Mirror, Mirrored
from .store import URI_VARIABLE, TrackingError, resolve_uri

INTERVAL = 2.0
"""Seconds between two passes while a study runs; longer if passes would use over 5 % of a core."""


class TrackerProcess:
    """A process that mirrors a study until it is stopped or the driver ends.

    It never blocks the driver; `ablate sync` sends what the store did not take.
    """

    def __init__(self, root: Path | str, study: str, tracking_uri: str | None = None) -> None:
        self.root = Path(root).resolve()
        self.study = study
        self.uri = resolve_uri(self.root, tracking_uri)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The log file of the process's problems."""
        return self.root / "studies" / self.study / "tracker.log"

    def start(self) -> None:
        """Start the process. The URI is passed in the environment, since it may have a password."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ablate.studies.tracking", str(self.root), self.study],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, URI_VARIABLE: self.uri, "OMP_NUM_THREADS": "1"},
        )

    def stop(self, timeout: float = 60.0) -> Mirrored:
        """Stop the process after a final pass; kill it after `timeout` seconds.

        Returns:
            Whether the store is complete; if not, the message says what to do.
        """
        if self._process is None:
            return Mirrored(True, "no tracker was started")
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            if self._process.wait(timeout) == 0:
                return Mirrored(True, f"{self.study} is complete in {redact(self.uri)}")
            said = self.log.read_text().splitlines() if self.log.exists() else []
            reason = said[-1] if said else "no message"
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            reason = f"it took more than {timeout:.0f} s"
        return Mirrored(
            False,
            f"MLflow does not have all runs of {self.study} yet ({reason}); no data is lost: run `ablate "
            f"sync {self.study}` when {redact(self.uri)} answers",
        )


def follow(target: Mirror, stopped: Callable[[float], bool], say: Callable[[str], None]) -> bool:
    """Mirror a study until `stopped(seconds)`, which waits at most that long, returns True.

    Returns whether the store is complete.
    """
    pause, said = 0.0, ""
    while not stopped(pause):
        begun = time.process_time()
        try:
            problems = target.mirror("live")
            text = target.outcome(problems).message if problems else ""
            pause = max(INTERVAL, 20 * (time.process_time() - begun))
        except TrackingError as error:
            pause = min(LONGEST_PAUSE, max(INTERVAL, pause * 2))
            text = str(error)
        if text != said:
            say(text or f"{target.shown_uri} accepts everything again")
            said = text
    outcome = target.outcome(target.mirror("final"))
    say(outcome.message)
    return outcome.complete


def main() -> int:
    """Run the mirroring process of a root and a study until its standard input closes; then make a final
    pass."""
    target = Mirror(Path(sys.argv[1]), sys.argv[2])
    driver, terminated = os.getppid(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    os.nice(10)

    def say(message: str) -> None:
        with (target.folder / "tracker.log").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {scrub(message, target.uri)}\n")

    def stopped(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not terminated.is_set() and os.getppid() == driver:
            if (left := deadline - time.monotonic()) <= 0:
                return False
            ready, _, _ = select.select([sys.stdin], [], [], min(left, 1.0))
            if ready and not os.read(sys.stdin.fileno(), 4096):
                return True
        return True

    try:
        while True:
            with suppress(LockHeldError), locked(target.lock_path, wait=False):
                return 0 if follow(target, stopped, say) else 1
            if stopped(INTERVAL):
                say(f"another process is sending {target.study} to {target.shown_uri}")
                return 1
    except Exception as error:
        say(str(error) if isinstance(error, TrackingError) else brief(error))
        return 1
