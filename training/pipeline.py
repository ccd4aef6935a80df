"""The built-in trainer of a run: its data and network, the training, the scores of its tests, the summary."""

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
from .environment import Environment, PeakMemory, check_precision, choose_device, prepared, processor_name
from .failures import failure_cause
from .metrics import MetricPool
from .metrics.registry import check_available
from .rundir import RunDir, file_digest
from .selection import Selection
from .trainer import Trainer

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def metric_processes(recipe: Recipe, device: torch.device, threads: int) -> int:
    """Processes that measure beside a training: one per core, minus the one that feeds a GPU."""
    return recipe.metric_processes or max(1, threads - (device.type != "cpu"))


@dataclass
class BuiltIn(Program):
    """The built-in trainer, opened for a run."""

    given: Assignment
    spec: dict[str, Any]
    config: ModelConfig
    recipe: Recipe
    corpus: Corpus
    validation: tuple[Pair, ...]
    device: torch.device
    pool: MetricPool
    memory: PeakMemory
    _model: nn.Module | None = None

    @property
    def checkpoints(self) -> Checkpoints:
        run = self.given.run
        return Checkpoints(run.checkpoints, run.signature, self.config.model_dump(mode="json"), self.spec)

    def train(self) -> None:
        model = self.initial_network()
        with failure_cause("error"):
            best = self._trained(model)
            self.given.run.write_summary(self._summary(model, best))
        self._model = model

    def pairs(self, job: EvaluationJob) -> Sequence[Pair]:
        corpus = self.corpus
        if job.test_path is None and corpus.test_digest == job.test_digest:
            return corpus.test
        path, rate = job.test_path or corpus.path, corpus.sample_rate
        with failure_cause("data"):
            return find_test(path, job.test_digest, cache=self.given.cache, pairs=corpus.pairs, rate=rate)

    def scores(
        self, job: EvaluationJob, pairs: Sequence[Pair], keep: audio_samples.Keep | None
    ) -> pd.DataFrame:
        with failure_cause("configuration"):
            check_available(job.evaluation.metrics)
            if self._model is None:
                model = build_model(self.config)
                load_weights(model, self.checkpoints.selected(), self.given.run.checkpoints)
                self._model = model.to(self.device)
        cache, device = self.given.cache, self.device
        return evaluate.score_test(
            self._model, pairs, job.evaluation, self.pool, cache=cache, device=device, keep=keep
        )

    def initial_network(self) -> nn.Module:
        """The initial network: with weights drawn by the seed, or from the checkpoint to start from."""
        with failure_cause("configuration"):
            seeds.set_global(self.spec["seed"], "init")
            model = build_model(self.config)
            if start := self.spec.get("start_from"):
                path = Path(start["path"])
                content = read(path)
                if (found := file_digest(path)) != start["digest"]:
                    raise InputError(
                        f"{path} is not the checkpoint that this run was planned to start from: its "
                        f"digest is {found[:12]}, planned {start['digest'][:12]}"
                    )
                load_weights(model, content["weights"], path)
                logger.info("starts from the weights of %s", path)
            return model.to(self.device)

    def _trained(self, model: nn.Module) -> Mapping[str, Any]:
        """Train to the last step and load the selected weights into the network; returns their facts."""
        given, recipe, seed, rate = self.given, self.recipe, self.spec["seed"], self.corpus.sample_rate
        run, progress = given.run, given.progress
        batches = Batches(
            self.corpus.train,
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
            device=self.device,
            scorer=pesq_scorer(self.pool, rate),
            accumulation=given.accumulation,
        )
        selection = Selection(
            self.validation,
            self.pool,
            device=self.device,
            interval=recipe.validation_interval(trainer.steps),
            steps=trainer.steps,
            choice=recipe.selection,
        )
        checkpoints = self.checkpoints
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
                "environment": Environment.of(model, self.device, recipe.precision).model_dump(),
            }
        )
        progress.update(step=trainer.step, steps=trainer.steps)
        loop.train(trainer, selection, checkpoints, progress, given.should_stop)
        best = selection.best
        if best is None:
            logger.warning("no validation could be scored; using the last weights")
            model.load_state_dict(trainer.network.state_dict())
            best = {"step": trainer.steps, "val_pesq_wb": None, "val_stoi": None}
        else:
            load_weights(model, best["weights"], "the selected checkpoint")
            logger.info("selected step %d", best["step"])
        return {**best, "cuda_graph": trainer.graphs()}

    def _summary(self, model: nn.Module, best: Mapping[str, Any]) -> dict[str, Any]:
        """The content of `summary.json`: measurements and environment."""
        noisy = noisy_scores(self.validation, self.pool, cache=self.given.cache)
        facts = summarise(self.config)
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "parameters_by_part": parameters_by_part(model),
            "macs_per_second": facts["macs_per_second"],
            "latency_ms": facts["latency_ms"],
            "seconds_per_step": self.given.progress.seconds_per_step(),
            "peak_memory_bytes": self.memory.bytes(),
            "peak_memory_method": self.memory.method,
            **evaluate.measure_speed(model, self.corpus.validation, device=self.device),
            "processor": processor_name(),
            **_what_it_ran_on(self.given.run),
            "selected_step": best["step"],
            "val_pesq_wb": best["val_pesq_wb"],
            "val_stoi": best["val_stoi"],
            "noisy_val_pesq_wb": _measured(noisy["pesq_wb"].mean()),
            "noisy_val_stoi": _measured(noisy["stoi"].mean()),
            "dropped_pesq_clips": self.given.progress.dropped_clips,
            "lost_steps": self.given.run.lost_steps,
            "not_deterministic": refused(),
            "cuda_graph": best["cuda_graph"],
            "evaluation_batch_seconds": evaluate.batch_bound(self.device),
        }


@contextmanager
def opened(given: Assignment) -> Iterator[BuiltIn]:
    """Read the spec, prepare the machine, find the corpus."""
    run, spec, threads = given.run, given.run.spec, given.threads
    plugins = spec.get("plugins", {})
    with failure_cause("configuration"):
        load_planned(plugins)
        config = ModelConfig.model_validate(spec["model"])
        recipe = Recipe.model_validate(spec["recipe"])
        place = choose_device(given.device)
        check_precision(place, recipe.precision)
    logger.info("run %s, attempt %d, %s, %d threads", run.signature[:12], run.state.attempts, place, threads)
    processes = metric_processes(recipe, place, threads) if given.processes is None else given.processes
    with (
        prepared(place, recipe.precision, threads),
        PeakMemory(place) as memory,
        MetricPool(processes, plugins=plugins) as pool,
    ):
        with failure_cause("configuration"):
            rate = rate_of(config)
        with failure_cause("data"):
            corpus = find_corpus(**located(spec), cache=given.cache, rate=rate)
            if recipe.split == "seed":
                corpus = corpus.split_by(spec["seed"])
        validation = corpus.select_validation(recipe.validation_utterances)
        yield BuiltIn(given, spec, config, recipe, corpus, validation, place, pool, memory)


def pesq_scorer(pool: MetricPool, rate: int = SAMPLE_RATE) -> Scorer:
    """Measures PESQ-WB beside the training step."""

    def start(pairs: list[tuple[Any, Any]]) -> Callable[[], list[float | None]]:
        futures = [pool.submit(*pair, ["pesq_wb"], sample_rate=rate, urgent=True) for pair in pairs]
        return lambda: [_measured(future.result().values["pesq_wb"]) for future in futures]

    return start


def _what_it_ran_on(run: RunDir) -> dict[str, Any]:
    """Environment and micro-batches of the last attempt that trained, and their differences to earlier
    ones."""
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
    """A value for JSON; None for NaN."""
    return None if math.isnan(value) else float(value)
