"""What the reporting checklists ask of an ablation, filled from the study; what it cannot know is a gap.

The items, in our words, are those of the NeurIPS paper checklist of 2024
(neurips.cc/public/guides/PaperChecklist) and of REFORMS (Kapoor et al. 2024, Science Advances 10(18),
eadk3452, table 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ablate.models.errors import plural
from ablate.training.metrics.registry import CONVENTIONS, conventions_of, label_of

from . import caveats
from .blocks import Block, BulletList, Sentence
from .cost import compute
from .formatting import human
from .model import AnalysisReport

COMMANDS = "the commands that made the study"
VOICEBANK_DOI = "10.7488/ds/2117"
"""Of "Noisy speech database for training speech enhancement algorithms and TTS models" (VoiceBank+DEMAND)."""


@dataclass(frozen=True)
class Item:
    """One item: what it asks, what the study answers, and what is left to its authors (or empty)."""

    number: str
    asks: str
    answer: str
    gap: str = ""


def checklists(report: AnalysisReport) -> dict[str, list[Item]]:
    """The items of each checklist."""
    facts = _Facts(report)
    return {"NeurIPS paper checklist": list(_neurips(facts)), "REFORMS": list(_reforms(facts))}


def checklist_title(report: AnalysisReport) -> str:
    return f"{report.info.name}: checklists"


def checklist_blocks(report: AnalysisReport) -> Iterator[Block]:
    """A list for each checklist; `GAP` marks what its authors have to add."""
    found = checklists(report)
    gaps = sum(bool(item.gap) for items in found.values() for item in items)
    yield Sentence(f"Filled from the study. **GAP** marks the {gaps} items that need something from you.")
    for title, items in found.items():
        told = {
            item: " ".join(filter(None, (item.answer, item.gap and f"**GAP**: {item.gap}.")))
            for item in items
        }
        yield BulletList(title, [f"**{item.number}** {item.asks}: {told[item]}" for item in items])


def _item(
    number: str, asks: str, answer: str, gap: str = "", otherwise: str = "the study does not tell"
) -> Item:
    """An item with a gap, or with `otherwise` as its gap where there is no answer."""
    return Item(number, asks, answer, gap or ("" if answer else otherwise))


def _neurips(facts: _Facts) -> Iterator[Item]:
    report = facts.report
    stated = "no claim is stated; --claim FACTOR=LOW..HIGH has it judged"
    timed = compute(report.info).hours is not None
    hours = "what preliminary and discarded runs took" if timed else "hours of training: none were recorded"
    yield _item("1", "claims match the results", facts.verdicts, otherwise=stated)
    yield _item("2", "limitations", facts.limits)
    yield _item("3", "theory", "None: the study is empirical.")
    yield _item("4", "results can be reproduced", facts.commands, otherwise=COMMANDS)
    archive = "where code, data and the exported study are to be had"
    yield _item("5", "data and code are open", facts.archive, archive)
    yield _item("6", "settings of the experiments", f"{facts.settings} {facts.tuning}".strip())
    yield _item("7", "error bars: what varied, how they are made, on what assumptions", facts.uncertainty)
    yield _item("8", "compute: hardware, memory, time", facts.compute, hours)
    yield _item(
        "9-11, 13-16", "ethics, impact, safeguards, assets, people, use of language models", "", "yours"
    )
    yield _item("12", "licences and credit", "", "the licence of the corpus, and whom to cite for it")


def _reforms(facts: _Facts) -> Iterator[Item]:
    plan, at = facts.plan, facts.at
    named = plan is not None and plan.corpus.kind == "voicebank+demand"
    mine = "whether that is the one you mean"
    yield _item("1a", "the population the claim is about", facts.note("other trainings"), mine)
    yield _item("1b-1c", "why this population, and why learning", "", "yours")
    yield _item("2a", "the data, with an identifier", facts.data, "" if named else "a link or DOI")
    version = "" if "commit of ablate" in at else "a commit, and a link"
    yield _item("2b", "the code and its version", facts.code, version)
    yield _item("2c", "the machines", facts.machines, otherwise="the machines it ran on")
    script = "a README and a script that reproduce the results"
    yield _item("2d-2e", script, facts.commands, otherwise=COMMANDS)
    yield _item("3a-3c, 3g", "where the data come from, and whom they stand for", "", "yours")
    yield _item("3d", "the outcome, described", facts.outcome)
    yield _item("3e", "sample size", facts.sample)
    yield _item("3f", "missing data", facts.missing)
    yield _item("4a-4b", "what was left out, and corrupt samples", facts.missing)
    yield _item("4c", "transformations of the data", facts.transformations)
    yield _item("5a", "the models", facts.models)
    yield _item("5b, 5f", "why these models and this baseline", "", "yours")
    yield _item("5c-5d", "how models are evaluated and selected", at.get("endpoint", ""))
    yield _item("5e", "hyperparameters", facts.tuning, otherwise="how they were chosen")
    unaudited = "whether test files or speakers are in train: no audit was run"
    yield _item(
        "6a-6b", "no leak from test to train, by files or by speakers", facts.leaks, otherwise=unaudited
    )
    heard = "The network hears the noisy recording alone." if facts.is_ours else ""
    yield _item("6c", "inputs are legitimate", heard)
    yield _item("7a", "the metrics", facts.metrics)
    yield _item("7b", "uncertainty", facts.uncertainty)
    yield _item("7c", "tests", facts.tests)
    further = " ".join(note for note in facts.notes if note.startswith("On ") and " beside " in note)
    alone = "one test corpus: --test-data A --test-data B scores every training on more"
    empty = "there are no effects on the further test corpora: see the notes"
    beyond = empty if facts.report.corpora else alone
    yield _item("8a", "evidence beyond this test set", further, otherwise=beyond)
    yield _item("8b", "where the findings do not hold", facts.limits)


class _Facts:
    """Sentences on a study; empty where it does not know."""

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

    def note(self, words: str) -> str:
        """The first note that has some words; empty where none has."""
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
        every = " Every field of every cell stands in the plan (`plan.json`)." if self.plan else ""
        return f"{'; '.join(parts)}.{every}"

    @property
    def tuning(self) -> str:
        return self.note("Every cell was t")

    @property
    def uncertainty(self) -> str:
        if self.report.seeds[1] < 2:
            return "One seed: there are no intervals, as nothing tells an effect from the luck of a training."
        told, fixed = caveats.varied(self.report)
        varied = f"Varied with the seed: {', '.join(told)}. Not varied: {', '.join(fixed)}." if told else ""
        return (
            f"{varied} Sampled: test utterances. Error bars are intervals, "
            f"{caveats.intervals(self.report)}; {self.report.seed_count}, "
            f"{plural(self.analysis.utterances, 'test utterance')}. Beside cells stands the SD over seeds. "
            "Assumed: trainings are independent and their means roughly normal; utterances stand for others "
            "of these speakers and noises; no variance is pooled over cells."
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
            f" Test corpus {test.name}: digest {test.digest[:16]}." for test in self.plan.further_tests
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
        broken = sum(caveats.broken_outputs(self.report).values())
        parts = [note for note in self.notes if "left out" in note]
        parts += [f"{line}." for line in caveats.run_problems(self.report)]
        parts += (
            [f"{broken:,} outputs could not be measured and count as the metric's floor."] if broken else []
        )
        return " ".join(parts) or "None: every run is scored on every test utterance."

    @property
    def transformations(self) -> str:
        notes = [f"{note}." for note in self.plan.corpus.notes] if self.plan else []
        return " ".join([*(["All audio at 16 kHz, one channel."] if self.is_ours else []), *notes])

    @property
    def is_ours(self) -> bool:
        """Whether the trainings were this project's own, not a user's command or elsewhere."""
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
            or "The audit compared files by content, and speakers where names tell them: none is shared."
        )

    @property
    def metrics(self) -> str:
        names = [self.analysis.metric, *dict.fromkeys(self.analysis.guards["metric"])]
        guards = f"; beside it {', '.join(map(label_of, names[1:]))}" if len(names) > 1 else ""
        margin = f" Margin: {self.at['margin']}."
        said = "".join(f" {CONVENTIONS[known]}." for known in conventions_of(names))
        return f"{self.report.metric}{guards}.{margin}{said}"

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
            f"Two-sided t-tests with Satterthwaite's degrees of freedom; negligible: two one-sided tests at "
            f"the margin.{corrected} Guards, further test corpora and conditions are outside that family."
        )
