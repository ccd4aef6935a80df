"""`ablate models` and `ablate doctor`: the networks and the machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Format, Plugins, print_json, print_table, table

if TYPE_CHECKING:
    from .config import ModelConfig


def models(
    name: Annotated[str | None, typer.Argument(help="Preset. [default: all, one per line]")] = None,
    settings: Annotated[
        list[str], typer.Option("--set", help="Change a setting, e.g. model.bands=mel:16 (repeatable).")
    ] = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    format: Format = "table",
) -> None:
    """List the networks with their sizes, or show one with its modules and configuration."""
    from . import PRESETS
    from .config import resolve_model
    from .plugins import load
    from .summary import summarise

    load(plugin)
    presets = {name: resolve_model(name)} if name else PRESETS
    chosen = {preset: _changed(config, settings) for preset, config in presets.items()}
    for config in chosen.values():
        config.trust_folders()
    found = {
        preset: {"name": preset, **summarise(config), "config": config.model_dump(mode="json")}
        for preset, config in chosen.items()
    }
    if name is None:
        print_json(list(found.values())) if format == "json" else _print_networks(found)
        return
    description = {**found[name], "modules": _modules(chosen[name])}
    print_json(description) if format == "json" else _print_network(description)


def doctor(
    report: Annotated[
        bool, typer.Option("--report", help="Print Markdown for a bug report, without paths and names.")
    ] = False,
    format: Format = "table",
) -> None:
    """Show versions, the processor, the GPUs, and which selective scan runs here and why."""
    from . import system_info as machines

    if report:
        print(machines.report())
        return
    found = machines.machine()
    if format == "json":
        print_json(found)
        return
    rows = table("", "")
    for package, version in found["versions"].items():
        rows.add_row(package, version)
    if found["clash"]:
        rows.add_row("clash", found["clash"])
    cpu, scan = found["cpu"], found["scan"]
    rows.add_row("cores (torch threads)", f"{cpu['cores']} ({cpu['torch_threads']})")
    rows.add_row("vector unit", cpu["capability"])
    rows.add_row("bfloat16", f"AVX-512 {_yes(cpu['avx512_bf16'])}, AMX {_yes(cpu['amx'])}")
    rows.add_row("GPUs", ", ".join(found["gpus"]) or "none")
    rows.add_row(f"scan on {scan['device']}", f"{scan['auto']} ({scan['reason']})")
    for backend, state in scan["backends"].items():
        rows.add_row(f"scan backend {backend}", state)
    print_table(rows)


def init_plugin(name: Annotated[str, typer.Argument(help="Name of the network, e.g. my-net.")]) -> None:
    """Write a plug-in with a network of your own to start from; it runs as it is."""
    from .plugin_template import write_start

    path = write_start(name)
    print(path)
    print(
        f"next: ablate audit --plugin {path}\n"
        f"      ablate run --plugin {path} --base {name} --baseline none --grid options.kernel=3,5",
        file=sys.stderr,
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    app.command("models")(models)
    app.command("doctor")(doctor)
    app.command("init-plugin")(init_plugin)


def _changed(config: ModelConfig, settings: list[str]) -> ModelConfig:
    """A network with fields changed by `model.field=value` texts."""
    from .config import ModelConfig
    from .errors import InputError, readable
    from .fields import parse_value, split_settings
    from .registry import suggestion

    fields = {f"model.{field}": field for field in ModelConfig.model_fields}
    values = config.model_dump()
    for path, value in split_settings(settings, "model.bands=mel:16"):
        if path not in fields:
            raise InputError(f"unknown setting {path!r}{suggestion(path, fields)}")
        values[fields[path]] = parse_value(value)
    with readable():
        return ModelConfig.model_validate(values)


def _modules(config: ModelConfig) -> list[dict[str, Any]]:
    """Every module of a network with its own parameters, and their shapes."""
    import torch

    from . import build_model

    with torch.device("meta"):
        model = build_model(config)
    return [
        {
            "path": path,
            "kind": type(module).__name__,
            "parameters": sum(p.numel() for p in module.parameters(recurse=False)),
            "shapes": {key: list(p.shape) for key, p in module.named_parameters(recurse=False)},
        }
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]


def _print_networks(found: dict[str, dict[str, Any]]) -> None:
    rows = table(
        "network", "parameters", "split", "encoder", "cross-band", "decoder", "GMAC/s", "reach", "causal"
    )
    for column in rows.columns[1:7]:
        column.justify = "right"
    for name, row in found.items():
        parts = row["parameters_by_part"]
        counts = [parts.get(part, 0) for part in ("split", "encoder", "cross-band", "decoder")]
        rows.add_row(
            name,
            f"{row['parameters']:,}",
            *(f"{count:,}" for count in counts),
            f"{row['macs_per_second'] / 1e9:.2f}",
            row["receptive_field"],
            _yes(row["causal"]),
        )
    print_table(rows, spare=("reach", "split", "cross-band", "encoder", "decoder"))
    typer.echo(
        "GMAC/s: billions of multiply-adds for a second of audio. Causal: no time layer looks ahead; the "
        "filter's third tap (one frame) and the normalisation (whole utterance) still do.",
        err=True,
    )


def _print_network(found: dict[str, Any]) -> None:
    rows = table(found["name"], "")
    rows.add_row("parameters", f"{found['parameters']:,}")
    for part, count in found["parameters_by_part"].items():
        rows.add_row(f"  {part}", f"{count:,}")
    rows.add_row("MACs per second of audio", f"{found['macs_per_second'] / 1e9:.3f} G")
    rows.add_row("receptive field", found["receptive_field"])
    rows.add_row("causal (time layers)", _yes(found["causal"]))
    ahead, latency = found["look_ahead_frames"], found["latency_ms"]
    said = found["causal"] is not None
    rows.add_row("frames ahead", str(ahead) if ahead is not None else "all" if said else "not declared")
    whole = "the utterance" if said else "not declared"
    rows.add_row("algorithmic latency", whole if latency is None else f"{latency} ms")
    rows.add_row("normalisation sees the future", _yes(found["normalisation_sees_future"]))
    print_table(rows)
    modules = table("module", "kind", "parameters", "shapes")
    modules.columns[2].justify = "right"
    for module in found["modules"]:
        shapes = ", ".join(f"{key} {tuple(shape)}" for key, shape in module["shapes"].items())
        modules.add_row(module["path"], module["kind"], f"{module['parameters']:,}", shapes)
    print_table(modules)
    print_table(configuration(found["config"]))


def configuration(config: dict[str, Any]) -> Any:
    """A table of the fields of a network."""
    rows = table("setting", "value")
    for key, value in config.items():
        rows.add_row(f"model.{key}", str(value))
    return rows


def _yes(value: bool | None) -> str:
    return "not declared" if value is None else "yes" if value else "no"
