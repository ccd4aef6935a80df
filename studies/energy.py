"""Energy that this machine uses while a study trains on it, from its hardware counters, if it has any.

These are RAPL (processor packages, `/sys/class/powercap`) and NVML (GPUs). They measure the whole machine,
including other programs. The energy is not estimated, and not divided among runs.
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
"""Seconds between two readings; a 32-bit counter of RAPL wraps around within minutes."""
FILE = "energy.jsonl"


class Counters:
    """Joules counted since the creation of this object."""

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}
        self._last = self._read()

    def read(self) -> None:
        """Add the joules since the last call. Must be called more often than a counter wraps around."""
        now = self._read()
        for name in now.keys() & self._last.keys():
            value, turn = now[name]
            step = value - self._last[name][0]
            self.joules[name] = self.joules.get(name, 0.0) + (step if step >= 0 else max(0.0, step + turn))
        self._last = now

    def _read(self) -> dict[str, tuple[float, float]]:
        """Counter -> (joules, value at which it wraps around to zero)."""
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
    """Append the joules counted during the block to the record in the study's folder, if counters exist."""
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
    """Joules by kind (`processors`, `GPUs`) over all sessions of a study; empty if there are no counters."""
    total: dict[str, float] = {}
    for line in read_lines(folder / FILE):
        for name, joules in line["joules"].items():
            kind = "GPUs" if name.startswith("GPU") else "processors"
            total[kind] = total.get(kind, 0.0) + joules
    return total
