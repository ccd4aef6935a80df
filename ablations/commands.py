"""`ablate diff` and `ablate claims`, and the options that commands about grids share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Plugins, Root, print_json

if TYPE_CHECKING:
    from ablate.training.config import RunConfig

    from .claims import Claim
    from .factors import Factor
    from .grid import Cell
    from .published import PublishedEffect

GridText = Annotated[str | None, typer.Option("--grid", help="Factors, e.g. bidirectional,core=lstm,mamba.")]
Base = Annotated[str, typer.Option("--base", help="Preset that the factors change.")]
Baseline = Annotated[str, typer.Option("--baseline", help="Preset to compare with, or none.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="Change a setting, e.g. recipe.steps=400 (repeatable).")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    app.command()(diff)
    app.command()(claims)


def diff(
    a: Annotated[str, typer.Argument(help="A preset, a cell of --grid, a run or a checkpoint.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    grid: GridText = None,
    base: Base = "mbsnet",
    baseline: Baseline = "bsrnn",
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe, which also sets the size of the networks. [default: quick with --grid]"),
    ] = None,
    settings: Settings = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    root: Root = ROOT,
    format: Format = "table",
) -> None:
    """List every field in which two networks differ: toggled, a consequence of that, or not toggled."""
    from ablate.models.config import PRESETS

    from .diff import differences, propose
    from .targets import find_config, load_plugins, parse_grid, preset_config

    load_plugins(plugin)
    cells: list[Cell] = []
    factors: tuple[Factor, ...] = ()
    if grid is not None:
        parsed = parse_grid(grid, base, baseline, recipe, settings)
        cells, factors = parsed.cells(), parsed.factors
        for cell in cells:
            cell.config.model.trust_folders()
    first, second = (
        find_config(name, cells, recipe if grid is None else recipe or "quick", root) for name in (a, b)
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
            first, second = preset_config(a, recipe or "quick"), preset_config(b, recipe or "quick")
        close = propose(first, second, factors, **names)
    if format == "json":
        counts = [{"parameters": sum(p.values()), "parts": p} for p in parts]
        print_json({"a": {"name": a, **counts[0]}, "b": {"name": b, **counts[1]}, **groups, "close": close})
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
        print(f"a grid that covers all differences:\n  {close}")


def claims(
    factor: Annotated[
        str | None, typer.Argument(help="Factors as in --grid, e.g. bidirectional,core=lstm,mamba.")
    ] = None,
    plugin: Plugins = [],  # noqa: B006
    format: Format = "table",
) -> None:
    """List the claims about factors: those declared with them, and published effects (on - off)."""
    from .claims import effect_name
    from .factors import FACTORS
    from .grid import parse_factors
    from .published import PUBLISHED_EFFECTS
    from .targets import load_plugins

    load_plugins(plugin)
    chosen = parse_factors(factor) if factor is not None else tuple(FACTORS.values())

    def named(one: Factor, level: str) -> str:
        return effect_name(one.name, level, list(one.levels))

    found: list[tuple[str, Claim, PublishedEffect | None]] = [
        (named(one, str(claim.level)), claim, None) for one in chosen for claim in one.claims
    ]
    for effect in PUBLISHED_EFFECTS:
        toggled = [(named(one, level), told) for one in chosen for level, told in effect.levels_of(one)]
        if not toggled and factor is None:
            toggled = [(effect.grid, effect)]
        found += [(name, told.claim(), told) for name, told in toggled]
    rows = [
        {
            "factor": name,
            "change": effect.what if effect else "",
            "metric": claim.metric,
            "low": claim.low,
            "high": claim.high,
            "off": effect.off if effect else None,
            "on": effect.on if effect else None,
            "of": str(claim.conditions or ""),
            "seeds": effect.seeds if effect else "not stated",
            "source": claim.source,
        }
        for name, claim, effect in found
    ]
    if format == "json":
        print_json(rows)
        return
    for name in dict.fromkeys(row["factor"] for row in rows):
        print(name or "no factor of this grid")
        for row in rows:
            if row["factor"] == name:
                _print_claim(row)
    print("Published figures are as published, not measured here. To test them, use --claims published.")


def _print_claim(row: Mapping[str, Any]) -> None:
    low, high = row["low"], row["high"]
    span = f"{low:+.2f}" if low == high else f"{low:+.2f} to {high:+.2f}"
    scores = "" if row["off"] is None else f" ({row['off']:.2f} -> {row['on']:.2f})"
    print(f"  {span} {row['metric']}{scores}  {row['source']}")
    facts = [row["change"], f"of {row['of']}" if row["of"] else "", f"seeds {row['seeds']}"]
    print(f"      {'; '.join(filter(None, facts))}")


def _parts(config: RunConfig) -> dict[str, int]:
    from ablate.models import build_model
    from ablate.models.summary import parameters_by_part

    return parameters_by_part(build_model(config.model))
