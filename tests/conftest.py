"""What the tests of several packages share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from ablate.studies.plan import Plan

ON = {"a": 0.25, "b": 0.1}


@pytest.fixture(autouse=True, scope="session")
def configuration_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests trust is not what their user trusts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(autouse=True)
def modules_of_a_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test imports from its own folder is no module of the next one."""
    before, path = set(sys.modules), list(sys.path)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


def score_table(seeds=3, utterances=12, noise=0.03, seed=0, factors=("a", "b"), metric="pesq_wb"):
    """Scores of a two-level grid and its baseline `ref`."""
    rng = np.random.default_rng(seed)
    by_utterance = rng.normal(0, 0.2, utterances)
    parts = []
    for at in [*product(("off", "on"), repeat=len(factors)), None]:
        levels = dict(zip(factors, at, strict=True)) if at else dict.fromkeys(factors)
        name = "+".join(f for f, v in levels.items() if v == "on") or ("base" if at else "ref")
        mean = 3.0 if at is None else 2.6 + sum(ON.get(f, 0) for f, v in levels.items() if v == "on")
        for s in range(1, seeds + 1):
            scores = mean + by_utterance + rng.normal(0, noise) + rng.normal(0, noise, utterances)
            parts.append(
                pd.DataFrame(
                    {
                        "cell": name,
                        **levels,
                        "seed": s,
                        "utterance": [f"u{i}" for i in range(utterances)],
                        metric: scores,
                        "speaker": [f"p{i % 2}" for i in range(utterances)],
                        "snr": [(i % 4) * 5.0 for i in range(utterances)],
                        "noise": "cafe",
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def level_table(means, seeds, seed):
    """Scores of one factor `a` with several levels, six utterances: level -> {metric: mean}."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {
                "cell": level,
                "a": level,
                "seed": s,
                "utterance": f"u{u}",
                **{metric: mean + rng.normal(0, 0.01) for metric, mean in metrics.items()},
            }
            for level, metrics in means.items()
            for s in range(1, seeds + 1)
            for u in range(6)
        ]
    )


@pytest.fixture(scope="session")
def make_levels():
    """`make_levels(means, seeds, seed)`; see `level_table`."""
    return level_table


@pytest.fixture(scope="session")
def make():
    """`make(**options)` draws a table of scores; see `score_table`."""
    return score_table


def build_plan(
    grid: str = "bidirectional,decoder4x",
    seeds: tuple[int, ...] = (1, 2),
    *,
    name: str = "study",
    steps: int = 10,
    base: str = "mbsnet",
    baseline: str | None = "bsrnn",
    changes: dict[str, Any] | None = None,
    corpus: dict[str, Any] | None = None,
    **fields: Any,
) -> Plan:
    """The plan of a grid; `fields` are further ones of `Plan`."""
    from ablate.ablations.claims import Endpoint
    from ablate.ablations.grid import Grid
    from ablate.studies.plan import CorpusNote, Plan

    settings = {"recipe.steps": steps} | (changes or {})
    parsed = Grid.parse(grid, base=base, baseline=baseline, set=settings)
    note = {
        "path": "demo",
        "name": "demo",
        "digest": "d" * 64,
        "test_digest": "e" * 64,
        "kind": "demo",
        "is_demo": True,
        "train": 9,
        "validation": 2,
        "test": 3,
    }
    planned = {
        "name": name,
        "base": base,
        "baseline": baseline,
        "factors": parsed.factors,
        "design": parsed.design,
        "cells": tuple(cell.model_copy(update={"parameters": 1000}) for cell in parsed.cells()),
        "seeds": seeds,
        "recipe": "quick",
        "corpus": CorpusNote.model_validate(note | (corpus or {})),
        "endpoint": Endpoint(),
        "created": 1790000000.0,
    }
    plan = Plan(**planned | fields)
    return plan.signed({cell.name: plan.seeds for cell in plan.cells})


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """`make_plan(grid, seeds, **fields)` gives a plan; see `build_plan`."""
    return build_plan


@pytest.fixture(scope="session")
def schema(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store to copy. Making one takes many seconds, so pytest's cache keeps it."""
    from ablate.studies.tracking import prepare

    kept = Path(request.config.cache.mkdir("mlflow-schema")) / f"{version('mlflow')}.db"
    if not kept.exists():
        made = tmp_path_factory.mktemp("schema") / "mlflow.db"
        prepare(f"sqlite:///{made}")
        copy = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copyfile(made, copy)
        copy.replace(kept)
    return kept


def pytest_configure(config: pytest.Config) -> None:
    """A shell's background jobs ignore SIGINT, and so would what the tests start and then interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.option.loadscopereorder = False  # of pytest-xdist, which would begin with the files of most tests
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays, and is not looked through whenever a training frees its memory."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cpu", "cuda"],
        help="where tests that take a device run (default: on the CPU, and on a GPU where there is one)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take a `device` run once for each."""
    if "device" in metafunc.fixturenames:
        import torch

        asked = metafunc.config.getoption("device")
        found = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        metafunc.parametrize("device", [asked] if asked else found)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 1 MiB, or of the size asked for, for filling it up and for making it read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '1m')}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
