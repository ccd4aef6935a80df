"""What a run consists of: its data and network, the training, the scores of its tests, the summary."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.models.errors import InputError
from ablate.models.plugins import load_planned
from ablate.models.summary import parameters_by_part, rate_of, summarise

from . import audio_samples, evaluate, loop, seeds
from .adversary import Scorer
from .audio import SAMPLE_RATE
from .checkpoint import Checkpoints, load_weights, read
from .config import EvaluationJob, Recipe
from .contract import Assignment, Program
from .data.augment import Augment
from .data.batches import Batches
from .data.corpus import Corpus, Pair, find_corpus, find_test, located
from .data.noisy import noisy_scores
from .determinism import refused
from .environment import (
    Environment,
    PeakMemory,
    check_precision,
    choose_device,
    prepared,
    processor_name,
)
from .failures import failure_cause
from .metrics import MetricPool
from .metrics.registry import check_available
from .progress import Progress
from .rundir import RunDir, file_digest
from .selection import Selection
from .trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """What every part of a run works with."""

    run: RunDir
    spec: dict[str, Any]
    config: ModelConfig
    recipe: Recipe
    corpus: Corpus
    validation: tuple[Pair, ...]
    device: torch.device
    pool: MetricPool
    cache: Path
    memory: PeakMemory

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of the run."""
        return Checkpoints(
            self.run.checkpoints,
            signature=self.run.signature,
            model=self.config.model_dump(mode="json"),
            spec=self.spec,
        )


def metric_processes(recipe: Recipe, device: torch.device, threads: int) -> int:
    """How many processes measure beside a training: a core each, less the one that keeps a GPU busy."""
    return recipe.metric_processes or max(1, threads - (device.type != "cpu"))


class BuiltIn(Program):
    """The built-in trainer, opened for a run."""

    def __init__(self, context: Context, assignment: Assignment) -> None:
        self.context = context
        self.pool = context.pool
        self._assignment = assignment
        self._model: nn.Module | None = None

    def train(self) -> None:
        context, given = self.context, self._assignment
        model = initial_network(context)
        with failure_cause("error"):
            best = train(context, model, given.progress, given.should_stop, given.accumulation)
            context.run.write_summary(summary(context, model, given.progress, best))
        self._model = model

    def pairs(self, job: EvaluationJob) -> Sequence[Pair]:
        corpus = self.context.corpus
        if job.test_path is None and corpus.test_digest == job.test_digest:
            return corpus.test
        with failure_cause("data"):
            return find_test(
                job.test_path or corpus.path,
                job.test_digest,
                cache=self.context.cache,
                pairs=corpus.pairs,
                rate=corpus.sample_rate,
            )

    def scores(
        self, job: EvaluationJob, pairs: Sequence[Pair], keep: audio_samples.Keep | None
    ) -> pd.DataFrame:
        context = self.context
        with failure_cause("configuration"):
            check_available(job.evaluation.metrics)
            if self._model is None:
                model = build_model(context.config)
                load_weights(model, context.checkpoints.selected(), context.run.checkpoints)
                self._model = model.to(context.device)
        return evaluate.score_test(
            self._model,
            pairs,
            job.evaluation,
            context.pool,
            cache=context.cache,
            device=context.device,
            keep=keep,
        )


@contextmanager
def opened(assignment: Assignment) -> Iterator[BuiltIn]:
    """Read the spec, prepare the machine, find the corpus."""
    run, cache, threads = assignment.run, assignment.cache, assignment.threads
    spec, processes = run.spec, assignment.processes
    with failure_cause("configuration"):
        load_planned(spec.get("plugins", {}))
        config = ModelConfig.model_validate(spec["model"])
        recipe = Recipe.model_validate(spec["recipe"])
        place = choose_device(assignment.device)
        check_precision(place, recipe.precision)
    logger.info("run %s, attempt %d, %s, %d threads", run.signature[:12], run.state.attempts, place, threads)
    with (
        prepared(place, recipe.precision, threads),
        PeakMemory(place) as memory,
        MetricPool(
            metric_processes(recipe, place, threads) if processes is None else processes,
            plugins=spec.get("plugins", {}),
        ) as pool,
    ):
        with failure_cause("configuration"):
            rate = rate_of(config)
        with failure_cause("data"):
            corpus = find_corpus(**located(spec), cache=cache, rate=rate)
            if recipe.split == "seed":
                corpus = corpus.split_by(spec["seed"])
        validation = corpus.select_validation(recipe.validation_utterances)
        context = Context(run, spec, config, recipe, corpus, validation, place, pool, cache, memory)
        yield BuiltIn(context, assignment)


def initial_network(context: Context) -> nn.Module:
    """The network as it starts: initialised by the seed, or with the weights it is to start from."""
    with failure_cause("configuration"):
        seeds.set_global(context.spec["seed"], "init")
        model = build_model(context.config)
        if start := context.spec.get("start_from"):
            path = Path(start["path"])
            content = read(path)
            if (found := file_digest(path)) != start["digest"]:
                raise InputError(
                    f"{path} is not the checkpoint that this run was planned to start from: its digest is "
                    f"{found[:12]}, planned {start['digest'][:12]}"
                )
            load_weights(model, content["weights"], path)
            logger.info("starts from the weights of %s", path)
        return model.to(context.device)


def train(
    context: Context,
    model: nn.Module,
    progress: Progress,
    should_stop: Callable[[], bool],
    accumulation: int | None,
) -> Mapping[str, Any]:
    """Train to the last step. The network then has the selected weights; what is known of them is told."""
    run, recipe, seed = context.run, context.recipe, context.spec["seed"]
    rate = context.corpus.sample_rate
    batches = Batches(
        context.corpus.train,
        batch_size=recipe.batch_size,
        crop=round(recipe.crop_seconds * rate),
        seed=seed,
        augment=Augment.of(recipe, rate),
    )
    trainer = Trainer(
        model,
        recipe,
        batches,
        seed=seed,
        device=context.device,
        scorer=pesq_scorer(context.pool, rate),
        accumulation=accumulation,
    )
    selection = Selection(
        context.validation,
        context.pool,
        device=context.device,
        interval=recipe.validation_interval(trainer.steps),
        steps=trainer.steps,
        choice=recipe.selection,
    )
    checkpoints = context.checkpoints
    with failure_cause("configuration"):
        if (content := checkpoints.latest()) is not None:
            trainer.restore(content)
            progress.restore(content)
            selection.restore(content, trainer.network)
            logger.info("continues after step %d", trainer.step)
    run.write_metrics(selection.lines)
    run.append_attempt(
        {
            "attempt": run.state.attempts,
            "time": time.time(),
            "step": trainer.step,
            "lost_steps": max(0, run.state.step - trainer.step),
            "micro_batches": trainer.micro_batches,
            "environment": Environment.of(model, context.device, recipe.precision).model_dump(),
        }
    )
    progress.update(step=trainer.step, steps=trainer.steps)
    loop.train(trainer, selection, checkpoints, progress, should_stop)
    if selection.best is None:
        logger.warning("no validation could be scored; using the last weights")
        model.load_state_dict(trainer.network.state_dict())
        return {"step": trainer.steps, "val_pesq_wb": None, "val_stoi": None, "cuda_graph": trainer.graphs()}
    load_weights(model, selection.best["weights"], "the selected checkpoint")
    logger.info("selected step %d", selection.best["step"])
    return {**selection.best, "cuda_graph": trainer.graphs()}


def pesq_scorer(pool: MetricPool, rate: int = SAMPLE_RATE) -> Scorer:
    """Measures PESQ-WB beside the training step."""

    def start(pairs: list[tuple[Any, Any]]) -> Callable[[], list[float | None]]:
        futures = [
            pool.submit(reference, judged, ["pesq_wb"], sample_rate=rate, urgent=True)
            for reference, judged in pairs
        ]

        def wait() -> list[float | None]:
            return [_measured(future.result().values["pesq_wb"]) for future in futures]

        return wait

    return start


def summary(
    context: Context, model: nn.Module, progress: Progress, best: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `summary.json`: what was measured, and what the training ran on."""
    noisy = noisy_scores(context.validation, context.pool, cache=context.cache)
    facts = summarise(context.config)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_by_part": parameters_by_part(model),
        "macs_per_second": facts["macs_per_second"],
        "latency_ms": facts["latency_ms"],
        "seconds_per_step": progress.seconds_per_step(),
        "peak_memory_bytes": context.memory.bytes(),
        "peak_memory_method": context.memory.method,
        **evaluate.measure_speed(model, context.corpus.validation, device=context.device),
        "processor": processor_name(),
        **_what_it_ran_on(context.run),
        "selected_step": best["step"],
        "val_pesq_wb": best["val_pesq_wb"],
        "val_stoi": best["val_stoi"],
        "noisy_val_pesq_wb": _measured(noisy["pesq_wb"].mean()),
        "noisy_val_stoi": _measured(noisy["stoi"].mean()),
        "dropped_pesq_clips": progress.dropped_clips,
        "lost_steps": context.run.lost_steps,
        "not_deterministic": refused(),
        "cuda_graph": best["cuda_graph"],
        "evaluation_batch_seconds": evaluate.batch_bound(context.device),
    }


def _what_it_ran_on(run: RunDir) -> dict[str, Any]:
    """Environment and micro-batches of the last attempt that trained, and what differed in those before."""
    attempts = run.attempts()
    steps = run.state.steps
    trained = [line for line in attempts if line["step"] != steps] or attempts
    environments = [Environment.model_validate(line["environment"]) for line in trained]
    differing = {name for one in environments for name in one.differences(environments[-1])}
    if len({line["micro_batches"] for line in trained}) > 1:
        differing.add("micro_batches")
    return {
        **trained[-1]["environment"],
        "micro_batches": trained[-1]["micro_batches"],
        "changed_between_attempts": sorted(differing),
    }


def _measured(value: float) -> float | None:
    """A value as JSON has it: None where nothing could be measured."""
    return None if math.isnan(value) else float(value)
