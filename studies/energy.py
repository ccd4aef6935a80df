"""Energy that this machine took while a study trained here, from its own counters; nothing where it has none.

RAPL (the processor packages, `/sys/class/powercap`) and NVML (GPUs). A counter is of the whole machine, with
what other programs took meanwhile. Nothing is estimated, and nothing is divided among runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ablate.training.files import read_lines

POWERCAP = Path("/sys/class/powercap")
PERIOD = 20.0
"""Seconds between two readings: a 32-bit counter of RAPL turns over within minutes."""
FILE = "energy.jsonl"


class Counters:
    """What the machine's counters have counted since this was made."""

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}
        self._last = self._read()

    def read(self) -> None:
        """Count on; call it more often than a counter turns over."""
        now = self._read()
        for name in now.keys() & self._last.keys():
            value, turn = now[name]
            step = value - self._last[name][0]
            self.joules[name] = self.joules.get(name, 0.0) + (step if step >= 0 else max(0.0, step + turn))
        self._last = now

    def _read(self) -> dict[str, tuple[float, float]]:
        """By counter its joules, and at how many it starts from zero again."""
        found = {}
        for zone in sorted(POWERCAP.glob("*-rapl:*")):
            with suppress(OSError, ValueError):
                name = (zone / "name").read_text().strip()
                if name.startswith("package"):  # the others are parts of it, or overlap with it
                    value, turn = (
                        float((zone / f).read_text()) for f in ("energy_uj", "max_energy_range_uj")
                    )
                    found[f"{zone.name} {name}"] = (value / 1e6, turn / 1e6)
        with suppress(Exception):  # no package, driver or card, or one without the counter
            import pynvml

            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                card = pynvml.nvmlDeviceGetHandleByIndex(index)
                used = pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3
                found[f"GPU {index}"] = (used, 0.0)
        return found


@contextmanager
def metered(folder: Path) -> Iterator[None]:
    """Append to the study's record what the counters count during the block; nothing where there are none."""
    counters, ended = Counters(), threading.Event()

    def follow() -> None:
        while not ended.wait(PERIOD):
            counters.read()

    thread = threading.Thread(target=follow, name="energy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        counters.read()
        if counters.joules:
            with (folder / FILE).open("a") as handle:
                handle.write(json.dumps({"joules": counters.joules}) + "\n")


def recorded(folder: Path) -> Mapping[str, float]:
    """Joules by kind (`processors`, `GPUs`) over the sessions of a study; empty where nothing was counted."""
    total: dict[str, float] = {}
    for line in read_lines(folder / FILE):
        for name, joules in line["joules"].items():
            kind = "GPUs" if name.startswith("GPU") else "processors"
            total[kind] = total.get(kind, 0.0) + joules
    return total
