"""The pages of docs/findings: every number and figure in them is made from the scores stored beside them.

`make findings` writes the pages from what is stored. `python benchmarks/findings.py --take ROOT` first stores
what the studies have under a root: scores as parquet, and what the plan says of cells and audit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import findings_command
import pandas as pd
import pyarrow.parquet as pq
from findings_fresh import FRESH, Fresh, parts
from findings_store import FOLDER, STUDIES, audit_line, facts_of, recipe_of, request, stored, take
from findings_summary import Studies, summary

from ablate.ablations.diff import differences
from ablate.ablations.factors import claims_on
from ablate.ablations.grid import BASELINE
from ablate.ablations.inference.analysis import records
from ablate.ablations.inference.units import carried_lines
from ablate.models.config import ModelConfig
from ablate.models.errors import InputError, plural
from ablate.reports.build import report_of_file
from ablate.reports.figures import draw_one
from ablate.reports.figures.style import style
from ablate.reports.formatting import interval, signed
from ablate.reports.model import AnalysisReport
from ablate.reports.renderers.markdown import table
from ablate.reports.step_budgets import AtStepBudget, by_step_budget, step_budget_lines
from ablate.reports.summary import answer
from ablate.reports.validation_rank import Agreement, agreement, agreement_lines
from ablate.studies.scores import RunInfo
from ablate.training.metrics.registry import label_of

GUARDRAILS = ("stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr")
OF_LONG_RUNS = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808", "distillmos")
OTHER_PESQ = "pesq_wb_c2"
WANTED = 0.02
"""Half-width that the studies are to reach."""
FIGURES = ("waterfall", "forest", "cells")


def report(name: str, length: float = 1.0, metric: str | None = None) -> AnalysisReport:
    """The report of a study from the stored scores of a length."""
    asked = request(name)
    claims = claims_on(asked.factors, "pesq_wb")
    measured = pq.read_schema(stored(name, length)).names
    return report_of_file(
        stored(name, length),
        {factor.name: factor.off for factor in asked.factors},
        BASELINE if (pd.read_parquet(stored(name))["cell"] == BASELINE).any() else None,
        metric=metric,
        claims=[f"{effect}={claim.low}..{claim.high}" for effect, claim in claims.items()],
        guardrails=[name for name in (*GUARDRAILS, *OF_LONG_RUNS) if name in measured],
    )


def pages(folder: Path) -> dict[str, str]:
    """The text of the pages by name; the figures are written into a folder."""
    found = {name: report(name) for name in STUDIES if stored(name).exists()}
    if not found:
        raise InputError(f"no scores in {FOLDER / 'scores'}; --take ROOT stores those of finished studies")
    for name, result in found.items():
        for figure in FIGURES:
            _draw(result, figure, folder / "figures" / f"{name}-{figure}.svg")
    texts = {"index.md": "".join(_words(found, folder / "figures")), "tables.md": "".join(_tables(found))}
    return texts | ({"command.md": findings_command.page()} if stored(findings_command.NAME).exists() else {})


def _draw(result: AnalysisReport, figure: str, path: Path) -> None:
    drawn = draw_one(result, figure)
    if drawn is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with style(figure):
            drawn.canvas.savefig(path, facecolor="white", metadata={"Date": None})


INTRODUCTION = """# Where did the PESQ go? What was measured

A report attributed the gap between two systems, PESQ 3.00 and 2.62, to three changes: a bidirectional core,
a decoder four times as wide, and a module across bands. Each was said to be worth so much. The networks
behind it had three faults, too. These pages measure the changes again, with seeds and intervals, on real
speech in real noise in the layout of VoiceBank+DEMAND. Every number here is written by `make findings` from
the scores stored beside the page; the full tables are on [their own page](tables.md).

"""
LIMITS = """The published systems reach 3. Networks this small, trained this briefly, are far from
there. After convergence an effect may be smaller or larger or change its sign, and no verdict on these
pages is about the published networks. There are few test speakers and noises, and results on other
corpora may differ.

"""
GOING_ON = """## How to go on

The same command continues a study: `ablate run docs/findings/a.yaml --data CORPUS --root ROOT --seeds 5`
adds seeds, `ablate next findings-a --root ROOT` says which run narrows the intervals most, and
`python benchmarks/findings.py --take ROOT` stores the scores and writes these pages. CORPUS is a folder in
the layout of VoiceBank+DEMAND; no recording is stored here.
"""


def _words(found: dict[str, AnalysisReport], figures: Path) -> Iterator[str]:
    studies = _together(found)
    yield INTRODUCTION
    yield from summary(studies)
    yield from parts(_fresh(studies), figures)
    for name, result in found.items():
        yield from _study(name, result, studies)
    if missing := [f"{left} ({words})" for name, words in STUDIES.items() for left in _left(name)]:
        yield "## What has not been run\n\n"
        yield f"Not measured yet: {', '.join(missing)}. Their study files are beside this page.\n\n"
    yield "## What studies of this size cannot show\n\n"
    noisy = next(iter(found.values())).scores["noisy_pesq_wb"].mean()
    told = []
    for (name, steps), result in studies.reports.items():
        means = result.analysis.cells["mean"]
        told.append(f"{means.min():.3f} to {means.max():.3f} in {name.upper()} after {steps:,} steps")
    yield f"The noisy recordings have a PESQ-WB of {noisy:.3f}, the cells {', '.join(told)}.\n"
    yield LIMITS
    yield GOING_ON


def _together(found: dict[str, AnalysisReport]) -> Studies:
    """What the summary is made from."""
    reports, own, lengths, tuned = {}, {}, {}, {}
    for name, result in found.items():
        asked, steps = request(name), recipe_of(name).steps
        at = {each: result if each == 1.0 else report(name, each) for each in _stored_lengths(name)}
        own[name] = steps
        reports |= {(name, round(length * steps)): each for length, each in at.items()}
        lengths[name] = by_step_budget(
            result.analysis,
            {length: each.scores for length, each in at.items()},
            lambda length, steps=steps: (round(length * steps),),
            result.shown,
        )
        if asked.tune is not None:
            (path,) = asked.tune.space
            tuned[name] = {cell: values[path] for cell, values in facts_of(name)["tuned"].items()}
    return Studies(
        reports,
        own,
        lengths,
        tuned,
        {name: _agreement(name, result) for name, result in found.items()},
        {name: {training for *_, training, _ in facts_of(name)["validation"]} for name in found},
        untoggled("a"),
    )


def _fresh(studies: Studies) -> Fresh:
    others = {
        (name, steps): report(name, steps / studies.own[name], OTHER_PESQ)
        for name, steps in studies.reports
        if OTHER_PESQ in pq.read_schema(stored(name, steps / studies.own[name])).names
    }
    widths = {name: recipe_of(name).width for name in studies.own}
    return Fresh(studies.reports, others, widths, [words for name in FRESH for words in _left(name)])


def _left(name: str) -> Iterator[str]:
    """A study or its step budgets that are not stored, in words."""
    budgets = (1.0, *request(name).step_fractions)
    absent = [each for each in budgets if not stored(name, each).exists()]
    if len(absent) == len(budgets):
        yield name.upper()
    else:
        yield from (f"{name.upper()} after {recipe_of(name).steps * each:,.0f} steps" for each in absent)


def _stored_lengths(name: str) -> list[float]:
    return sorted(each for each in (1.0, *request(name).step_fractions) if stored(name, each).exists())


def _study(name: str, result: AnalysisReport, studies: Studies) -> Iterator[str]:
    yield f"## Study {name.upper()}: {STUDIES[name]}\n\n{_measured(name, result)}\n\n**{answer(result)}**\n\n"
    yield table(["factor", "off", "on", "the field"], list(_toggled(name)))
    rows = result.rows
    yield table(
        [
            "effect on PESQ-WB",
            result.credit_kind,
            f"{result.percent} interval",
            "claimed",
            "verdict at this size",
        ],
        [[r.name, r.estimate, r.interval or "none yet", r.claimed, r.verdict] for r in rows],
    )
    widths = {row.name: (row.data["high"] - row.data["low"]) / 2 for row in rows if row.interval}
    if widths:
        effects = max(width for name, width in widths.items() if name != "unexplained")
        rest = f"; that of the unexplained part is ±{rest:.3f}" if (rest := widths.get("unexplained")) else ""
        yield f"The largest half-width of an effect is ±{effects:.3f}; the target is ±{WANTED}{rest}.\n\n"
    if aliases := [alias for row in result.analysis.aliases.values() for alias in row]:
        order = 1 + min(alias.count(" x ") for alias in aliases)
        yield (
            f"Not every combination is trained (a {result.analysis.design} design): effects are aliased "
            f"with interactions of {order} or more factors.\n\n"
        )
    fewest = min(int(row["runs"]) for row in records(result.analysis.cells))
    if 1 < fewest < 5:
        yield f"With {fewest} runs of a cell, the intervals have few degrees of freedom.\n\n"
    if len(widths) < len(rows):
        yield (
            "Without an interval, a cell has one run, and run-to-run variance is unknown: there is an "
            f"estimate and no verdict. The target for half-widths is ±{WANTED}.\n\n"
        )
    yield from _by_length(studies.lengths[name], result.percent)
    yield from _tuned(name)
    metric = result.analysis.metric
    for line in agreement_lines(studies.agreement[name], metric, chosen=name in studies.tuned):
        yield f"{line}\n\n"
    for line in carried_lines(result.analysis.by_unit):
        yield f"{line}\n\n"
    if left := untoggled(name):
        yield f"Fields in which all-on and the baseline still differ: {', '.join(left)}.\n\n"
    for figure in FIGURES:
        if (FOLDER / "figures" / f"{name}-{figure}.svg").exists():
            yield f"![Study {name.upper()}, {figure}](figures/{name}-{figure}.svg)\n\n"


def _toggled(name: str) -> Iterator[list[str]]:
    """The factors of a study: the fields that they set, and what these are."""
    for factor in request(name).factors:
        last = list(factor.levels)[-1]
        for path in sorted(factor.paths):
            field = path.removeprefix("model.")
            off, on = (factor.levels[level][path] for level in (factor.off, last))
            if off == on:
                continue
            yield [factor.name, str(off), str(on), f"`{path}`: {ModelConfig.model_fields[field].description}"]


def _by_length(found: Sequence[AtStepBudget], percent: str) -> Iterator[str]:
    """What the effects are after each number of steps."""
    if not found:
        return
    yield "The same cells at another length, each training to the end of its own schedule:\n\n"
    yield table(
        [
            "effect",
            "steps",
            "on - off",
            f"{percent} interval",
            "longer less shorter",
            "interval",
        ],
        [
            [
                *(row.name, f"{row.steps[0]:,}", signed(row.estimate), interval(row.low, row.high)),
                *(
                    ("", "")
                    if row.step_fraction == 1.0
                    else (signed(row.change), interval(row.change_low, row.change_high))
                ),
            ]
            for row in found
        ],
    )
    yield "\n".join(step_budget_lines(found, percent)) + "\n\n"


def _tuned(name: str) -> Iterator[str]:
    """What each cell was tuned with, what validation said of it, and what it chose."""
    facts, tuning = facts_of(name), request(name).tune
    if not facts["tried"] or tuning is None:
        return
    (path,) = tuning.space
    validated = recipe_of(name).validation_utterances
    rates = sorted({each[path] for found in facts["tried"].values() for each in found})
    yield (
        f"Each cell was tuned with {tuning.trials} trials, at seeds of their own. The PESQ-WB of each on "
        f"{validated} validation files, and what they chose:\n\n"
    )
    rows = []
    for cell, found in facts["tried"].items():
        values = {each[path]: each["validation"] for each in found}
        rows.append(
            [
                cell,
                *(f"{values[r]:.3f}" if r in values else "" for r in rates),
                f"{facts['tuned'][cell][path]:.2g}",
            ]
        )
    yield table(["cell", *(f"{path.removeprefix('recipe.')} {r:.2g}" for r in rates), "chosen"], rows)


def _agreement(name: str, result: AnalysisReport) -> Agreement | None:
    runs = [
        RunInfo(cell, seed, training=training, summary={"val_pesq_wb": value}, scored=True)
        for cell, seed, training, value in facts_of(name)["validation"]
    ]
    return agreement(result.scores, runs, result.analysis.metric)


def _measured(name: str, result: AnalysisReport) -> str:
    facts, recipe = facts_of(name), recipe_of(name)
    sizes = [size for size in facts["parameters"].values() if size]
    steps = [f"{each * recipe.steps:,.0f}" for each in _stored_lengths(name)]
    diverged = f", {facts['diverged']} diverged" if facts["diverged"] else ""
    return " ".join(
        (
            f"{facts['scored']} of {facts['planned']} planned runs are scored{diverged}:",
            f"{plural(len(sizes), 'cell')}, {_seeds(result)},",
            f"{' and '.join(steps)} steps of {recipe.batch_size} clips of {recipe.crop_seconds:g} s,",
            f"{min(sizes):,} to {max(sizes):,} parameters (networks shrunk to {recipe.width:g} of their",
            f"width and {recipe.depth:g} of their depth),",
            f"{facts['corpus']['train']} files to train, {facts['corpus']['validation']} to validate and",
            f"{facts['corpus']['test']} to test ({plural(result.scores['speaker'].nunique(), 'speaker')}).",
            audit_line(facts),
        )
    )


def _seeds(result: AnalysisReport) -> str:
    runs = sorted({int(row["runs"]) for row in records(result.analysis.cells)})
    return " to ".join(dict.fromkeys((str(runs[0]), str(runs[-1])))) + (
        " seed each" if runs[-1] == 1 else " seeds each"
    )


def untoggled(name: str) -> list[str]:
    """The fields in which a study's all-on cell and its baseline differ, though no factor is about them."""
    asked = request(name)
    *cells, baseline = asked.grid.cells()
    last = {factor.name: list(factor.levels)[-1] for factor in asked.factors}
    return [
        f"`{d.path}` ({d.a} and {d.b})"
        for cell in cells
        if cell.levels == last
        for d in differences(cell.config, baseline.config, asked.factors)
    ]


def _tables(found: dict[str, AnalysisReport]) -> Iterator[str]:
    yield "# The tables behind the findings\n\nWritten by `make findings`; see [the findings](index.md).\n\n"
    for name, result in found.items():
        yield f"## Study {name.upper()}: cells\n\n"
        sizes = facts_of(name)["parameters"]
        rows = [
            [str(c["cell"]), f"{sizes[c['cell']]:,}", str(c["runs"]), f"{c['mean']:.3f}", _spread(c)]
            for c in records(result.analysis.cells)
        ]
        yield table(["cell", "parameters", "trainings", "PESQ-WB", "interval"], rows)
        yield f"## Study {name.upper()}: effects on PESQ-WB\n\n"
        yield table(
            ["kind", "name", "at", "on - off", "interval", "p (Holm)"],
            [
                [
                    *(str(e[key] or "") for key in ("kind", "name", "at")),
                    signed(e["estimate"]),
                    _spread(e),
                    signed(e["p_holm"]).lstrip("+"),
                ]
                for e in records(result.analysis.effects)
            ],
        )
        yield f"## Study {name.upper()}: other measures\n\n"
        yield table(
            ["measure", "name", "on - off", "interval"],
            [
                [label_of(e["metric"]), e["name"], signed(e["estimate"]), _spread(e)]
                for e in records(result.analysis.guardrails)
            ],
        )


def _spread(row: dict[str, Any]) -> str:
    return interval(row["low"], row["high"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--take", type=Path, metavar="ROOT", help="store what the studies have under a root")
    options = parser.parse_args(arguments)
    if options.take is not None:
        for name in (*STUDIES, findings_command.NAME):
            try:
                take(options.take, name)
            except InputError as error:
                print(f"study {name}: {error}")
    for name, text in pages(FOLDER).items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
