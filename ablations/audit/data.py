"""A5xx: data, or splits of it, that would make the comparison unfair."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ablate.models.errors import listed
from ablate.training.config import is_bookkeeping

from ..factors import Factor
from ..grid import Cell
from ..runspec import RunSpec
from .finding import Finding

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus

SHOWN = 5
TRAIN_PAIRS = 200
ONE_SIDED = 0.6
"""Largest share of the validation files that one speaker may have."""


def leaked(corpus: Corpus) -> Iterator[Finding]:
    """A501: test audio or a test speaker in train or validation."""
    from ablate.training.data.check import leaks

    found: dict[str, list[str]] = {}
    for leak in leaks(corpus):
        found.setdefault(leak.what, []).append(f"{leak.test} ({leak.train})")
    for what, items in found.items():
        yield Finding.of(
            "A501",
            corpus.name,
            f"{what} of the test set in train or validation: {listed(items, SHOWN)}",
            "remove these files from train: scores on them measure memorisation, not enhancement",
        )


def noisy_score(corpus: Corpus) -> Iterator[Finding]:
    """A503: the noisy files of a known corpus do not score as published."""
    from ablate.training.data.check import noisy_score_finding

    text = noisy_score_finding(corpus)
    if text:
        yield Finding.of("A503", corpus.name, text, "use the published files to compare with their scores")


def wrong_pairs(corpus: Corpus) -> Iterator[Finding]:
    """A506 and A507: noisy files that do not match their clean ones; A508: low sample rates.

    All test pairs are checked, and `TRAIN_PAIRS` training pairs.
    """
    from ablate.training.data import alignment
    from ablate.training.data.check import low_rates
    from ablate.training.data.pairs import spread

    tests = (*corpus.test, *(pair for further in corpus.extra_test_sets for pair in further.pairs))
    for pairs in (spread(corpus.train, TRAIN_PAIRS), tests):
        for wrong in alignment.wrong_pairs(pairs):
            what = f"{wrong.what} ({len(pairs):,} checked): {listed(wrong.files, SHOWN)}"
            yield Finding.of("A506" if wrong.sure else "A507", corpus.name, what, wrong.remedy)
    if low := low_rates(corpus):
        yield Finding.of("A508", corpus.name, low, "use recordings at 16 kHz or more, or another endpoint")


def one_sided(corpus: Corpus, cells: Sequence[Cell], tuned: Collection[str] = ()) -> Iterator[Finding]:
    """A504: most validation files are of one speaker, and validation selects weights or tuned settings.

    Args:
        tuned: dotted paths that tuning sets for each cell.
    """
    recipes = [cell.config.recipe for cell in cells]
    counts = {
        recipe.validation_utterances
        for recipe in recipes
        if tuned or (recipe.selection == "best" and recipe.split == "fixed")
    }
    chosen = "tuned settings" if tuned else "the weights to test"
    for count in sorted(counts, key=str):
        drawn = corpus.select_validation(count)
        (speaker, files), *_ = Counter(pair.speaker for pair in drawn).most_common(1)
        if speaker is None or files <= ONE_SIDED * len(drawn):
            continue
        more = "raise recipe.validation_utterances, or " if len(drawn) < len(corpus.validation) else ""
        yield Finding.of(
            "A504",
            corpus.name,
            f"{files} of the {len(drawn)} validation files that select {chosen} are from speaker {speaker}",
            f"a choice that suits one voice may not suit the test set: {more}do not select by validation",
        )


def unequal(
    cells: Sequence[Cell],
    factors: Sequence[Factor],
    tuned: Collection[str] = (),
    runs: Sequence[RunSpec] = (),
) -> Iterator[Finding]:
    """A502: cells differ in recipe, evaluation, data or seeds, but neither a factor nor tuning covers it.

    Some cells may have more seeds than others if their lists are nested.

    Args:
        tuned: dotted paths that tuning sets for each cell.
        runs: every planned run, to compare data and seeds too.
    """
    covered = {path for factor in factors for path in factor.paths} | set(tuned)
    flat = {cell.name: cell.config.flat() for cell in cells}
    for path in {path: None for fields in flat.values() for path in fields}:
        if path.startswith("model.") or path in covered or is_bookkeeping(path):
            continue
        values = ((repr(fields.get(path)), name) for name, fields in flat.items())
        yield from _differing(path, values, "set it in every cell, or make it a factor")
    yield from unequal_runs(runs)


def unequal_runs(runs: Sequence[RunSpec]) -> Iterator[Finding]:
    """A502: cells that differ in data, start weights or seeds."""
    for what, read in (
        ("data", lambda run: run.data.digest),
        ("test data", lambda run: run.data.test_digest),
        ("start weights", lambda run: "given" if run.start_from else "none"),
    ):
        values = ((repr(read(run)), run.cell) for run in runs)
        yield from _differing(what, values, "train every cell on the same data")
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.cell, set()).add(run.seed)
    by_count = sorted(seeds.values(), key=len)
    if not all(few <= more for few, more in itertools.pairwise(by_count)):
        values = ((str(sorted(its)), name) for name, its in seeds.items())
        yield from _differing("seeds", values, "use nested seeds: every cell has the first n seeds")


def _differing(what: str, pairs: Iterable[tuple[str, str]], remedy: str) -> Iterator[Finding]:
    """A502 if the values of cells, as (value, cell), are not all the same."""
    values: dict[str, dict[str, None]] = {}
    for value, name in pairs:
        values.setdefault(value, {})[name] = None
    if len(values) > 1:
        text = "; ".join(f"{value} in {', '.join([*names][:3])}" for value, names in values.items())
        yield Finding.of("A502", what, f"cells differ in {what}: {text}", remedy)
