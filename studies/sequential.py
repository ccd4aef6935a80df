"""`--target-half-width`: which runs to add after an interim look, and how many a half-width needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.ablations.inference.allocation import FIRST, Allocation, Training, allocate
from ablate.ablations.inference.contrasts import judged
from ablate.ablations.inference.engine import quantile
from ablate.ablations.inference.power import Variances, make_plan
from ablate.ablations.inference.verdicts import MOST_SEEDS
from ablate.models.errors import InputError, duration

from .allocation import failed_of, hours_of
from .analysis import analyze_study
from .plan import Look, Plan, add
from .scores import scores_of_runs

MOST_TRAININGS = 2000
"""Maximum number of runs in an outlook."""
WITHOUT_END = 10**9
"""A number of seeds with which only the utterances' part of the variance remains."""


@dataclass(frozen=True)
class HalfWidthTarget:
    """The rule of `--target-half-width`.

    Attributes:
        width: wanted half-width of every judged effect and of the gap.
        max_seeds: maximum number of seeds of a cell.
        at_once: number of runs to add after a look.
    """

    width: float
    max_seeds: int
    at_once: int

    def outlook(self, plan: Plan) -> str:
        """A sentence, before training, on the runs that the width needs at typical variances.

        Empty if `max_seeds` are enough, or typical variances are not known.
        """
        if plan.looks or plan.endpoint.metric != "pesq_wb" or not plan.corpus.test:
            return ""
        variances = Variances(utterances=plan.corpus.test)
        planned = make_plan(
            {factor.name: tuple(factor.levels) for factor in plan.factors},
            variances,
            design=plan.design,
            baseline=plan.baseline is not None,
            evaluation_only=[factor.name for factor in plan.factors if factor.evaluation_only],
            constraints=plan.constraints,
        )
        contrasts = planned.contrasts.rows
        rows = [*judged(contrasts), *(i for i, c in enumerate(contrasts) if c.kind == "gap")]

        def widest(seeds: int) -> tuple[float, str]:
            se, df = planned.unit.at_seeds(seeds)
            half = (quantile(0.95, df) * se)[rows]
            return float(half.max()), contrasts[rows[int(half.argmax())]].name

        left, target = widest(self.max_seeds)
        if left <= self.width:
            return ""
        more = range(self.max_seeds, MOST_SEEDS + 1)
        if enough := next((n for n in more if widest(n)[0] <= self.width), None):
            takes = f"about {enough} seeds ({planned.runs(enough)} runs) are enough: max_seeds: {enough}"
        elif widest(WITHOUT_END)[0] <= self.width:
            takes = f"more than {MOST_SEEDS} seeds would be needed"
        else:
            takes = "no number of runs is enough; add test utterances instead"
        return (
            f"at typical variances (SD {variances.seed:g} between seeds) {self.max_seeds} seeds of every "
            f"cell give a half-width of {left:.3f} on {target}, not {self.width:g}; {takes}"
        )

    def after_look(self, plan: Plan, root: Path, say: Callable[[str], None]) -> Plan:
        """The plan with the next runs (none if the target is reached) and a record of this look."""
        table, runs = scores_of_runs(plan, root)
        unscored = [name for name in plan.cell_names if not any(r.scored for r in runs if r.cell == name)]
        if unscored:
            say(
                f"the target half-width cannot be reached: every seed of {', '.join(unscored)} failed or "
                "diverged; see ablate status"
            )
            return self._looked(plan, None)
        try:
            analysis = analyze_study(plan, table)
        except InputError as error:
            say(f"the intervals cannot be computed: {error}")
            return plan
        hours = hours_of(plan, runs)
        failed = failed_of(runs)

        def ahead(max_seeds: int | None) -> Allocation:
            return allocate(
                analysis,
                hours=hours,
                width=self.width,
                count=MOST_TRAININGS,
                max_seeds=max_seeds,
                failed=failed,
            )

        found = ahead(self.max_seeds)
        if found.widest is None and found.trainings:
            say(f"every cell gets {min(FIRST, self.max_seeds)} seeds before the first look")
            return _with(plan, found.trainings, root, say)
        plan = self._looked(plan, found.widest)
        to_go = _cost(found.trainings, hours is not None)
        if found.widest is None:
            say("the target half-width cannot be reached: no effect has an interval; see ablate status")
            return plan
        target, half = found.widest
        say(
            f"interim look: {_trainings(plan)} runs; the widest interval on {plan.test_name} is that of "
            f"{target}, +-{half:.3f}, target {self.width:g}"
            + (f"; about {to_go} left" if found.trainings else "")
        )
        if len(plan.looks) == 1 or not found.trainings:
            for line in self._notes(plan, found, ahead, hours is not None):
                say(line)
        return _with(plan, found.trainings[: self.at_once], root, say)

    def _looked(self, plan: Plan, widest: tuple[str, float] | None) -> Plan:
        target, half_width = widest or ("", None)
        look = Look(
            seeds=max(len(cell.seeds) for cell in plan.cells),
            trainings=_trainings(plan),
            target=target,
            half_width=half_width,
            wanted=self.width,
            time=time.time(),
        )
        return plan.model_copy(update={"looks": (*plan.looks, look)})

    def _notes(
        self, plan: Plan, found: Allocation, ahead: Callable[[int | None], Allocation], timed: bool
    ) -> list[str]:
        """Sentences on why the width cannot be reached, and on the runs that it would take."""
        lines = found.limits
        assert found.widest is not None
        last = found.trainings[-1].half_width if found.trainings else found.widest[1]
        if found.floors or found.blocked or last is None or last <= self.width:
            return lines
        more = ahead(None).trainings
        if not more or more[-1].half_width is None or more[-1].half_width > self.width:
            return [*lines, f"{self.max_seeds} seeds of a cell leave about +-{last:.3f}"]
        seeds = {cell.name: len(cell.seeds) for cell in plan.cells}
        for training in more:
            for cell in training.cells:
                seeds[cell] += 1
        return [
            *lines,
            f"{self.max_seeds} seeds of a cell leave about +-{last:.3f}; {self.width:g} would take about "
            f"{_cost(more, timed)} from here: max_seeds: {max(seeds.values())}",
        ]


def _with(plan: Plan, trainings: Sequence[Training], root: Path, say: Callable[[str], None]) -> Plan:
    """The plan with more runs; unchanged if they have no weights to start from."""
    more: dict[str, list[int]] = {}
    for training in trainings:
        for cell in training.cells:
            more.setdefault(cell, []).append(training.seed)
    try:
        return add(plan, more, root)
    except InputError as error:
        say(f"no runs are added: {error}")
        return plan


def _trainings(plan: Plan) -> int:
    return len({cell.signatures[seed] for cell, seed in plan.runs})


def _cost(trainings: Sequence[Training], timed: bool) -> str:
    count = f"{len(trainings)} training{'s' * (len(trainings) != 1)}"
    return f"{count} ({duration(3600 * sum(t.hours for t in trainings))} of one slot)" if timed else count
