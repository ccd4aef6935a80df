"""Synthetic studies on disk, with planted effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from ablate.ablations.claims import Claim
from ablate.ablations.factors import Factor, find
from ablate.reports.build import report_of_study
from ablate.reports.model import AnalysisReport
from ablate.studies.plan import AuditRecord, Plan, save
from ablate.training.rundir import RunDir

PLANTED = {"bidirectional": 0.12, "decoder4x": 0.01, "crossband": 0.20}
CLAIMS = {
    "bidirectional": {"low": 0.2, "high": 0.3, "source": "report"},
    "decoder4x": {"low": 0.1, "high": 0.2, "source": "report"},
    "crossband": {"low": 0.05, "high": 0.1, "source": "report"},
}
LEVELS = {
    "bidirectional": {"off": {"model.direction": "uni"}, "on": {"model.direction": "bi"}},
    "decoder4x": {"off": {"model.decoder_expansion": 2}, "on": {"model.decoder_expansion": 4}},
    "crossband": {"pointwise": {"model.crossband": "pointwise"}, "bilstm": {"model.crossband": "bilstm"}},
}
NOT_TOGGLED = 0.08
FOLDER = {"name": "recordings", "kind": "folder"}
PARAMETERS = {"bidirectional": 360448, "decoder4x": 1813248, "crossband": 839424}


def write_study(
    make_plan: Callable[..., Plan],
    root: Path,
    name: str = "planted",
    factors: Sequence[str] = tuple(PLANTED),
    seeds: int = 3,
    utterances: int = 24,
    seed_sd: float = 0.02,
    diverged: Sequence[tuple[str, int]] = (),
    missing: Sequence[tuple[str, int]] = (),
    audio: bool = False,
    is_demo: bool = False,
    findings: Sequence[dict] = (),
    **fields: Any,
) -> Path:
    """Write a plan and one run directory for each cell and seed; returns the root."""
    rng = np.random.default_rng(5)
    names = [f"p{232 if i % 2 else 257}_{i:03d}" for i in range(utterances)]
    utterance_effect = rng.normal(0, 0.15, utterances)
    plan = make_plan(
        ",".join(factors),
        tuple(range(1, seeds + 1)),
        name=name,
        steps=60,
        factors=tuple(Factor(name=f, levels=LEVELS[f], claims=(Claim(**CLAIMS[f]),)) for f in factors),
        corpus={"is_demo": is_demo, "notes": ("synthetic speech",), **({} if is_demo else FOLDER)},
        audit=AuditRecord(findings=tuple(findings), waived=("AB012",) if findings else ()),
        git_commit="0123456789abcdef",
        machine="test machine",
        versions={"torch": "2.13.0"},
        **fields,
    )
    cells = []
    for planned in plan.cells:
        # the names and levels of the grid `f=off,f=on`
        levels = planned.levels and {
            f: list(LEVELS[f])[list(find(f).levels).index(level)] for f, level in planned.levels.items()
        }
        is_on = [bool(levels) and levels[f] != next(iter(LEVELS[f])) for f in factors]
        cell = ",".join(f"{f}={levels[f]}" for f in factors) if levels else "baseline"
        toggles = dict(zip(factors, is_on, strict=True))
        mean = 2.0 + sum(PLANTED[f] for f in factors if toggles[f])
        size = 2139920 + sum(PARAMETERS[f] for f in factors if toggles[f])
        if not levels:
            mean, size = 2.0 + sum(PLANTED[f] for f in factors) + NOT_TOGGLED, 2963024
        cells.append(planned.model_copy(update={"name": cell, "levels": levels, "parameters": size}))
        for seed in range(1, seeds + 1):
            if (cell, seed) in missing:
                continue
            run = RunDir(root / "runs" / planned.signatures[seed])
            run.write_spec({"training_signature": run.signature, "seed": seed})
            run_mean = mean + rng.normal(0, seed_sd)
            for step in (0, 20, 40, 60):
                value = run_mean - 0.8 * np.exp(-step / 20)
                run.append_metrics(
                    {"step": step, "time": float(step), "train/loss": 0.1, "val/pesq_wb": float(value)}
                )
            if (cell, seed) in diverged:
                run.update_state(
                    state="diverged", cause="nan", message="loss is nan at step 41", step=41, steps=60
                )
                continue
            run.update_state(state="done", step=60, steps=60, started=0.0, finished=60.0)
            evaluation = planned.evaluations[seed]
            scores = run_mean + utterance_effect + rng.normal(0, 0.05, utterances)
            frame = pd.DataFrame(
                {
                    "utterance": names,
                    "speaker": [n.split("_")[0] for n in names],
                    "snr": [2.5 + 5 * (i % 4) for i in range(utterances)],
                    "noise": ["bus" if i % 3 else "cafe" for i in range(utterances)],
                    "pesq_wb": scores,
                    "stoi": np.clip(0.7 + scores / 20, 0, 1),
                    "seconds": 2.0,
                    "error": None,
                    "noisy_pesq_wb": 1.5 + utterance_effect,
                    "noisy_stoi": 0.7,
                }
            )
            path = run.scores_path(evaluation)
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(path)
            run.write_summary(
                {
                    "parameters": size,
                    "parameters_by_part": {"decoder": size // 2},
                    "macs_per_second": 1e9 + size,
                    "seconds_per_step": 0.5 + size / 1e7,
                    "peak_memory_bytes": 3 * 10**9,
                    "real_time_factor": 0.2,
                    "processor_time_factor": 0.25,
                    "latency_ms": 40 if levels else None,
                    "threads": 1,
                    "device_name": "Test CPU",
                    "device": "cpu",
                    "versions": {"torch": "2.13.0"},
                    "git_commit": "0123456789abcdef",
                    "machine": "test machine",
                    "selected_step": 60,
                    "val_pesq_wb": float(run_mean),
                    "noisy_val_pesq_wb": 1.5,
                }
            )
            if audio:
                write_audio(run, names[:2], rng)
    save(plan.model_copy(update={"cells": tuple(cells)}), root)
    return root


def write_audio(run: RunDir, utterances: Sequence[str], rng: np.random.Generator) -> None:
    run.audio.mkdir(exist_ok=True)
    time = np.arange(16000) / 16000
    clean = 0.3 * np.sin(2 * np.pi * 440 * time)
    for utterance in utterances:
        noise = 0.1 * rng.standard_normal(16000)
        for kind, share in (("clean", 0.0), ("noisy", 1.0), ("enhanced", 0.3)):
            soundfile.write(run.audio / f"{utterance}-{kind}.wav", clean + share * noise, 16000)


@pytest.fixture(scope="session")
def make_study(make_plan: Callable[..., Plan]) -> Callable[..., Path]:
    """`make_study(root, **options)` writes a synthetic study; see `write_study`."""
    return partial(write_study, make_plan)


@pytest.fixture(scope="session")
def planted_root(tmp_path_factory: pytest.TempPathFactory, make_study: Callable[..., Path]) -> Path:
    """The root of a complete study of 9 cells x 3 seeds x 24 utterances, with audio."""
    finding = {
        "code": "AB012",
        "severity": "warning",
        "where": "crossband=pointwise",
        "evidence": "mixes no bands",
        "remedy": "use bilstm",
    }
    return make_study(tmp_path_factory.mktemp("planted"), audio=True, findings=[finding])


@pytest.fixture(scope="session")
def demo_report(tmp_path_factory: pytest.TempPathFactory, make_study: Callable[..., Path]) -> AnalysisReport:
    """The report of a study of the demo corpus."""
    root = make_study(tmp_path_factory.mktemp("demo"), factors=("crossband",), utterances=8, is_demo=True)
    return report_of_study(root)


@pytest.fixture(scope="session")
def report(planted_root: Path) -> AnalysisReport:
    """The report of `planted_root`; its figures are drawn once for all tests."""
    return report_of_study(planted_root)
