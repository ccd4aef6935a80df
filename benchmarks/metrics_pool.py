"""Metrics of a test set in two processes against one.

    python benchmarks/metrics_pool.py --clean DIR --noisy DIR --utterances 60 --json pool.json

All nine metrics of each pair, workers started before the clock; without folders, synthetic pairs of 3 s.
Printed: seconds and speed-up, and the time a pool takes to start. Exit code 1 if the speed-up on two cores is
under 1.8. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from ablate.training.audio import SAMPLE_RATE
from ablate.training.metrics import MetricPool
from ablate.training.metrics.files import pair_paths, read_pair

LEAST = 1.8
Pairs = list[tuple[np.ndarray, np.ndarray]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clean", type=Path, help="folder of clean files")
    parser.add_argument("--noisy", type=Path, help="folder of the same names")
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3, help="the fastest counts")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    if (arguments.clean is None) != (arguments.noisy is None):
        parser.error("give both --clean and --noisy, or neither")
    pairs = (
        read(arguments.clean, arguments.noisy, arguments.utterances)
        if arguments.clean
        else synthetic(arguments.utterances)
    )
    one, two = (measure(pairs, processes, arguments.repetitions) for processes in (1, arguments.processes))
    result = {
        "utterances": len(pairs),
        "audio_seconds": sum(len(clean) for clean, _ in pairs) / SAMPLE_RATE,
        "processes": arguments.processes,
        "cores": len(os.sched_getaffinity(0)),
        "seconds_one": one["seconds"],
        "seconds_many": two["seconds"],
        "start_seconds": two["start_seconds"],
        "speed_up": one["seconds"] / two["seconds"],
        "least": LEAST,
    }
    print(f"{'utterances':24}{result['utterances']:8}   {result['audio_seconds']:.0f} s of audio")
    print(f"{'one process':24}{one['seconds']:8.2f} s {one['seconds'] / len(pairs) * 1e3:.0f} ms each")
    print(f"{f'{arguments.processes} processes':24}{two['seconds']:8.2f} s")
    print(f"{'start of the pool':24}{two['start_seconds']:8.2f} s")
    print(f"{'speed-up':24}{result['speed_up']:8.2f}   at least {LEAST} on 2 cores")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    return 0 if result["speed_up"] >= LEAST else 1


def read(clean: Path, noisy: Path, count: int) -> Pairs:
    """The first pairs of two folders."""
    return [read_pair(pair)[:2] for pair in pair_paths(clean, noisy).pairs[:count]]


def synthetic(count: int) -> Pairs:
    """Bursts of a gliding harmonic tone with white noise, 3 s each."""
    random = np.random.default_rng(0)
    time_axis = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    pairs = []
    for _ in range(count):
        pitch = 2 * np.pi * np.cumsum(random.uniform(90, 220) + 20 * np.sin(8 * time_axis)) / SAMPLE_RATE
        voice = np.add.reduce([np.sin(k * pitch) / k for k in range(1, 20)])
        clean = 0.1 * voice * np.clip(np.sin(2 * np.pi * 2 * time_axis), 0, None) ** 2
        clean += 1e-3 * random.standard_normal(len(clean))
        pairs.append((clean, clean + 0.02 * random.standard_normal(len(clean))))
    return pairs


def measure(pairs: Pairs, processes: int, repetitions: int) -> dict[str, float]:
    """Seconds for all pairs in a pool whose workers are up, and seconds until they are."""
    started = time.perf_counter()
    with MetricPool(processes) as pool:
        list(pool.map(pairs[: 2 * processes]))
        start_seconds = time.perf_counter() - started
        times = []
        for _ in range(repetitions):
            started = time.perf_counter()
            for scored in pool.map(pairs):
                if scored.errors:
                    raise RuntimeError(f"a metric failed: {scored.errors}")
            times.append(time.perf_counter() - started)
    return {"seconds": min(times), "start_seconds": start_seconds}


if __name__ == "__main__":
    sys.exit(main())
