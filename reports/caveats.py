"""The limits of a report's numbers: how they were measured, what is missing, what they cannot show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ablate.ablations.diff import Difference, differences
from ablate.models.errors import duration, plural
from ablate.studies.plan import Plan
from ablate.studies.train_command import SAME
from ablate.training.metrics.passport import described, passport_of
from ablate.training.metrics.registry import in_words
from ablate.training.train_command.config import TrainingCommand

from .chosen_on_test import price, price_lines
from .cost import compute
from .formatting import text
from .heterogeneity import mixture_lines
from .model import AnalysisReport
from .run_warnings import changes, run_warnings
from .slopes import slope_lines
from .step_budgets import step_budget_lines
from .test_sets import lines_of_test_sets
from .validation_rank import agreement_lines
from .verdict_table import claim_lines

DEMO_WARNING = (
    "DEMO CORPUS: synthetic speech for trying the harness. These numbers say nothing about real recordings."
)
SPEAKS_OF = (
    "Intervals cover other training runs and other utterances of these test speakers and noises, not "
    "other speakers, noises or recipes."
)
SELECTED = {
    "best": "the checkpoint selected on validation files, scored once on the test files",
    "last": "the last weights of each run, scored once on the test files",
}
IMPORTED_ENDPOINT = "trained elsewhere: it is not known which weights were tested and how they were chosen"
OWN_ENDPOINT = "the training command chose the weights; its final output was scored once on the test files"


def _selected(plan: Plan) -> str:
    """Sentence on which weights of a run are tested."""
    if plan.program.imported:
        return IMPORTED_ENDPOINT
    chosen = dict.fromkeys(SELECTED[cell.config.recipe.selection] for cell in plan.networks)
    return " or ".join(chosen) or OWN_ENDPOINT


def measured_at(report: AnalysisReport) -> list[tuple[str, str]]:
    """(name, value) of the conditions that the numbers hold for: sizes, steps, seeds, corpus, endpoint."""
    info, analysis, plan = report.info, report.analysis, report.info.plan
    facts: list[tuple[str, str]] = []
    if plan is not None:
        for role, name, cell in (
            ("base", report.base_name, analysis.base_cell),
            ("baseline", report.baseline_name, analysis.baseline),
        ):
            if name:
                size = info.cells[cell].parameters if cell in info.cells else 0
                facts.append((role, name + (f", {size:,} parameters as trained" if size else "")))
        facts.append(("recipe", _recipe(report)) if plan.train is None else ("trained by", _own(plan.train)))
        facts.append(("corpus", _corpus(report)))
        if plan.extra_test_sets:
            tests = [f"{report.test_name} (the first; verdicts are based on it), {plan.corpus.test:,} files"]
            tests += [f"{test.name}, {test.files:,} files" for test in plan.extra_test_sets]
            facts.append(("test sets", "; ".join(tests)))
        facts.append(("endpoint", f"{report.metric}; {_selected(plan)}"))
    facts.append(("design", f"{analysis.design}, {plural(len(analysis.cells), 'cell')} with scores"))
    scored = sum(run.scored for run in info.runs)
    seeds = ", ".join(str(seed) for seed in analysis.seeds)
    uneven = "" if report.seed_count == plural(len(analysis.seeds), "seed") else f"; {report.seed_count}"
    facts.append(("seeds", f"{seeds} ({scored} of {plural(len(info.runs), 'run')} scored{uneven})"))
    facts.append(("intervals", intervals(report)))
    sources, fixed = varied(report)
    if sources:
        facts.append(("varied with the seed", f"{', '.join(sources)}; not {', '.join(fixed)}"))
    facts.append(("test utterances", f"{analysis.utterances:,} per run"))
    facts.append(("measured by", described(passport_of(report.scores.attrs, analysis.metric))))
    if compute := _compute(report):
        facts.append(("compute", compute))
    if info.energy:
        told = ", ".join(f"{kind} {joules / 1e6:.3g} MJ" for kind, joules in info.energy.items())
        facts.append(("energy", f"{told}, measured for the whole machine, including other programs"))
    if analysis.margin is None:
        facts.append(("margin", f"none for {in_words(analysis.metric)}: no verdicts; set one with --margin"))
    else:
        told = f"{in_words(analysis.metric, f'{analysis.margin:g}')}: smaller effects are negligible"
        declared = plan.endpoint.margin if plan and plan.endpoint.metric == analysis.metric else None
        if declared not in (None, analysis.margin):
            told += f" (set in this report; the study declared {declared:g})"
        facts.append(("margin", told))
    machines = dict.fromkeys(str(run.summary["machine"]) for run in info.runs if run.summary.get("machine"))
    if machines:
        facts.append(("machine", "; ".join(machines)))
    elif plan is not None and plan.machine:
        facts.append(("machine", plan.machine))
    commits = {_short(run.summary["git_commit"]) for run in info.runs if run.summary.get("git_commit")}
    if commits:
        facts.append(("commit of ablate", ", ".join(sorted(commits))))
    if plan is not None and plan.git_commit:
        facts.append(("commit of the folder", _short(plan.git_commit)))
    facts.append(("scores from", info.source))
    imported = Counter(run.summary.get("imported") for run in info.runs)
    for source, count in ((source, n) for source, n in imported.items() if isinstance(source, str)):
        facts.append(("trained elsewhere", f"{count} of {plural(len(info.runs), 'run')}, from {source}"))
    return facts


def intervals(report: AnalysisReport) -> str:
    """The kind of the intervals; `none` if no cell has two seeds."""
    if report.seeds[1] < 2:
        return "none"
    kind = "Welch's t with Satterthwaite's degrees of freedom, over seeds (separate per cell) and utterances"
    return f"{report.percent}: {kind}"


def _compute(report: AnalysisReport) -> str:
    """The hours of all runs, as text; empty if runs were not timed."""
    found = compute(report.info)
    if found.hours is None:
        return ""
    trained = plural(found.trainings, "training run")
    told = f"{duration(3600 * found.hours)} of optimizer steps in {trained}, excluding validation and scoring"
    tune = report.info.plan.tune if report.info.plan is not None else None
    return told if tune is None else f"{told}, and tuning ({tune.trials} trials per cell)"


def varied(report: AnalysisReport) -> tuple[list[str], list[str]]:
    """The sources of variation that vary between the runs of a cell, and the fixed ones; empty if unknown.

    At one seed, all cells share each source (Bouthillier et al. 2021, arXiv 2103.03098).
    """
    plan = report.info.plan
    if plan is None or plan.program.imported:
        return [], []
    recipes = [cell.config.recipe for cell in plan.networks]
    if not recipes:
        return ["whatever the command derives from it"], ["the test files"]
    same_start = plan.start_from not in (None, "best", "latest")
    sources = {
        "initialisation": not same_start,
        "order of the files": True,
        "crops": True,
        "augmentation": any((r.remix, r.reverb, r.gain, r.band_mask) != (0, 0, 0, 0) for r in recipes),
        "the validation split (recipe.split=seed varies it)": False,
    }
    if any(recipe.split == "seed" for recipe in recipes):
        sources.popitem()
        sources["the validation split"] = True
    fixed = [name for name, does in sources.items() if not does and name != "augmentation"]
    return [name for name, does in sources.items() if does], [*fixed, "the test files"]


def _recipe(report: AnalysisReport) -> str:
    assert report.info.plan is not None
    recipes = [cell.config.recipe for cell in report.info.plan.networks]
    parts = [report.info.plan.recipe]
    for key, unit in (("steps", "steps"), ("batch_size", "per batch"), ("crop_seconds", "s crops")):
        values = sorted({value for recipe in recipes if (value := getattr(recipe, key)) is not None})
        if values:
            parts.append(f"{' or '.join(f'{v:,}' for v in values)} {unit}")
    widths = sorted({recipe.width for recipe in recipes} - {1.0})
    if widths:
        parts.append(f"networks scaled to {widths[0]:g} of their width")
    return ", ".join(filter(None, parts))


def _own(train: TrainingCommand) -> str:
    """The training command with its folder and code digest, or the source of imported results."""
    if train.imported:
        return f"elsewhere; imported from {train.imported}"
    code = f"code {train.digest[:12]}" + (f", commit {_short(train.commit)}" if train.commit else "")
    return f"{train.command} (in {train.folder}, {code})"


def _corpus(report: AnalysisReport) -> str:
    assert report.info.plan is not None
    corpus = report.info.plan.corpus
    if report.info.plan.program.imported:
        return "not known"
    files = f"{corpus.train:,} train / {corpus.validation:,} validation / {corpus.test:,} test files"
    return ", ".join([corpus.name, files, *(["DEMO CORPUS"] if corpus.is_demo else [])])


def _short(commit: Any) -> str:
    """A commit cut to 12 digits; a suffix such as `-dirty` stays."""
    name, dash, rest = str(commit).partition("-")
    return name[:12] + dash + rest


def warnings(report: AnalysisReport) -> list[str]:
    """Warnings to show before the numbers."""
    plan = report.info.plan
    lines = [DEMO_WARNING] if report.info.is_demo else []
    if plan is not None and plan.audit.skipped:
        lines.append("The audit was skipped: it is not checked that the factors do what they declare.")
    if imported := sum(run.imported for run in report.info.every_run):
        of = plural(len(report.info.every_run), "run")
        lines.append(f"{imported} of {of} were imported: their scores were not measured here.")
    if plan is not None and plan.audit.waived:
        lines.append(f"Audit findings were waived: {', '.join(plan.audit.waived)}.")
    lines += [
        f"A204 reaches-nothing: {name}: {why}. It gets no verdict."
        for name, why in report.analysis.void.items()
    ]
    if report.seeds[1] < 2:
        lines.append("Only one seed per cell: run-to-run variance is unknown, so no interval can be given.")
    return [*changes(plan), *lines, *mixture_lines(report), *run_warnings(report)]


def run_problems(report: AnalysisReport) -> list[str]:
    """Runs without scores, at every step budget, and the divergence rate of each cell with diverged runs."""
    lines = []
    others = {f" at {fraction:g}": found.runs for fraction, found in report.info.step_fractions.items()}
    others |= {f" on {name}": runs for name, runs in report.info.not_evaluated.items()}
    for fraction, runs in {"": report.info.runs, **others}.items():
        for run in runs:
            if run.curve_problem and not fraction:
                lines.append(f"{run.cell}, seed {run.seed}: no curve: {run.curve_problem}")
            if not run.scored:
                cause = f" ({run.cause})" if run.cause else ""
                at = f" at step {run.step:,}" if run.step else ""
                unscored = {None: "done but not scored", SAME: "done, left out"}
                state = unscored.get(run.cause, "done, evaluation failed")
                state = state if run.state == "done" else run.state
                lines.append(f"{run.cell}, seed {run.seed}{fraction}: {state}{at}{cause}")
    for row in report.analysis.divergence.to_dict("records"):
        if row["diverged"]:
            lines.append(
                f"{row['cell']}: {row['diverged']} of {row['runs']} diverged, rate {row['rate']:.2f} "
                f"(exact {report.percent} interval {row['low']:.2f} to {row['high']:.2f})"
            )
    return lines


def untoggled(report: AnalysisReport) -> list[Difference]:
    """Differences between the all-on cell (`a`) and the baseline (`b`), except consequences of others."""
    plan, cells = report.info.plan, report.info.cells
    tops = {factor: levels[-1] for factor, levels in report.analysis.levels.items()}
    on = next((cell for cell in cells.values() if cell.levels and cell.levels == tops), None)
    if plan is None or on is None or report.analysis.baseline not in cells:
        return []
    found = differences(on.config, cells[report.analysis.baseline].config, plan.factors)
    return sorted((d for d in found if d.group != "consequence"), key=lambda d: d.path)


def untoggled_line(report: AnalysisReport) -> str:
    """`untoggled` as a sentence, or empty."""
    parts = [f"{d.path.removeprefix('model.')} {text(d.a)} instead of {text(d.b)}" for d in untoggled(report)]
    if not parts:
        return ""
    return (
        ("Differences between all-on and the baseline without a factor (together 'unexplained'): ")
        + "; ".join(parts)
        + ". To split it, add them to the grid."
    )


def notes(report: AnalysisReport) -> list[str]:
    """Notes under the tables: what the intervals mean and what they cannot show."""
    analysis = report.analysis
    notes = list(analysis.notes)
    if report.direction < 0:
        notes.insert(0, f"Lower {in_words(analysis.metric)} is better: a positive effect is a loss.")
    if not any("other training runs" in note for note in notes) and report.seeds[1] > 1:
        notes.insert(0, SPEAKS_OF)
    if looked := int(analysis.effects["p_headline"].notna().sum()):
        notes.append(
            f"The first sentence uses Holm's procedure over {plural(looked, 'effect')} (gap and remainder "
            f"included) at {100 * (1 - analysis.confidence):.0f} %; intervals in tables are not corrected."
        )
    lost = [item for item in analysis.not_estimable if item.missing]
    if lost and not any("not estimable" in note.lower() for note in notes):
        names = dict.fromkeys(f"{item.kind} {item.name}" for item in lost if item.kind != "simple")
        missing = dict.fromkeys(cell for item in lost for cell in item.missing)
        notes.append(
            f"Not estimable: {', '.join(names) or 'some simple effects'}; "
            f"without scores: {', '.join(missing)}."
        )
    for name, others in analysis.aliases.items():
        if others:
            notes.append(f"{name} is aliased with {', '.join(others)}.")
    changed = [name for name, change in report.parameter_text.items() if change]
    if changed:
        notes.append(
            f"These factors also change the parameter count: {', '.join(changed)}. Effects include that "
            "of size."
        )
    if report.test_sets and len(analysis.guardrails):
        notes.append(f"Guardrail metrics are evaluated only on the first test set, {report.test_name}.")
    notes += lines_of_test_sets(report.test_name, report.test_sets)
    if report.in_vain:
        notes.append(f"--claims {report.in_vain}: no claims about these factors in {report.metric}.")
    notes += claim_lines(report.judged, of_a_study=report.info.plan is not None)
    notes += slope_lines(report.slopes, report.percent, bool(report.by_step_budget))
    notes += step_budget_lines(report.by_step_budget, report.percent)
    notes += agreement_lines(report.agreement, analysis.metric, chosen=_validation_chose(report.info.plan))
    notes += price_lines(price(report.info.runs, analysis.metric, report.direction), analysis.metric)
    return [*notes, *_tuning(report), *_looks(report)]


def _validation_chose(plan: Plan | None) -> bool:
    """Whether settings or weights were chosen by validation."""
    if plan is None:
        return False
    return plan.tune is not None or any(c.config.recipe.selection == "best" for c in plan.networks)


def _tuning(report: AnalysisReport) -> list[str]:
    plan = report.info.plan
    if plan is None or plan.program.imported:
        return []
    if plan.train is not None:
        return [
            "ablate did not tune the cells. It does not know what the command does beyond its overrides "
            "(steps, learning rate, selection)."
        ]
    if plan.tune is None:
        return [
            "Every cell was trained with the same settings and none was tuned, so the learning rate may "
            "suit some variants better than others."
        ]
    found = [
        f"{cell.name} {', '.join(f'{path} {value:.3g}' for path, value in cell.tuned.items())}"
        for cell in plan.cells
        if cell.tuned
    ]
    return [
        f"Every cell was tuned with {plan.tune.trials} trials on validation, with separate seeds: "
        f"{'; '.join(found)}."
    ]


def _looks(report: AnalysisReport) -> list[str]:
    looks = report.info.plan.looks if report.info.plan is not None else ()
    if not looks:
        return []
    seen = ", ".join(
        f"{look.trainings} runs: {look.half_width:.3f}" for look in looks if look.half_width is not None
    )
    return [
        (
            f"Runs were added until every half-width was at most {looks[-1].wanted}; the widest at each "
            f"interim look: {seen}."
        )
    ]


def audit_lines(report: AnalysisReport, remedies: bool = False) -> list[str]:
    """A line for each finding of the audit; waived ones are marked."""
    if report.info.plan is None:
        return []
    audit = report.info.plan.audit
    return [
        f"{found['code']} {found['severity']}{' (waived)' if found['code'] in audit.waived else ''}: "
        f"{found['where']}: {found['evidence']}"
        + (f" -> {remedy}" if remedies and (remedy := found.get("remedy")) else "")
        for found in audit.findings
    ]
