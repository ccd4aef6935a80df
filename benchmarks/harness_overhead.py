"""What a run costs beyond its training steps: checkpoints, metrics lines, state, progress, loading.

The same steps are taken twice in turn, in one process: bare, by a loop over `Trainer.train_step` with its
batches in memory, and by `execute` with all that it writes. Validation is work of its own, not overhead: its
time is measured apart and taken off.

    python benchmarks/harness_overhead.py --steps 200 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.training import loop, run, seeds
from ablate.training.config import RunConfig
from ablate.training.data.batches import Batches
from ablate.training.data.corpus import Corpus
from ablate.training.environment import prepared
from ablate.training.rundir import RunDir
from ablate.training.selection import Selection
from ablate.training.trainer import Trainer


class Kept(Batches):
    """Batches made beforehand."""

    def prepare(self, steps: int) -> Kept:
        self.made = [super(Kept, self).batch(step) for step in range(steps)]
        return self

    def batch(self, step: int) -> Any:
        return self.made[step]


def bare_seconds(spec: dict[str, Any], config: RunConfig, corpus: Corpus, threads: int) -> float:
    """Seconds of all the steps and nothing else."""
    recipe = config.recipe
    crop = round(recipe.crop_seconds * 16_000)
    batches = Kept(corpus.train, batch_size=recipe.batch_size, crop=crop, seed=1).prepare(recipe.steps or 0)
    with prepared(torch.device("cpu"), recipe.precision, threads):
        torch.manual_seed(seeds.torch_seed(spec["seed"], "init"))
        model = build_model(ModelConfig.model_validate(spec["model"]))
        trainer = Trainer(model, recipe, batches, seed=spec["seed"], device=torch.device("cpu"))
        trainer.train_step()
        began = time.perf_counter()
        for _ in range(1, trainer.steps):
            trainer.train_step()
        return time.perf_counter() - began


def harness_seconds(
    spec: dict[str, Any], root: Path, name: str, cache: Path, threads: int
) -> tuple[float, int]:
    """Seconds of the same steps in `execute`, less the first and validation; and bytes written."""
    directory = RunDir(root / name)
    directory.write_spec({**spec, "training_signature": name})
    marks: dict[str, float] = {"validation": 0.0}
    step, train, validate = Trainer.start_step, loop.train, Selection.start

    def first_step(self: Trainer) -> Any:
        result = step(self)
        marks.setdefault("began", time.perf_counter())
        return result

    def whole(*arguments: Any) -> None:
        train(*arguments)
        marks["ended"] = time.perf_counter()

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        validate(*arguments)
        marks["validation"] += time.perf_counter() - began

    Trainer.start_step = first_step  # type: ignore[method-assign]
    loop.train = whole  # type: ignore[assignment]
    Selection.start = timed  # type: ignore[assignment, method-assign]
    try:
        state = run.execute(directory, [], cache=cache, threads=threads, processes=0)
    finally:
        Trainer.start_step = step  # type: ignore[method-assign]
        loop.train = train
        Selection.start = validate  # type: ignore[method-assign]
    if state.state != "done":
        raise RuntimeError(f"the run ended as {state.state}: {state.message}")
    written = sum(path.stat().st_size for path in directory.path.rglob("*") if path.is_file())
    return marks["ended"] - marks["began"] - marks["validation"], written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="demo", help="corpus: a folder, or demo")
    parser.add_argument("--cache", type=Path, help="folder of caches; a temporary one if not given")
    parser.add_argument("--preset", default="mbsnet")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error(f"{options.steps} steps; give 2 or more")
    config = RunConfig.of(options.preset, options.recipe).with_changes(
        {"recipe.steps": options.steps, "recipe.validation_utterances": 2}
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache = options.cache or root / "cache"
        corpus = Corpus.open(options.data, cache=cache)
        spec = {
            "training_signature": "",
            "model": config.model.model_dump(mode="json"),
            "recipe": config.recipe.model_dump(mode="json"),
            "seed": 1,
            "corpus": {"path": corpus.path, "digest": corpus.digest, "name": corpus.name},
            "start_from": None,
            "plugins": [],
        }
        bare, harness, written = [], [], 0
        for repeat in range(options.repeats):
            bare.append(bare_seconds(spec, config, corpus, options.threads))
            seconds, written = harness_seconds(spec, root, f"run{repeat}", cache, options.threads)
            harness.append(seconds)
            print(f"bare {bare[-1]:.2f} s, harness {seconds:.2f} s", file=sys.stderr)
    result = {
        "steps": options.steps,
        "threads": options.threads,
        "preset": options.preset,
        "recipe": options.recipe,
        "bare_seconds": min(bare),
        "harness_seconds": min(harness),
        "overhead": min(harness) / min(bare) - 1,
        "overheads": [h / b - 1 for h, b in zip(harness, bare, strict=True)],
        "median_overhead": statistics.median(h / b - 1 for h, b in zip(harness, bare, strict=True)),
        "bytes_written": written,
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"overhead {result['overhead']:.1%} of {options.steps} steps ({min(bare):.2f} s bare)")


if __name__ == "__main__":
    main()
