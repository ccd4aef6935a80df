"""`ablate compare`: compares the scores of a few runs with a published score or with other runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ablate.ablations.inference.compare import ENOUGH_DF, FINEST, Comparison, Spread, pooled_spread
from ablate.ablations.published import PUBLISHED_EFFECTS
from ablate.models.errors import InputError, plural
from ablate.models.registry import suggestion

PUBLISHED_SDS = tuple(
    (sd, effect.source) for effect in PUBLISHED_EFFECTS if effect.sd is not None for sd in effect.sd
)
"""Published SDs of PESQ-WB over seeds, in-domain, each with its source."""


def parse_spread(text: str) -> Spread:
    """An SD between runs from `0.02`, or a range from `0.01..0.03`.

    Raises:
        InputError: the text is neither.
    """
    low, dots, high = text.partition("..")
    try:
        return Spread(float(low), float(high if dots else low), None, "given with --sd")
    except ValueError:
        raise InputError(f"--sd {text!r} is not an SD or a range, e.g. 0.02 or 0.01..0.03") from None


def published_spread() -> Spread:
    """The range of the published SDs. An SD printed as .00 was rounded, and counts as `FINEST`."""
    sds = [max(sd, FINEST) for sd, _ in PUBLISHED_SDS]
    sources = ", ".join(dict.fromkeys(source for _, source in PUBLISHED_SDS))
    return Spread(min(sds), max(sds), None, f"published SDs over seeds, in-domain ({sources})")


def study_spread(root: Path, study: str | None, cell: str | None, metric: str) -> Spread:
    """The SD between the runs of a study's cell, or within all its cells.

    Raises:
        InputError: the study or cell does not exist, or no cell has two scored runs.
    """
    from .sources import scores_from_study

    table, info = scores_from_study(root, study)
    if cell is not None and cell not in info.cells:
        raise InputError(f"no cell {cell!r} in {info.name}{suggestion(cell, info.cells)}")
    if metric not in table.columns:
        raise InputError(
            f"no metric {metric!r} in the scores of {info.name}{suggestion(metric, table.columns)}"
        )
    table = table[table["status"] != "diverged"].drop_duplicates(["training", "utterance"])
    means = table.groupby(["cell", "training"], observed=True)[metric].mean().dropna()
    groups = [part.tolist() for name, part in means.groupby(level="cell") if cell in (None, name)]
    which = f"cell {cell}" if cell else "all cells"
    found = pooled_spread(groups, f"study {info.name}, {which}")
    if found is None:
        raise InputError(f"{info.name}, {which}: no cell has two scored runs yet; give --sd")
    return found


def spread_of(ours: Sequence[float], theirs: Sequence[float], others: Spread | None) -> Spread:
    """The SD to compare with.

    If `others` is a measured SD and these scores have one too, the two are pooled. Otherwise it is `others`.
    Without `others`, it is the SD of these scores if that has enough degrees of freedom, else the published
    range.
    """
    mine = pooled_spread([ours, theirs], "these scores")
    if others is not None and others.df and mine is not None and mine.df:
        df = mine.df + others.df
        sd = ((mine.low**2 * mine.df + others.low**2 * others.df) / df) ** 0.5
        return Spread(sd, sd, df, f"{others.source}, and these scores")
    if others is not None:
        return others
    return mine if mine is not None and (mine.df or 0) >= ENOUGH_DF else published_spread()


def lines(found: Comparison, best_of: int | None) -> Iterator[str]:
    """The result as sentences."""
    ours, theirs = plural(found.ours, "run"), plural(found.theirs, "run")
    words = {
        "differs": "the difference is larger than between runs of one system",
        "within luck": "within chance: runs of one system differ by as much",
        "cannot be told": "cannot be decided",
    }
    yield f"{found.difference:+.3f} ({ours} against {theirs}): {words[found.verdict]}."
    spread = found.spread
    size = f"{spread.low:.3f}" if spread.low == spread.high else f"{spread.low:.3f} to {spread.high:.3f}"
    df = "of other networks or recipes" if spread.df is None else f"{spread.df} degrees of freedom"
    yield f"SD between runs: {size} ({spread.source}; {df})."
    for sd, limit in found.critical.items():
        shown = abs(found.difference) > limit
        line = (
            f"At SD {sd:.3f}: {'differs' if shown else 'within chance'}, because differences up to "
            f"{limit:.3f} are within chance"
        )
        mine, both = found.runs[sd]
        if not shown:
            alone = f", or {mine} of yours against theirs" if mine else "; more of yours alone would not"
            line += f"; if the difference stays, {both or 'more than 200'} of each would decide{alone}"
        yield f"{line}."
        if best_of:
            above, p = found.best_of[sd]
            verdict = "differs" if p < 0.05 else "within chance"
            yield (
                f"  If theirs is the best of {best_of} runs, it is about {above:.3f} above their mean; then "
                f"{verdict} (p = {p:.2f})."
            )
    if spread.df is not None and spread.df < ENOUGH_DF:
        yield (f"{spread.df} degrees of freedom are too few to estimate the SD between runs; 4 are needed.")
    elif spread.df is None:
        yield "To decide it, train this network with this recipe at least three times on either side."
