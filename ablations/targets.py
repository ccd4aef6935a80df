"""Resolves names on the command line: presets, cells, parts of plug-ins, runs, checkpoints."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablate.models import parts, plugins
from ablate.models.config import PRESETS, ModelConfig
from ablate.models.errors import InputError, readable
from ablate.models.registry import suggestion
from ablate.training.config import Recipe, RunConfig, is_path, resolve_recipe
from ablate.training.rundir import read_json

from .factors import FACTORS, Factor, find
from .grid import Cell, Grid, parse_settings, values_of

Job = tuple[list[Cell], tuple[Factor, ...]]
"""Cells that are audited together, and their factors."""

REGISTRIES = {f"model.{field}": registry for field, registry in parts.PLUGGABLE.items()}
"""Field of a configuration that names a part -> the registry of these parts."""


def is_class(name: str) -> bool:
    """Whether a name is `path/to/file.py:Class`."""
    return re.fullmatch(r".+\.py:\w+", name) is not None


@dataclass
class Brought:
    """Factors and presets that plug-ins registered, and their parts with the fields that can name them."""

    factors: dict[str, Factor] = field(default_factory=dict)
    presets: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.presets, *self.parts, *self.factors]))


def load_plugins(paths: Sequence[Path]) -> Brought:
    """Import plug-ins and return what they registered, except architectures that their own presets use."""
    before = {path: set(registry) for path, registry in REGISTRIES.items()}
    presets, factors = set(PRESETS), set(FACTORS)
    plugins.load(paths)
    brought = Brought(
        factors={name: factor for name, factor in FACTORS.items() if name not in factors},
        presets=[name for name in PRESETS if name not in presets],
    )
    named = {
        value
        for name in brought.presets
        for value in PRESETS[name].model_dump().values()
        if isinstance(value, str)
    }
    for path, registry in REGISTRIES.items():
        for name in set(registry) - before[path]:
            if path != "model.architecture" or name not in named:
                brought.parts.setdefault(name, []).append(path)
    return brought


def preset_config(name: str | ModelConfig, recipe: str | None) -> RunConfig:
    """A preset (or a network) under a recipe; without a recipe, at its own size."""
    own_size = resolve_recipe("quick").model_copy(update={"width": 1.0, "depth": 1.0})
    return RunConfig.of(name, recipe or own_size)


def parse_grid(text: str, base: str, baseline: str, recipe: str | None, settings: list[str]) -> Grid:
    """The grid of the options `--grid --base --baseline --recipe --set`."""
    return Grid.parse(
        text,
        base=base,
        baseline=None if baseline in ("", "none") else baseline,
        recipe=recipe or "quick",
        set=parse_settings(settings),
    )


def jobs_named(name: str, recipe: str | None, settings: list[str], brought: Brought) -> list[Job]:
    """The jobs for a name; empty if it is unknown.

    The name is that of a preset (at its own size or under a recipe), of a plug-in's part (used in mbsnet) or
    factor, or a network class.
    """
    if is_class(name):
        return [_job_of_class(name, recipe, settings)]
    changes = parse_settings(settings)
    if name in PRESETS:
        config = preset_config(name, recipe).with_changes(changes)
        return [([Cell(name=name, levels={}, config=config)], ())]
    jobs: list[Job] = []
    if name in brought.factors:
        factor = find(name, list(brought.factors[name].levels))
        grid = Grid.of((factor,), baseline=None, recipe=recipe or "quick", set=changes)
        jobs.append((grid.cells(), (factor,)))
    start = preset_config("mbsnet", recipe or "quick").with_changes(changes)
    for path in brought.parts.get(name, []):
        config = start.with_changes({path: name})
        jobs.append(([Cell(name=name, levels={}, config=config)], ()))
        if path == "model.core" and _claims_both(config):
            both = config.with_changes({"model.direction": "bi"})
            jobs.append(([Cell(name=f"{name}, direction=bi", levels={}, config=both)], ()))
    return jobs


def _job_of_class(text: str, recipe: str | None, settings: list[str]) -> Job:
    """The job of a network class. Settings without a section are its arguments; guesses go to stderr."""
    from ablate.models.class_adapter import class_of_file

    own = [item for item in settings if not is_path(item.partition("=")[0])]
    brought = class_of_file(text, values_of(own))
    for line in brought.told:
        print(f"{text}: {line}", file=sys.stderr)
    start = preset_config(brought.config, recipe)
    config = start.with_changes(parse_settings([item for item in settings if item not in own]))
    return [Cell(name=text.rpartition(":")[2], levels={}, config=config)], ()


def _claims_both(config: RunConfig) -> bool:
    """Whether the core, built with the direction `bi`, declares that it looks ahead."""
    try:
        core = parts.CORES[config.model.core](config.model.model_copy(update={"direction": "bi"}))
    except ValueError:
        return False
    return bool(getattr(core, "looks_ahead", False))


def find_config(name: str, cells: Sequence[Cell], recipe: str | None, root: Path) -> RunConfig:
    """The configuration that a name on the command line means: a preset, cell, run or checkpoint.

    Raises:
        InputError: the name is unknown, or several runs' signatures start with it.
    """
    for cell in cells:
        if cell.name == name:
            return cell.config
    if name in PRESETS:
        return preset_config(name, recipe)
    if Path(name).is_file():
        return RunConfig(model=_model_of_checkpoint(Path(name)), recipe=preset_config("mbsnet", None).recipe)
    runs = [path for path in (root / "runs").glob(f"{name}*") if (path / "spec.json").exists()]
    if len(runs) == 1:
        spec = read_json(runs[0] / "spec.json") or {}
        with readable():
            return RunConfig(
                model=ModelConfig.model_validate(spec["model"]), recipe=Recipe.model_validate(spec["recipe"])
            )
    if len(runs) > 1:
        raise InputError(f"{len(runs)} runs under {root} start with {name!r}; give more digits")
    known = [*PRESETS, *(cell.name for cell in cells if cell.name not in PRESETS)]
    what = "preset, cell of the grid" if cells else "preset"
    raise InputError(f"{name!r} is not a {what}, a run under {root}, or a file{suggestion(name, known)}")


def _model_of_checkpoint(path: Path) -> ModelConfig:
    from ablate.training.checkpoint import read

    model = read(path).get("model")
    if not isinstance(model, dict) or "channels" not in model:
        raise InputError(f"checkpoint {path} does not contain the configuration of its network")
    with readable():
        return ModelConfig.model_validate(model)
