"""What every form of a report says, worked out once: rows of text, facts, warnings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

import pandas as pd

from ..collect import METRICS, StudyInfo
from ..convergence import Convergence, Curve, convergence, curves
from ..cost import Cost, ParetoPoint, costs, parameter_changes, pareto

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis

    from ..figures import Figure

METRIC_LABELS = dict(
    zip(
        METRICS,
        ("PESQ-WB", "PESQ-NB", "STOI", "ESTOI", "CSIG", "CBAK", "COVL", "SSNR (dB)", "SI-SDR (dB)"),
        strict=True,
    )
)
CREDIT = {
    "shapley": "Shapley value",
    "main": "main effect",
    "one-in": "one-in effect",
    "one-out": "one-out effect",
}
DEMO = (
    "DEMO CORPUS: synthetic speech for trying the harness. These numbers say nothing about real recordings."
)
SPEAKS_OF = (
    "An interval speaks of other trainings and other utterances of these test speakers and noises, "
    "not of other speakers, noises or recipes."
)
ENDPOINT = "the checkpoint selected on validation files, scored once on the test files"


@dataclass(frozen=True)
class EffectRow:
    """One line of the main table; every field is ready to print, `data` is the row of the effects."""

    name: str
    kind: str
    estimate: str
    interval: str
    claimed: str
    verdict: str
    one_in: str
    one_out: str
    parameters: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class AnalysisReport:
    """An analysis with what is known of its study: all that a form needs."""

    analysis: Analysis
    info: StudyInfo
    scores: pd.DataFrame

    @property
    def metric(self) -> str:
        return METRIC_LABELS.get(self.analysis.metric, self.analysis.metric)

    @property
    def title(self) -> str:
        return f"{self.info.name}: where the {self.metric} goes"

    @property
    def percent(self) -> str:
        return f"{100 * self.analysis.confidence:g} %"

    @cached_property
    def base_name(self) -> str:
        return str(self.info.plan.get("base") or self.analysis.base_cell or "base")

    @cached_property
    def baseline_name(self) -> str | None:
        return self.info.plan.get("baseline") or self.analysis.baseline

    # ------------------------------------------------------------------------------- the main table

    @property
    def credit_kind(self) -> str:
        kinds = list(self._credit["kind"])
        return CREDIT[str(kinds[0])] if kinds else "main effect"

    @cached_property
    def _credit(self) -> pd.DataFrame:
        """Shapley values, else main effects, else what the cells at hand still give."""
        choices = (self.analysis.credit, self.analysis.kind("one-in"), self.analysis.kind("one-out"))
        return next((rows for rows in choices if len(rows)), choices[0])

    @cached_property
    def gap(self) -> EffectRow | None:
        return self._single("gap")

    @cached_property
    def not_toggled(self) -> EffectRow | None:
        return self._single("not-toggled")

    def _single(self, kind: str) -> EffectRow | None:
        rows = self.analysis.kind(kind)
        return self._row(records(rows)[0]) if len(rows) else None

    @cached_property
    def factors(self) -> list[EffectRow]:
        """A row per factor (per level for factors of several levels), in the order of the grid."""
        credit = [self._row(r) for r in records(self._credit)]
        have = {row.name for row in credit}
        others = [row for row in self.mains if row.name not in have]
        return credit + [replace(row, name=f"{row.name} (main effect)") for row in others]

    @cached_property
    def mains(self) -> list[EffectRow]:
        return [self._row(r) for r in records(self.analysis.kind("main"))]

    @cached_property
    def interactions(self) -> list[EffectRow]:
        return [self._row(r) for r in records(self.analysis.kind("interaction"))]

    def _row(self, data: Mapping[str, Any]) -> EffectRow:
        name, kind = str(data["name"]), str(data["kind"])
        low, high = data.get("claim_low"), data.get("claim_high")
        return EffectRow(
            name=name,
            kind=kind,
            estimate=signed(data["estimate"]),
            interval=interval(data["low"], data["high"]),
            claimed=f"{signed(low, 2)} to {signed(high, 2)}" if known(low) and known(high) else "",
            verdict=_verdict(data),
            one_in=self._beside("one-in", name),
            one_out=self._beside("one-out", name),
            parameters=self.parameter_text.get(name.split("=")[0], "")
            if kind in ("shapley", "main", "one-in", "one-out")
            else "",
            data=data,
        )

    def _beside(self, kind: str, name: str) -> str:
        rows = self.analysis.kind(kind)
        rows = rows[rows["name"] == name]
        return signed(rows["estimate"].iloc[0]) if len(rows) else ""

    @cached_property
    def parameter_text(self) -> dict[str, str]:
        """By factor, how switching it on changes the parameter count; empty where it does not."""
        texts = {}
        for name, change in parameter_changes(self.info).items():
            if change is None or change == (0, 0):
                texts[name] = ""
            elif change[0] == change[1]:
                texts[name] = f"{change[0]:+,}"
            else:
                texts[name] = f"{change[0]:+,} to {change[1]:+,}"
        return texts

    @property
    def headline(self) -> str:
        gap = self.gap
        if gap is None:
            return f"{self.metric}: no baseline is named or it has no scores, so there is no gap to explain."
        if gap.interval == "":
            spread = "no interval"
        else:
            spread = f"{self.percent} interval {gap.interval}"
        count = plural(self.analysis.utterances, "test utterance")
        return (
            f"Gap {self.baseline_name} - {self.base_name}: {gap.estimate} {self.metric} ({spread}), "
            f"{plural(len(self.analysis.seeds), 'seed')}, {count}"
        )

    @cached_property
    def sum_line(self) -> str:
        if self.credit_kind != "Shapley value" or self.gap is None or self.not_toggled is None:
            return ""
        return "The Shapley values and 'not toggled' add up to the gap."

    # ------------------------------------------------------------------------- under what conditions

    @cached_property
    def measured_at(self) -> list[tuple[str, str]]:
        """Facts that bound what the numbers mean: sizes, steps, seeds, corpus, endpoint."""
        info, plan = self.info, self.info.plan
        facts: list[tuple[str, str]] = []
        sizes = {name: int(cell["parameters"]) for name, cell in info.cells.items() if cell.get("parameters")}
        if plan:
            base = sizes.get(str(self.analysis.base_cell))
            facts.append(("base", self.base_name + (f", {base:,} parameters as trained" if base else "")))
            reference = sizes.get(str(self.analysis.baseline))
            if self.baseline_name:
                text = f", {reference:,} parameters as trained" if reference else ""
                facts.append(("baseline", f"{self.baseline_name}{text}"))
            facts.append(("recipe", self._recipe()))
            facts.append(("corpus", self._corpus()))
            facts.append(("endpoint", f"{self.metric}; {ENDPOINT}"))
        facts.append(
            ("design", f"{self.analysis.design}, {plural(len(self.analysis.cells), 'cell')} with scores")
        )
        seeds = ", ".join(str(seed) for seed in self.analysis.seeds)
        facts.append(("seeds", f"{seeds} ({self.run_counts})"))
        if (margin := self.analysis.margin) is not None:
            facts.append(("margin", f"{margin:g} {self.metric}: smaller effects are negligible"))
        machines = Counter(str(run.summary["machine"]) for run in info.runs if run.summary.get("machine"))
        if machines:
            facts.append(("machine", "; ".join(machines)))
        elif plan.get("machine"):
            facts.append(("machine", str(plan["machine"])))
        commits = {_short(run.summary["git_commit"]) for run in info.runs if run.summary.get("git_commit")}
        if commits:
            facts.append(("commit of ablate", ", ".join(sorted(commits))))
        if plan.get("git_commit"):
            facts.append(("commit of the folder", _short(plan["git_commit"])))
        facts.append(("scores from", info.source))
        return facts

    def _recipe(self) -> str:
        recipes = [
            cell["config"].get("recipe", {}) for cell in self.info.cells.values() if cell.get("config")
        ]
        parts = [str(self.info.plan.get("recipe", ""))]
        for key, unit in (("steps", "steps"), ("batch_size", "per batch"), ("crop_seconds", "s crops")):
            values = sorted({r[key] for r in recipes if r.get(key) is not None})
            if values:
                parts.append(f"{' or '.join(f'{v:,}' for v in values)} {unit}")
        widths = sorted({r["width"] for r in recipes if r.get("width")} - {1})
        if widths:
            parts.append(f"networks shrunk to {widths[0]:g} of their width")
        return ", ".join(filter(None, parts))

    def _corpus(self) -> str:
        corpus = self.info.corpus
        parts = [str(corpus.get("name", "unknown"))]
        counts = [f"{corpus[key]:,} {key}" for key in ("train", "validation", "test") if key in corpus]
        if counts:
            parts.append(" / ".join(counts) + " files")
        if self.info.is_demo:
            parts.append("DEMO CORPUS")
        return ", ".join(parts)

    @cached_property
    def warnings(self) -> list[str]:
        """What must stand in plain sight before the numbers."""
        lines = [DEMO] if self.info.is_demo else []
        audit = self.info.plan.get("audit") or {}
        if audit.get("skipped"):
            lines.append("The audit was skipped: nothing checked that the factors do what they declare.")
        if audit.get("waived"):
            lines.append(f"Audit findings were waived: {', '.join(audit['waived'])}.")
        if len(self.analysis.seeds) < 2:
            lines.append(
                "One seed: no interval can be given, for nothing tells an effect from the luck of a training."
            )
        return lines

    @cached_property
    def run_counts(self) -> str:
        total = len(self.info.runs)
        scored = sum(run.scored for run in self.info.runs)
        return f"{scored} of {plural(total, 'run')} scored"

    @cached_property
    def run_problems(self) -> list[str]:
        """Runs without scores, and the divergence rate of each cell that diverged."""
        lines = []
        for run in self.info.runs:
            if not run.scored:
                cause = f" ({run.cause})" if run.cause else ""
                at = f" at step {run.step:,}" if run.step else ""
                state = "done but not scored" if run.state == "done" else run.state
                lines.append(f"{run.cell}, seed {run.seed}: {state}{at}{cause}")
        for row in records(self.analysis.divergence):
            if row["diverged"]:
                lines.append(
                    f"{row['cell']}: {row['diverged']} of {row['runs']} diverged, rate "
                    f"{row['rate']:.2f} (exact {self.percent} interval {row['low']:.2f} to {row['high']:.2f})"
                )
        return lines

    @cached_property
    def untoggled(self) -> list[tuple[str, str, str]]:
        """Settings in which the baseline differs from the all-on cell: (path, all-on, baseline)."""
        tops = {f: levels[-1] for f, levels in self.analysis.levels.items()}
        on = next((c for c in self.info.cells.values() if c["levels"] and dict(c["levels"]) == tops), None)
        reference = self.info.cells.get(str(self.analysis.baseline))
        if not on or not reference:
            return []
        left, right = flatten(on.get("config") or {}), flatten(reference.get("config") or {})
        return [
            (path, text(left.get(path)), text(right.get(path)))
            for path in sorted({*left, *right})
            if left.get(path) != right.get(path)
        ]

    @cached_property
    def untoggled_line(self) -> str:
        if not self.untoggled:
            return ""
        parts = [f"{path.removeprefix('model.')} {a} against {b}" for path, a, b in self.untoggled]
        return (
            "Untoggled differences between all-on and the baseline (all of 'not toggled'): "
            + "; ".join(parts)
            + ". Add them to the grid to split it."
        )

    @cached_property
    def notes(self) -> list[str]:
        """Sentences under the tables: what the intervals mean and what cannot be said."""
        notes = list(self.analysis.notes)
        if not any("other trainings" in note for note in notes) and len(self.analysis.seeds) > 1:
            notes.insert(0, SPEAKS_OF)
        lost: Counter[str] = Counter()
        missing: dict[str, None] = {}
        for item in self.analysis.not_estimable:
            if item.missing:
                lost[f"{item.kind} {item.name}"] += 1
                missing.update(dict.fromkeys(item.missing))
        lost = Counter({name: n for name, n in lost.items() if not name.startswith("simple")})
        if missing and not any("not estimable" in note.lower() for note in notes):
            names = ", ".join(lost) or "some simple effects"
            notes.append(f"Not estimable: {names}; without scores: {', '.join(missing)}.")
        for name, others in self.analysis.aliases.items():
            if others:
                notes.append(f"{name} is mixed up with {', '.join(others)}.")
        changed = [name for name, change in self.parameter_text.items() if change]
        if changed:
            notes.append(
                f"These factors also change the parameter count: {', '.join(changed)}. "
                "Their effect is of the change as a whole, size included."
            )
        return [*notes, *self._tuning(), *self._looks()]

    def _tuning(self) -> list[str]:
        if not self.info.plan:
            return []
        tune = self.info.plan.get("tune")
        if not tune:
            return [
                "Every cell was trained with the same settings; none was tuned, so a variant may have "
                "suffered from a learning rate that suits another."
            ]
        found = [
            f"{cell['name']} {', '.join(f'{path} {value:.3g}' for path, value in cell['tuned'].items())}"
            for cell in self.info.plan["cells"]
            if cell.get("tuned")
        ]
        return [
            f"Every cell was tuned with {tune['trials']} trials on validation, at seeds of their own: "
            f"{'; '.join(found)}."
        ]

    def _looks(self) -> list[str]:
        looks = self.info.plan.get("looks") or []
        if not looks:
            return []
        seen = ", ".join(
            f"{look['seeds']} seeds: {look['half_width']:.3f}"
            for look in looks
            if look["half_width"] is not None
        )
        return [f"Seeds were added until half-widths of {looks[-1]['wanted']}; widest at each look: {seen}."]

    @cached_property
    def claim_sources(self) -> list[str]:
        sources = dict.fromkeys(c.source for c in self.analysis.claims.values() if c.source)
        return list(sources)

    @property
    def findings(self) -> list[Mapping[str, Any]]:
        audit = self.info.plan.get("audit") or {}
        return list(audit.get("findings") or [])

    @property
    def waived(self) -> set[str]:
        return set((self.info.plan.get("audit") or {}).get("waived") or [])

    # --------------------------------------------------------------------------------- other tables

    @cached_property
    def cell_scores(self) -> dict[str, float]:
        cells = self.analysis.cells
        return dict(zip(cells["cell"].astype(str), cells["mean"].astype(float), strict=True))

    @cached_property
    def costs(self) -> list[Cost]:
        return costs(self.info)

    @cached_property
    def convergence(self) -> list[Convergence]:
        return convergence(self.info)

    @cached_property
    def curves(self) -> list[Curve]:
        return curves(self.info)

    @cached_property
    def figures(self) -> list[Figure]:
        from ..figures import draw_all

        return draw_all(self)

    def pareto(self, against: str = "parameters") -> list[ParetoPoint]:
        return pareto(self.cell_scores, self.costs, against)

    def by(self, column: str) -> pd.DataFrame | None:
        """The analysis within each speaker, snr or noise; None where the scores do not say."""
        if column not in self.analysis.scores.utterance_info.columns:
            return None
        values = self.analysis.scores.utterance_info[column]
        return self.analysis.by(column) if values.notna().any() else None

    def short(self, cell: str) -> str:
        """A cell's name for a figure: the factors that are on, or base, or the baseline's name."""
        if cell == self.analysis.baseline:
            return self.baseline_name or cell
        levels = self.analysis.scores.cell_levels.get(cell) or dict(
            (self.info.cells.get(cell) or {}).get("levels") or {}
        )
        if not levels:
            return cell
        on = []
        for factor, level in levels.items():
            order = self.analysis.levels.get(factor, ())
            if order and level != order[0]:
                on.append(factor if len(order) == 2 else f"{factor}={level}")
        return " + ".join(on) if on else "base"


# ------------------------------------------------------------------------------------------ helpers


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _short(commit: Any) -> str:
    """A commit in 12 digits, with what follows its digits."""
    name, dash, rest = str(commit).partition("-")
    return name[:12] + dash + rest


def known(value: Any) -> TypeGuard[float]:
    return value is not None and not pd.isna(value) and math.isfinite(float(value))


def signed(value: Any, digits: int = 3) -> str:
    return f"{float(value):+.{digits}f}" if known(value) else ""


def interval(low: Any, high: Any, digits: int = 3) -> str:
    return f"[{signed(low, digits)}, {signed(high, digits)}]" if known(low) and known(high) else ""


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{part}.{name}": value
        for part, fields in config.items()
        if isinstance(fields, Mapping)
        for name, value in fields.items()
    }


def text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def human(value: float | None, kind: str) -> str:
    """A cost as a table prints it; `kind` is a key of `reports.cost.COSTS`."""
    if value is None:
        return ""
    if kind == "parameters":
        return f"{value:,.0f}"
    if kind == "peak_memory_bytes":
        return f"{value / 1e9:.2f} GB"
    if kind == "macs_per_second":
        return f"{value / 1e9:.2f} G"
    return f"{value:.3g}" + (" s" if kind == "seconds_per_step" else "")


def _verdict(data: Mapping[str, Any]) -> str:
    verdict = data.get("verdict")
    words = "" if verdict is None or verdict is pd.NA or verdict != verdict else str(verdict)
    seeds = data.get("seeds_needed")
    if "undecided" in words and known(seeds):
        words += f" (about {int(float(seeds))} seeds would decide)"
    return words


def table_rows(rows: Sequence[EffectRow]) -> list[list[str]]:
    """The main table's cells in the order of `table_head`."""
    return [
        [r.name, r.estimate, r.interval, r.claimed, r.verdict, r.one_in, r.one_out, r.parameters]
        for r in rows
    ]


def table_head(report: AnalysisReport) -> list[str]:
    return [
        "factor",
        report.credit_kind,
        f"{report.percent} interval",
        "claimed",
        "verdict",
        "one-in",
        "one-out",
        "parameters",
    ]
