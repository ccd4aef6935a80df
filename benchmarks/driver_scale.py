"""What the driver costs: many trials end to end with a launcher that does no work, and `status` over them.

python benchmarks/driver_scale.py --trials 5000 --json driver_scale.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablate.ablations.claims import Endpoint
from ablate.ablations.factors import find
from ablate.ablations.grid import Grid
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers import Ended, Launcher, Task
from ablate.studies.plan import CorpusNote, Plan, PlannedCell
from ablate.studies.status import status
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir

GRID = "bidirectional,decoder4x,crossband"


class IdleLauncher(Launcher):
    """Ends every task at once, as a worker would have left its run directory."""

    slots = 8

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    @property
    def free(self) -> int:
        return self.slots - len(self._tasks)

    def submit(self, task: Task) -> None:
        run = RunDir(task.run)
        for job in task.evaluations:
            path = run.scores_path(job.signature)
            path.parent.mkdir(exist_ok=True)
            path.touch()
        run.update_state(state="done", attempts=1, val_pesq_wb=2.0)
        self._tasks.append(task)

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended = [Ended(run=task.run) for task in self._tasks]
        self._tasks.clear()
        return ended

    def stop(self) -> None:
        self._tasks.clear()

    def close(self) -> None:
        self._tasks.clear()


def make_plan(trials: int) -> Plan:
    cells = Grid.parse(GRID, changes={"recipe.steps": 10}).cells()
    note = CorpusNote(
        path="demo",
        name="demo",
        digest="0",
        test_digest="0",
        kind="demo",
        is_demo=True,
        train=1,
        validation=1,
        test=1,
    )
    plan = Plan(
        name="scale",
        base="mbsnet",
        baseline="bsrnn",
        factors=tuple(find(name) for name in GRID.split(",")),
        design="full",
        cells=tuple(PlannedCell(**dict(cell), parameters=1) for cell in cells),
        seeds=tuple(range(1, 1 + -(-trials // len(cells)))),
        recipe="quick",
        corpus=note,
        endpoint=Endpoint(),
        created=time.time(),
    )
    return plan.signed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        plan = make_plan(arguments.trials)
        book = plan_book(open_storage(root / "studies" / plan.name), plan)
        planned = time.perf_counter()
        jobs = plan_jobs(plan, root, book, plan.seeds)
        outcome = Driver(root, IdleLauncher()).run(jobs)
        driven = time.perf_counter()
        read = status(plan, root)
        answered = time.perf_counter()
    count = len(outcome.done)
    assert read["counts"] == {"done": count}
    found = {
        "trials": count,
        "plan_ms_per_trial": 1e3 * (planned - started) / count,
        "drive_ms_per_trial": 1e3 * (driven - planned) / count,
        "total_ms_per_trial": 1e3 * (driven - started) / count,
        "status_seconds": answered - driven,
    }
    table = Table("measure", "value", title="driver overhead, no work in the runs")
    for name, value in found.items():
        table.add_row(name, f"{value:,.4g}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
