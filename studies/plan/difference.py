"""Where two plans of one study differ: seeds and lengths extend it, anything else is shown and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.ablations.factors import Factor
from ablate.models.config import Frozen
from ablate.training.config import RunConfig
from ablate.training.train_command.config import CommandConfig, TrainingCommand

from .model import Plan
from .resolve import extend


class PlanChangedError(Exception):
    """A study of that name has another plan; the message shows the differences."""


class ResultsChangedError(PlanChangedError):
    """A study was trained by a version of this code that trains to other results."""


def merge(old: Plan, new: Plan, root: Path) -> Plan:
    """The plan on disk joined with the one asked for: more seeds and lengths extend it, what the audit said
    stays, and a corpus of the same content is read, and the same code run, from where it is now.

    Raises:
        PlanChangedError: they differ in anything but seeds, lengths and the place of the corpus.
        ResultsChangedError: this code would train the runs there are to other results.
    """
    differences = compare(old, new)
    if differences:
        raise PlanChangedError(
            f"study {old.name!r} has another plan:\n  "
            + "\n  ".join(differences)
            + "\nGive the new one a name of its own with --study NAME."
        )
    if old.former_results is not None:
        raise ResultsChangedError(
            f"study {old.name!r} was trained by results version {old.former_results}, and this version of "
            "ablate trains such runs to other results: they would be trained again. "
            f"Its scores stay as they are: ablate report {old.name}. To train it again give --retrain, which "
            f"keeps it as study {former(old)!r}, or give the new one a name of its own with --study NAME."
        )
    places = {field: getattr(new.corpus, field) for field in ("path", "name", "test_path", "pairs")}
    factors = {factor.name: factor for factor in new.factors}
    moved = old.model_copy(
        update={
            "corpus": old.corpus.model_copy(update=places),
            "factors": tuple(factors[factor.name] for factor in old.factors),
            "extra_test_sets": new.extra_test_sets,
            "train": new.train,
            "measures": new.measures,
        }
    )
    return extend(moved, new.seeds, root, new.step_fractions)


def former(plan: Plan) -> str:
    """The name under which a study is kept that is trained again at another results version."""
    return f"{plan.name}.results-{plan.former_results}"


def compare(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans beyond their seeds and lengths, one line each, old -> new."""
    lines = [
        f"{field}: {_short(getattr(old, field))} -> {_short(getattr(new, field))}"
        for field in ("base", "baseline", "design", "constraints", "endpoint", "start_from", "tune")
        if getattr(old, field) != getattr(new, field)
    ]
    lines += [
        f"corpus {field}: {getattr(old.corpus, field)} -> {getattr(new.corpus, field)}"
        for field in ("digest", "test_digest")
        if getattr(old.corpus, field) != getattr(new.corpus, field)
    ]
    tests = [", ".join(f"{t.name} ({t.digest[:12]})" for t in plan.extra_test_sets) for plan in (old, new)]
    if [t.digest for t in old.extra_test_sets] != [t.digest for t in new.extra_test_sets]:
        lines.append(f"extra test sets: {tests[0] or 'none'} -> {tests[1] or 'none'}")
    lines += [f"plug-in {path}: {change}" for path, change in _plugins(old, new)]
    lines += _training(old.train, new.train)
    factors = {factor.name: factor for factor in old.factors}
    lines += [
        f"factor {factor.name}: its {field} changed"
        for factor in new.factors
        if factor.name in factors
        for field in ("levels", "claims", "declares")
        if _compared(factor, field, factors[factor.name]) != getattr(factors[factor.name], field)
    ]
    before = {cell.name: cell for cell in old.cells}
    after = {cell.name: cell for cell in new.cells}
    lines += [f"cell {name}: gone" for name in before if name not in after]
    lines += [f"cell {name}: new" for name in after if name not in before]
    changed: dict[str, list[str]] = {}
    for name in before.keys() & after.keys():
        tuned = set(before[name].tuned or ())
        a, b = before[name].config, after[name].config
        fields = {**a.result_fields(), **_evaluation(a)}
        others = {**b.result_fields(), **_evaluation(b)}
        for path in {**fields, **others}:
            if path not in tuned and (path in fields, fields.get(path)) != (path in others, others.get(path)):
                values = (repr(side[path]) if path in side else "not given" for side in (fields, others))
                changed.setdefault(f"{path}: {' -> '.join(values)}", []).append(name)
    return lines + [f"{change} ({len(cells)} cells)" for change, cells in sorted(changed.items())]


def _training(old: TrainingCommand | None, new: TrainingCommand | None) -> list[str]:
    """Where two training commands would give other results; they may lie in another folder, and go
    on in another way."""
    if old is None or new is None:
        names = ["ours" if train is None else f"{train.command!r}" for train in (old, new)]
        return [] if old is new else [f"trained by: {' -> '.join(names)}"]
    if old.imported and not new.imported:
        return [
            f"trained by: elsewhere (imported from {old.imported}) -> {new.command!r}; import it again with "
            "the study file: ablate import-runs FILE.yaml --scores ..."
        ]
    lines = [
        f"train.{field}: {getattr(old, field)!r} -> {getattr(new, field)!r}"
        for field in ("command", "overrides", "scores")
        if getattr(old, field) != getattr(new, field)
    ]
    if old.digest != new.digest:
        lines.append(f"train.code: its content changed ({old.digest[:12]} -> {new.digest[:12]})")
    return lines


def _compared(new: Factor, field: str, old: Factor) -> Any:
    """A field of a factor; conditions that its claims did not have yet are no difference."""
    if field != "claims" or len(new.claims) != len(old.claims):
        return getattr(new, field)
    pairs = zip(new.claims, old.claims, strict=True)
    return tuple(
        mine if theirs.conditions else mine.model_copy(update={"conditions": None}) for mine, theirs in pairs
    )


def _plugins(old: Plan, new: Plan) -> Iterator[tuple[str, str]]:
    for path in old.plugins | new.plugins:
        if path not in new.plugins or path not in old.plugins:
            yield path, "new" if path in new.plugins else "gone"
        elif old.plugins[path] != new.plugins[path]:
            before, after = ((plan.plugins[path] or "not recorded")[:12] for plan in (old, new))
            yield path, f"its code changed ({before} -> {after})"


def _evaluation(config: RunConfig | CommandConfig) -> dict[str, Any]:
    return {path: value for path, value in config.flat().items() if path.startswith("evaluation.")}


def _short(value: Any) -> str:
    return str(value.model_dump(mode="json") if isinstance(value, Frozen) else value)
