"""What the harness costs: many trials end to end with a launcher that does no work, and `status` over them.

python benchmarks/driver_scale.py --cells 2048 --seeds 5 --json driver_scale.json
"""

from __future__ import annotations

import argparse
import io
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from rich.console import Console
from rich.table import Table

from ablate.ablations.grid import parse_factors
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers import Ended, Job, Launcher
from ablate.studies.plan import Plan, load, make, save
from ablate.studies.status import status
from ablate.studies.study import Study
from ablate.studies.trials import open_storage, plan_book

FACTORS = (
    "bidirectional,decoder4x,crossband,norm=layer,group,ssm_skip=right,shadowed,dt_init=kept,wiped,d_state=8,16,"
    "recipe.clip=1,5,recipe.schedule=step,cosine,recipe.optimizer=adam,adamw,recipe.batch_size=6,8"
)
"""Eleven of two levels."""


class IdleLauncher(Launcher):
    """Ends every task at once, as a worker would have left its run directory."""

    slots = 8

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        scores = io.BytesIO()
        pd.DataFrame({"utterance": ["d_1"], "pesq_wb": [2.0]}).to_parquet(scores, index=False)
        self._scores = scores.getvalue()

    @property
    def free(self) -> int:
        return self.slots - len(self._jobs)

    def submit(self, job: Job) -> None:
        run = job.run
        for signature in job.evaluations:
            path = run.scores_path(signature)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self._scores)
        run.update_state(state="done", attempts=1, val_pesq_wb=2.0)
        self._jobs.append(job)

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended = [Ended(run=job.run.path) for job in self._jobs]
        self._jobs.clear()
        return ended

    def stop(self) -> None:
        self._jobs.clear()

    def close(self) -> None:
        self._jobs.clear()


def make_plan(cells: int, seeds: int, root: Path) -> Plan:
    """The plan of a grid of at least so many cells beside the baseline, made as `ablate run` makes it."""
    factors = parse_factors(FACTORS)[: math.ceil(math.log2(cells))]
    request = Study(
        factors=factors,
        set={"recipe.steps": 10},
        seeds=tuple(range(1, seeds + 1)),
        data=str(write_corpus(root / "corpus")),
        name="scale",
    )
    return make(request, root)[0]


def write_corpus(folder: Path) -> Path:
    """A corpus of noise, a file a split and speaker."""
    draw = np.random.default_rng(0)
    for split, speakers in (("train", "abc"), ("test", "d")):
        for kind in ("clean", "noisy"):
            (folder / split / kind).mkdir(parents=True)
            for speaker in speakers:
                signal = 0.1 * draw.standard_normal(16000)
                soundfile.write(folder / split / kind / f"{speaker}_1.wav", signal, 16000)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=8, help="of the grid, rounded up to a power of two")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clock = [time.perf_counter()]
        plan = make_plan(arguments.cells, arguments.seeds, root)
        save(plan, root)
        clock.append(time.perf_counter())
        book = plan_book(open_storage(root / "studies" / plan.name), plan)
        clock.append(time.perf_counter())
        jobs = plan_jobs(plan, root, book)
        outcome = Driver(IdleLauncher()).run(jobs)
        clock.append(time.perf_counter())
        read = status(load(root, plan.name), root)
        clock.append(time.perf_counter())
        journal = (root / "studies" / plan.name / "journal.log").stat().st_size
    trials = sum(len(job.trials) for job in outcome.done)
    assert read["counts"] == {"done": trials}
    plan_seconds, record, drive, answer = np.diff(clock).tolist()
    found = {
        "cells": len(plan.cells),
        "trials": trials,
        "trainings": len(outcome.done),
        "plan_seconds": plan_seconds,
        "record_ms_per_trial": 1e3 * record / trials,
        "drive_ms_per_trial": 1e3 * drive / trials,
        "total_ms_per_trial": 1e3 * (record + drive) / trials,
        "status_seconds": answer,
        "journal_megabytes": journal / 1e6,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    table = Table("measure", "value", title="driver overhead, no work in the runs")
    for name, value in found.items():
        table.add_row(name, f"{value:,.4g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
