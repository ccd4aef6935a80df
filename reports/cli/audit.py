"""`ablate audit` and `ablate diff`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ablate.ablations.factors import Factor
    from ablate.ablations.grid import Cell
    from ablate.training.config import RunConfig

Root = Annotated[Path, typer.Option("--root", envvar="ABLATE_ROOT", help="Folder for all that is written.")]
Plugins = Annotated[list[Path], typer.Option("--plugin", help="Python file that registers parts; repeat.")]
GridText = Annotated[str | None, typer.Option("--grid", help="Factors, e.g. bidirectional,core=lstm,mamba.")]
Format = Annotated[str, typer.Option("--format", help="table or json.")]
ROOT = Path("ablate-runs")


def register(app: typer.Typer) -> None:
    app.command()(audit)
    app.command()(diff)


def audit(
    target: Annotated[
        str | None, typer.Argument(help="A preset, a cell of --grid, a study, or a plug-in's part.")
    ] = None,
    grid: GridText = None,
    base: Annotated[str, typer.Option(help="Preset the deltas apply to.")] = "mbsnet",
    baseline: Annotated[str, typer.Option(help="Reference system; none for none.")] = "bsrnn",
    recipe: Annotated[
        str | None,
        typer.Option(help="Its rule shrinks the networks. [default: quick; a preset: its own size]"),
    ] = None,
    settings: Annotated[list[str], typer.Option("--set", help="e.g. recipe.steps=400; repeat.")] = [],  # noqa: B006
    data: Annotated[str | None, typer.Option(help="Corpus folder, or demo, for leaks and scores.")] = None,
    test_data: Annotated[str | None, typer.Option(help="Take this corpus' test split.")] = None,
    plugin: Plugins = [],  # noqa: B006
    waive: Annotated[str, typer.Option(help="Errors to accept, e.g. A101,A102.")] = "",
    budget: Annotated[str | None, typer.Option(help='Declared parameters, e.g. "2.3M+-5%".')] = None,
    slots: Annotated[int, typer.Option(help="Runs side by side, for memory and hours.")] = 1,
    seeds: Annotated[int, typer.Option(help="Seeds of the study, for its hours; 0 leaves them out.")] = 0,
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """Find before training what would make the answer wrong. Exits with 5 where an error is not waived."""
    from ablate.ablations.audit import audit_cells, errors, parse_waivers

    _check_format(format)
    waived = parse_waivers(waive)
    brought = _load(plugin)
    jobs, plan_data, plan_seeds = _jobs(target, grid, base, baseline, recipe, settings, root, brought)
    corpus = _corpus(data or plan_data, test_data, root)
    found = []
    for cells, factors in jobs:
        count = len(cells) * (seeds or plan_seeds)
        print(f"auditing {', '.join(c.name for c in cells)}", file=sys.stderr)
        for finding in audit_cells(
            cells, factors, corpus=corpus, budget=budget, slots=slots, runs=count if factors else 0
        ):
            if finding not in found:
                found.append(finding)
    refusing = errors(found, waived)
    if format == "json":
        rows = [
            f.model_dump(mode="json") | {"waived": f.severity == "error" and f.code in waived} for f in found
        ]
        print(json.dumps(rows, indent=1))
    else:
        for finding in found:
            mark = "waived" if finding.code in waived and finding.severity == "error" else finding.severity
            print(f"{finding.code} {finding.name} [{mark}] {finding.evidence}\n    at {finding.where}")
            print(f"    {finding.remedy}")
        notes = sum(f.severity == "note" for f in found)
        print(f"{len(refusing)} errors, {len(found) - len(refusing) - notes} waived, {notes} notes")
    if refusing:
        raise typer.Exit(5)


Jobs = list[tuple[list["Cell"], tuple["Factor", ...]]]


def _jobs(
    target: str | None,
    grid: str | None,
    base: str,
    baseline: str,
    recipe: str | None,
    settings: list[str],
    root: Path,
    brought: _Brought,
) -> tuple[Jobs, str | None, int]:
    """What to audit: cells with their factors; and of a study its data and how many seeds it has."""
    from ablate.models.config import PRESETS

    if grid is not None:
        parsed = _grid(grid, base, baseline, recipe, settings)
        cells = parsed.cells()
        if target is None:
            return [(cells, parsed.factors)], None, 0
        named = [cell for cell in cells if cell.name == target]
        if not named:
            raise ValueError(
                f"no cell {target!r} in this grid; its cells: {', '.join(c.name for c in cells)}"
            )
        return [(named, ())], None, 0
    if target is None:
        jobs = [job for name in brought.names for job in _named(name, recipe, settings, brought)]
        if not jobs:
            raise ValueError(
                "nothing to audit: name a preset, a study, --grid, or a --plugin that registers parts"
            )
        return jobs, None, 0
    if target in PRESETS or target in brought.names:
        return _named(target, recipe, settings, brought), None, 0
    from ablate.studies.plan import load, names

    if target not in names(root):
        raise ValueError(
            f"{target!r} is no preset ({', '.join(PRESETS)}), no part of a plug-in "
            f"and no study under {root} ({', '.join(names(root)) or 'none there'})"
        )
    plan = load(root, target)
    return [(list(plan.cells), plan.factors)], plan.corpus.path, len(plan.seeds)


def _named(name: str, recipe: str | None, settings: list[str], brought: _Brought) -> Jobs:
    """A preset, at its own size or under a recipe; a plug-in's part in place of mbsnet's; its factor."""
    from ablate.ablations.factors import find
    from ablate.ablations.grid import Cell, Grid
    from ablate.models.config import PRESETS

    changes = _settings(settings)
    if name in PRESETS:
        return [([Cell(name=name, levels={}, config=_preset(name, recipe).with_changes(changes))], ())]
    jobs: Jobs = []
    if name in brought.factors:
        factor = find(name, list(brought.factors[name].levels))
        cells = Grid(
            baseline=None, factors=(factor,), recipe=_recipe(recipe or "quick"), changes=changes
        ).cells()
        jobs.append((cells, (factor,)))
    start = _preset("mbsnet", recipe or "quick").with_changes(changes)
    for path in brought.parts.get(name, []):
        config = start.with_changes({path: name})
        jobs.append(([Cell(name=name, levels={}, config=config)], ()))
        if path == "model.core" and _claims_both(config):
            both = config.with_changes({"model.direction": "bi"})
            jobs.append(([Cell(name=f"{name}, direction=bi", levels={}, config=both)], ()))
    return jobs


def _claims_both(config: RunConfig) -> bool:
    """Whether a core says that it looks ahead where the configuration asks for it."""
    from ablate.models.config import CORES

    try:
        core = CORES[config.model.core](config.model.model_copy(update={"direction": "bi"}))
    except ValueError:
        return False
    return bool(getattr(core, "looks_ahead", False))


@dataclass
class _Brought:
    """What plug-ins registered: factors, presets, and parts with the fields that name them."""

    factors: dict[str, Factor] = field(default_factory=dict)
    presets: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.presets, *self.parts, *self.factors]))


def _load(plugins: list[Path]) -> _Brought:
    from ablate.ablations.factors import FACTORS
    from ablate.models import config
    from ablate.models.plugins import load

    registries = {
        "model.architecture": config.ARCHITECTURES,
        "model.core": config.CORES,
        "model.crossband": config.CROSSBANDS,
        "model.decoder": config.DECODERS,
        "model.head": config.HEADS,
    }
    before = {path: set(registry) for path, registry in registries.items()}
    presets, factors = set(config.PRESETS), set(FACTORS)
    load(plugins)
    brought = _Brought(
        factors={name: factor for name, factor in FACTORS.items() if name not in factors},
        presets=[name for name in config.PRESETS if name not in presets],
    )
    named = {
        value
        for name in brought.presets
        for value in config.PRESETS[name].model_dump().values()
        if isinstance(value, str)
    }
    for path, registry in registries.items():
        for name in set(registry) - before[path]:
            if path != "model.architecture" or name not in named:
                brought.parts.setdefault(name, []).append(path)
    return brought


def _recipe(name: str) -> Any:
    from ablate.training.config import resolve_recipe

    return resolve_recipe(name)


def _preset(name: str, recipe: str | None) -> RunConfig:
    """A preset under a recipe; without one at its own size."""
    from ablate.training.config import RunConfig

    return RunConfig.of(name, recipe or _recipe("quick").model_copy(update={"width": 1.0, "depth": 1.0}))


def _settings(items: list[str]) -> dict[str, Any]:
    from ablate.studies.request import parse_settings

    return parse_settings(items)


def _grid(grid: str, base: str, baseline: str, recipe: str | None, settings: list[str]) -> Any:
    from ablate.ablations.grid import Grid

    return Grid.parse(
        grid,
        base=base,
        baseline=None if baseline in ("", "none") else baseline,
        recipe=recipe or "quick",
        changes=_settings(settings),
    )


def _corpus(data: str | None, test_data: str | None, root: Path) -> Any:
    if data is None:
        return None
    from ablate.studies.plan import cache_path
    from ablate.training.data.corpus import Corpus

    return Corpus.open(data, cache=cache_path(root.resolve()), test_data=test_data)


def _check_format(format: str) -> None:
    if format not in ("table", "json"):
        raise ValueError(f"unknown format {format!r}; known: table, json")


def diff(
    a: Annotated[str, typer.Argument(help="A preset, a cell of --grid, a run or a checkpoint.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    grid: GridText = None,
    base: Annotated[str, typer.Option(help="Preset the deltas apply to.")] = "mbsnet",
    baseline: Annotated[str, typer.Option(help="Reference system; none for none.")] = "bsrnn",
    recipe: Annotated[
        str | None,
        typer.Option(help="Its rule shrinks the networks. [default: quick with --grid; else none]"),
    ] = None,
    settings: Annotated[list[str], typer.Option("--set", help="e.g. recipe.steps=400; repeat.")] = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """Every field in which two networks differ: toggled, a consequence of that, or not toggled."""
    from ablate.ablations.diff import differences, propose
    from ablate.models.config import PRESETS

    _check_format(format)
    _load(plugin)
    cells: list[Cell] = []
    factors: tuple[Factor, ...] = ()
    if grid is not None:
        parsed = _grid(grid, base, baseline, recipe, settings)
        cells, factors = parsed.cells(), parsed.factors
    first, second = (
        _find(name, cells, recipe if grid is None else recipe or "quick", root) for name in (a, b)
    )
    found = differences(first, second, factors)
    parts = [_parts(config) for config in (first, second)]
    groups = {
        name: [d.model_dump(mode="json", exclude={"group"}) for d in found if d.group == group]
        for name, group in (
            ("toggled", "toggled"),
            ("consequences", "consequence"),
            ("not_toggled", "not toggled"),
        )
    }
    close = None
    if groups["not_toggled"] and a in (*PRESETS, "base") and b in (*PRESETS, "baseline"):
        names = {"base_name": base if a == "base" else a, "baseline_name": baseline if b == "baseline" else b}
        if grid is None:
            first, second = _preset(a, recipe or "quick"), _preset(b, recipe or "quick")
        close = propose(first, second, factors, **names)
    if format == "json":
        counts = [{"parameters": sum(p.values()), "parts": p} for p in parts]
        print(
            json.dumps(
                {"a": {"name": a, **counts[0]}, "b": {"name": b, **counts[1]}, **groups, "close": close},
                indent=1,
            )
        )
        return
    for title, rows in groups.items():
        if rows or title == "not_toggled":
            print(f"{title.replace('_', ' ')}:{'' if rows else ' nothing'}")
        for row in rows:
            print(f"  {row['path']}: {row['a']} -> {row['b']}" + (f"  ({row['why']})" if row["why"] else ""))
    print("parameters:")
    for name in dict.fromkeys([*parts[0], *parts[1]]):
        print(f"  {name}: {parts[0].get(name, 0):,} -> {parts[1].get(name, 0):,}")
    print(f"  all: {sum(parts[0].values()):,} -> {sum(parts[1].values()):,}")
    if close:
        print(f"a grid that covers all of it:\n  {close}")


def _find(name: str, cells: list[Cell], recipe: str | None, root: Path) -> RunConfig:
    """The configuration that a name stands for.

    Raises:
        ValueError: it is nothing known, or a signature that several runs begin with.
    """
    from ablate.models.config import PRESETS, ModelConfig
    from ablate.training.config import Recipe, RunConfig

    for cell in cells:
        if cell.name == name:
            return cell.config
    if name in PRESETS:
        return _preset(name, recipe)
    if Path(name).is_file():
        from ablate.training.checkpoint import read

        model = ModelConfig.model_validate(_model_of(read(Path(name)), name))
        return RunConfig(model=model, recipe=_preset("mbsnet", None).recipe)
    runs = [path for path in (root / "runs").glob(f"{name}*") if (path / "spec.json").exists()]
    if len(runs) == 1:
        spec = json.loads((runs[0] / "spec.json").read_text())
        return RunConfig(
            model=ModelConfig.model_validate(spec["model"]), recipe=Recipe.model_validate(spec["recipe"])
        )
    if len(runs) > 1:
        raise ValueError(f"{len(runs)} runs under {root} begin with {name!r}; give more of the signature")
    known = ", ".join(c.name for c in cells) or "none (no --grid)"
    raise ValueError(
        f"{name!r} is no preset ({', '.join(PRESETS)}), no cell ({known}), no run under {root} and no file"
    )


def _model_of(content: dict[str, Any], name: str) -> dict[str, Any]:
    model = content.get("model")
    if not isinstance(model, dict) or "channels" not in model:
        raise ValueError(f"checkpoint {name} does not say what network it holds")
    return model


def _parts(config: RunConfig) -> dict[str, int]:
    from ablate.models import build_model
    from ablate.models.summary import parameters_by_part

    return parameters_by_part(build_model(config.model))
