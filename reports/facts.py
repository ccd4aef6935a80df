"""Sentences for the checklists, and the best system of a study."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ablate.models.errors import plural
from ablate.training.metrics.registry import CONVENTIONS, conventions_of, label_of

from . import caveats
from .formatting import human
from .model import AnalysisReport
from .run_warnings import broken_outputs

VOICEBANK_DOI = "10.7488/ds/2117"
"""DOI of "Noisy speech database for training speech enhancement algorithms and TTS models"
(VoiceBank+DEMAND)."""


def facts(report: AnalysisReport) -> dict[str, str]:
    """Topic -> sentence about the study; a sentence is empty if the answer is unknown."""
    found = _Facts(report)
    return {name: getattr(found, name) for name, value in vars(_Facts).items() if isinstance(value, property)}


def leader(report: AnalysisReport) -> dict[str, Any]:
    """The cell with the best expected rank (else the best mean), and its settings."""
    ranked = report.analysis.ranking
    best = max(report.cell_scores, key=lambda cell: report.direction * report.cell_scores[cell])
    cell = ranked[0].cell if ranked else best
    planned = report.info.cells.get(cell)
    ours = report.info.plan is not None and report.info.plan.train is None
    settings = planned.config.flat() if planned is not None and ours else {}
    on = {path.partition(".")[2]: value for path, value in settings.items() if path.startswith("recipe.")}
    return {
        "cell": cell,
        "parameters": planned.parameters if planned is not None else None,
        "settings": settings,
        "losses": [name.removesuffix("_weight") for name in on if name.endswith("_weight") and on[name]],
        "augmentation": [name for name in ("remix", "reverb", "gain", "band_mask") if on.get(name)],
    }


class _Facts:
    """A property for each topic's sentence, which is empty if the answer is unknown."""

    def __init__(self, report: AnalysisReport) -> None:
        self.report = report
        self.analysis = report.analysis
        self.plan = report.info.plan
        self.at = dict(caveats.measured_at(report))
        self.notes = caveats.notes(report)

    @property
    def verdicts(self) -> str:
        judged = [row for row in self.report.factors if row.claimed]
        told = "; ".join(
            f"{row.name} claimed {row.claimed}: {f'{row.estimate} {row.interval}'.strip()}, {row.verdict}"
            for row in judged
        )
        return f"In {self.report.metric}: {told}." if told else ""

    @property
    def limits(self) -> str:
        recipe = [f"Trained as: {self.at['recipe']}."] if "recipe" in self.at else []
        return " ".join([*caveats.warnings(self.report), *recipe, *self.notes])

    @property
    def population(self) -> str:
        return self.note("other training runs")

    @property
    def further(self) -> str:
        return " ".join(note for note in self.notes if note.startswith("On ") and ", compared with " in note)

    @property
    def heard(self) -> str:
        return "The only input of the network is the noisy recording." if self._is_ours else ""

    def note(self, words: str) -> str:
        """The first note that contains `words`; empty if there is none."""
        return next((note for note in self.notes if words in note), "")

    @property
    def commands(self) -> str:
        commands = self.plan.commands if self.plan else ()
        return f"Commands: {'; '.join(f'`{command}`' for command in commands)}." if commands else ""

    @property
    def archive(self) -> str:
        if self.plan is None:
            return ""
        return f"`ablate export {self.plan.name}` puts plan, scores, commands and versions into one file."

    @property
    def settings(self) -> str:
        parts = [f"{key}: {self.at[key]}" for key in ("recipe", "corpus", "design") if key in self.at]
        every = " The plan (`plan.json`) has every field of every cell." if self.plan else ""
        return f"{'; '.join(parts)}.{every}"

    @property
    def tuning(self) -> str:
        return self.note("Every cell was t")

    @property
    def uncertainty(self) -> str:
        if self.report.seeds[1] < 2:
            return "Only one seed per cell: run-to-run variance is unknown, so no interval can be given."
        told, fixed = caveats.varied(self.report)
        varied = f"Varied with the seed: {', '.join(told)}. Not varied: {', '.join(fixed)}." if told else ""
        return (
            f"{varied} Sampled: test utterances. Error bars are intervals, "
            f"{caveats.intervals(self.report)}; {self.report.seed_count}, "
            f"{plural(self.analysis.utterances, 'test utterance')}. Tables of cells show the SD over "
            "seeds. Assumptions: runs are independent and their means roughly normal; utterances "
            "represent others of these speakers and noises; variances are not pooled over cells."
        )

    @property
    def compute(self) -> str:
        hours = [f"{self.at['compute']}."] if "compute" in self.at else []
        memory = [cost.peak_memory_bytes for cost in self.report.costs if cost.peak_memory_bytes is not None]
        most = [f"At most {human(max(memory), 'peak_memory_bytes')} of memory."] if memory else []
        return " ".join([*hours, *most, *filter(None, [self.machines])])

    @property
    def machines(self) -> str:
        devices = sorted({device for cost in self.report.costs for device in cost.devices})
        parts = [*filter(None, [self.at.get("machine", "")]), *devices]
        return f"{'; '.join(parts)}." if parts else ""

    @property
    def data(self) -> str:
        if self.plan is None:
            return f"Scores from {self.report.info.source}."
        corpus = self.plan.corpus
        named = (
            f" Named and counted like VoiceBank+DEMAND (DOI {VOICEBANK_DOI})."
            if corpus.kind == "voicebank+demand"
            else ""
        )
        further = "".join(
            f" Test set {test.name}: digest {test.digest[:16]}." for test in self.plan.extra_test_sets
        )
        return (
            f"{self.at['corpus']}; digest of train and validation {corpus.digest[:16]}, of test "
            f"{corpus.test_digest[:16]} (sha256 of names and 16 kHz contents).{named}{further}"
        )

    @property
    def code(self) -> str:
        keys = ("commit of ablate", "commit of the folder")
        parts = [f"{key} {self.at[key]}" for key in keys if key in self.at]
        if self.plan is not None:
            parts += [f"{package} {version}" for package, version in self.plan.versions.items()]
            parts += [
                f"plug-in {path} {(digest or 'of unrecorded code')[:16]}"
                for path, digest in self.plan.plugins.items()
            ]
        return f"{', '.join(parts)}." if parts else ""

    @property
    def outcome(self) -> str:
        cells = self.analysis.cells
        low, high = cells["mean"].min(), cells["mean"].max()
        over = plural(len(cells), "cell")
        return f"{self.report.metric}, mean over test utterances: {low:.3f} to {high:.3f} over {over}."

    @property
    def sample(self) -> str:
        files = f"{self.at['corpus']}; " if "corpus" in self.at else ""
        return f"{files}{self.analysis.utterances:,} test utterances in every run; seeds {self.at['seeds']}."

    @property
    def missing(self) -> str:
        broken = sum(broken_outputs(self.report).values())
        parts = [note for note in self.notes if "left out" in note]
        parts += [f"{line}." for line in caveats.run_problems(self.report)]
        parts += (
            [f"{broken:,} outputs could not be scored and count as the metric's floor."] if broken else []
        )
        return " ".join(parts) or "None: every run is scored on every test utterance."

    @property
    def transformations(self) -> str:
        notes = [f"{note}." for note in self.plan.corpus.notes] if self.plan else []
        return " ".join([*(["All audio at 16 kHz, one channel."] if self._is_ours else []), *notes])

    @cached_property
    def _is_ours(self) -> bool:
        """Whether the built-in trainer trained the runs."""
        return self.plan is not None and self.plan.train is None

    @property
    def models(self) -> str:
        parts = [f"{role}: {self.at[role]}" for role in ("base", "baseline") if role in self.at]
        levels = [f"{name} ({', '.join(levels)})" for name, levels in self.analysis.levels.items()]
        equal = [
            line.partition(": ")[2] for line in caveats.audit_lines(self.report) if line.startswith("A303")
        ]
        return f"{'; '.join([*parts, 'factors: ' + ', '.join(levels), *equal])}."

    @property
    def leaks(self) -> str:
        if self.plan is None or self.plan.audit.skipped:
            return ""
        found = [line for line in caveats.audit_lines(self.report) if line.startswith("A501")]
        return (
            "; ".join(found)
            or "The audit compared files by content, and speakers by file name: none is shared."
        )

    @property
    def metrics(self) -> str:
        names = [self.analysis.metric, *dict.fromkeys(self.analysis.guardrails["metric"])]
        guardrails = f"; guardrail metrics: {', '.join(map(label_of, names[1:]))}" if len(names) > 1 else ""
        margin = f" Margin: {self.at['margin']}."
        said = "".join(f" {CONVENTIONS[known]}." for known in conventions_of(names))
        return f"{self.report.metric}{guardrails}.{margin}{said}"

    @property
    def tests(self) -> str:
        family = len(self.report.mains) + sum(item.kind == "main" for item in self.analysis.not_estimable)
        if self.report.seeds[1] < 2:
            return "None: one seed."
        corrected = (
            f" p-values of the {plural(family, 'main effect')} are corrected by Holm's procedure."
            if family
            else ""
        )
        return (
            "Two-sided t-tests with Satterthwaite's degrees of freedom; negligible: two one-sided tests "
            f"at the margin.{corrected} Guardrail metrics, extra test sets and subsets are not corrected."
        )
