"""Finds factors without any effect on scores while a study trains, and stops their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ablate.ablations.audit.finding import Finding
from ablate.ablations.audit.neighbours import neighbours
from ablate.ablations.claims import effect_name
from ablate.ablations.inference.reach import CODE
from ablate.training.rundir import RunDir

from .launchers import Job
from .plan import Plan

REMEDY = "check that the level reaches the code that uses it, or remove the factor"


@dataclass
class _Effect:
    """A level, with the pairs of cells that differ only in it.

    Attributes:
        pairs: (cell at the first level, cell at this level), only cells that do not share runs.
        reaches: whether a pair has different scores.
    """

    name: str
    level: str
    factor: str
    pairs: Sequence[tuple[str, str]]
    equal: dict[tuple[str, str], int] = field(default_factory=dict)
    reaches: bool = False

    @property
    def unreached(self) -> bool:
        return not self.reaches and len(self.equal) == len(self.pairs)


class ReachWatch:
    """Compares the scores of a study's cells as they come in.

    If two cells that differ only in one factor have scores that are equal to the last bit, the runs for the
    factor's other pairs come first. If all pairs are equal, further runs of the cells at that level are not
    started, unless the plan waives A204.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._metric = plan.endpoint.metric
        self._say = say
        self._stops = CODE not in plan.audit.waived
        self._effects = list(_effects(plan))
        self._cells: dict[str, set[str]] = {}
        self._paths: dict[str, list[tuple[str, int, str]]] = {}
        for at in plan.every_step_fraction():
            for cell, seed in at.runs:
                signature = cell.signatures[seed]
                self._cells.setdefault(signature, set()).add(cell.name)
                if at.step_fraction == 1.0:
                    where = (cell.name, seed, cell.scored_as(seed)[0])
                    self._paths.setdefault(signature, []).append(where)
        self._seen: dict[tuple[str, int], str] = {}
        self.findings: list[Finding] = []

    def scored(self, run: RunDir) -> None:
        """Called when a run has its scores; compares them with those of its neighbours."""
        for cell, seed, evaluation in self._paths.get(run.signature, ()):
            path = run.scores_path(evaluation)
            if path.exists() and (found := _digest(path, self._metric)):
                self._seen[cell, seed] = found
                for effect in self._effects:
                    self._compare(effect, cell, seed)

    def _compare(self, effect: _Effect, cell: str, seed: int) -> None:
        before = effect.unreached
        for pair in effect.pairs:
            one, two = (self._seen.get((name, seed)) for name in pair)
            if cell not in pair or one is None or two is None:
                continue
            if one != two:
                effect.reaches = True
            elif pair not in effect.equal:
                effect.equal[pair] = seed
                if len(effect.equal) == 1 and not effect.reaches and len(effect.pairs) > 1:
                    self._say(
                        f"{effect.name}: {pair[1]} has the scores of {pair[0]} at seed {seed}, to the "
                        "last digit; the factor's other pairs of cells are trained next"
                    )
        if effect.unreached and not before:
            off, on = effect.pairs[0]
            evidence = f"every pair of cells has equal scores to the last digit (for example {on} and {off})"
            self.findings.append(Finding.of(CODE, effect.name, evidence, REMEDY))
            stops = (
                f"; {', '.join(sorted(on for _, on in effect.pairs))} stop" if self._stops else " (waived)"
            )
            self._say(f"{CODE} {effect.name} reaches nothing: {evidence}{stops}")

    def arranged(self, queue: Iterable[Job]) -> tuple[list[Job], list[Job]]:
        """The jobs to run, those that test a suspected factor first; and the jobs to stop."""
        first = {
            cell
            for effect in self._effects
            if effect.equal and not effect.reaches and not effect.unreached
            for pair in effect.pairs
            if pair not in effect.equal
            for cell in pair
        }
        over = {on for e in self._effects if self._stops and e.unreached for _, on in e.pairs}
        ahead: list[Job] = []
        later: list[Job] = []
        stopped: list[Job] = []
        for job in queue:
            cells = self._cells.get(job.run.signature, set())
            if cells and cells <= over:
                stopped.append(job)
            else:
                (ahead if cells & first else later).append(job)
        return ahead + later, stopped


def _effects(plan: Plan) -> Iterable[_Effect]:
    for factor in plan.factors:
        levels = list(factor.levels)
        pairs: dict[str, list[tuple[str, str]]] = {}
        for a, b in neighbours(plan.cells, factor):
            shared = set(a.signatures.values()) & set(b.signatures.values())
            if a.levels[factor.name] == levels[0] and not shared:
                pairs.setdefault(b.levels[factor.name], []).append((a.name, b.name))
        for level, found in pairs.items():
            yield _Effect(effect_name(factor.name, level, levels), level, factor.name, found)


def _digest(path: Path, metric: str) -> str:
    """Digest of a run's scores in the endpoint. Empty if equality would not mean anything, because there is
    one score, all are equal, or they are rounded."""
    import pandas as pd

    try:
        table = pd.read_parquet(path, columns=["utterance", metric])
    except (OSError, ValueError):
        return ""
    values = table.sort_values("utterance", kind="stable")[metric].to_numpy(dtype=float)
    if len(values) < 2 or (values == values[0]).all() or (values.round(4) == values).all():
        return ""
    return sha256(values.tobytes()).hexdigest()
