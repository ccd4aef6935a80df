"""`ablate score`, `ablate enhance`, `ablate import-checkpoint` and `ablate data`."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Plugins, Root, formats, plain, print_json, print_table
from ablate.models.cores import usable_cores
from ablate.models.errors import InputError, listed, plural

if TYPE_CHECKING:
    from .metrics import Scored

PAIRS_HELP = "How files with different names are paired: a pattern, e.g. 'fileid_(\\d+)'."
ROWS = 30
"""The table shows single files up to this many, beyond only their mean."""


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    from .data.commands import data

    app.command()(score)
    app.command()(enhance)
    app.command("import-checkpoint")(import_checkpoint)
    app.add_typer(data, name="data")


def score(
    clean: Annotated[Path, typer.Argument(help="Clean reference: a file, or a folder.")],
    enhanced: Annotated[
        Path | None, typer.Argument(help="Enhanced speech: a file, or a folder with the same file names.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, e.g. pesq_wb,dnsmos_ovrl. [default: nine standard metrics]")
    ] = None,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Score one file or folder without a reference (DNSMOS).")
    ] = False,
    composite: Annotated[
        str,
        typer.Option(
            help="Convention of CSIG, CBAK and COVL: loizou, or ports (as in scripts that pass floats)."
        ),
    ] = "loizou",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the scores under the conventions of published code.")
    ] = False,
    pairs: Annotated[str | None, typer.Option(help=PAIRS_HELP)] = None,
    plugin: Plugins = [],  # noqa: B006
    format: Annotated[str, formats("table", "json", "csv")] = "table",
    jobs: Annotated[int | None, typer.Option(help="Processes. [default: number of cores]")] = None,
) -> None:
    """Score enhanced speech against clean: PESQ, STOI, CSIG, CBAK, COVL, SSNR and SI-SDR.

    Output that cannot be measured (silent, not finite) counts as the metric's floor, column `broken`. If a
    pair cannot be measured otherwise, its row has no value. The exit code is 3 in both cases.
    """
    from ablate.models.plugins import digests, load

    from .metrics.registry import CONVENTIONS, METRICS, by_convention, check_available, conventions_of, usual

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs} is too small; use at least one process")
    if (enhanced is None) != no_reference:
        raise InputError("two files or folders are needed, clean and enhanced; or one with --no-reference")
    load(plugin)
    free = tuple(name for name, metric in METRICS.items() if metric.reference_free)
    names = tuple(metrics.split(",")) if metrics else free if no_reference else usual()
    names = by_convention(names, composite)
    check_available(names)
    if no_reference and not set(names) <= set(free):
        others = ", ".join(name for name in names if name not in free)
        raise InputError(f"{others}: needs a clean reference; without one, use {', '.join(free)}")
    processes = jobs or usable_cores()
    if explain:
        if enhanced is None:
            raise InputError("--explain needs a clean reference; give a clean and an enhanced file or folder")
        _explain(clean, enhanced, processes, format, pairs)
        return
    scored = _score_files(clean, enhanced or clean, names, processes, digests(plugin), pairs)
    for name, result in scored.items():
        if reasons := result.reasons():
            print(f"{name}: {reasons}", file=sys.stderr)
    conventions = conventions_of(names)
    for convention in conventions:
        print(f"note: {CONVENTIONS[convention]}", file=sys.stderr)
    rows = [{"utterance": name, **r.with_floors(), **r.failures()} for name, r in scored.items()]
    if format == "json":
        print_json({**_means(scored, names), "composite": ", ".join(conventions) or None, "utterances": rows})
    elif format == "csv":
        _print_csv(["utterance", *names, "error", "broken"], [plain(list(row.values())) for row in rows])
    else:
        _print_table(scored, names)
    if any(result.errors for result in scored.values()):
        raise typer.Exit(3)


def _print_csv(columns: list[str], rows: list[list[Any]]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])


def _explain(clean: Path, enhanced: Path, processes: int, format: str, pattern: str | None) -> None:
    """Print what each convention of published code gives for these files."""
    from dataclasses import asdict

    from rich.table import Table

    from .metrics import MetricPool
    from .metrics.conventions import explain
    from .metrics.files import pair_paths
    from .metrics.registry import METRICS

    pairs = pair_paths(clean, enhanced, pattern).pairs
    with MetricPool(min(processes, len(pairs))) as pool:
        rows = explain(pairs, pool)
    if not rows:
        raise InputError(f"{enhanced}: no file could be scored against {clean}; try without --explain")
    print(f"ablate: {METRICS['pesq_wb'].full_name}, {len(pairs)} files", file=sys.stderr)
    if format == "json":
        print_json([asdict(row) | {"difference": row.difference} for row in rows])
    elif format == "csv":
        columns = ["convention", "metric", "files", "here", "there", "difference"]
        _print_csv(columns, [[r.habit, r.metric, r.files, r.ours, r.value, r.difference] for r in rows])
    else:
        table = Table("convention", "metric", box=None)
        for heading in ("files", "here", "there", "difference"):
            table.add_column(heading, justify="right")
        for row in rows:
            figures = (f"{row.ours:.3f}", f"{row.value:.3f}", f"{row.difference:+.3f}")
            table.add_row(row.habit, row.metric, str(row.files), *figures)
        print_table(table)


def enhance(
    inputs: Annotated[list[Path], typer.Argument(help="Audio files, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the enhanced files.")],
    run: Annotated[str | None, typer.Option(help="Signature of a run, or its first digits.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint file.")] = None,
    root: Root = ROOT,
    pcs: Annotated[bool, typer.Option("--pcs", help="Apply perceptual contrast stretching.")] = False,
    device: Annotated[str, typer.Option(help="Torch device, or auto.")] = "auto",
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Remove noise from recordings with a trained network. Any sample rate, length and number of channels."""
    from .enhance import checkpoint_of_run, plan_outputs

    if (run is None) == (checkpoint is None):
        raise InputError("no network given, or two; use either --run or --checkpoint")
    planned, refused = plan_outputs(inputs, output)
    if run is not None:
        checkpoint = checkpoint_of_run(root, run)
    assert checkpoint is not None

    import torch

    from ablate.models.plugins import load, load_planned

    from .checkpoint import load_model
    from .enhance import enhance_file
    from .rundir import read_json

    spec = read_json(checkpoint.parent.parent / "spec.json") or {}
    load(plugin)
    load_planned(spec.get("plugins", {}))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(checkpoint).to(device)
    for source, target in planned:
        started = time.perf_counter()
        try:
            with redirect_stdout(sys.stderr):
                seconds = enhance_file(model, source, target, pcs=pcs)
        except InputError as error:
            refused.append(str(error))
            continue
        print(target)
        took = time.perf_counter() - started
        print(f"{source}: {seconds:.1f} s of audio in {took:.1f} s", file=sys.stderr)
    for reason in refused:
        print(f"not enhanced: {reason}", file=sys.stderr)
    if refused:
        raise typer.Exit(3)


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(help="Torch file with a state dict of the public BSRNN or MBS-Net code.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the converted weights.")
    ] = None,
    format: Format = "table",
) -> None:
    """Convert a checkpoint of the public BSRNN or MBS-Net code."""
    import torch

    from ablate.models import PRESETS
    from ablate.models.commands import configuration
    from ablate.models.reference import load
    from ablate.models.summary import summarise

    from .files import atomic_write

    if not file.is_file():
        raise InputError(f"no such checkpoint: {file}")
    config, weights = load(_state_dict(file))
    output = output or file.with_name(f"{file.stem}.ablate.pt")
    if output.resolve() == file.resolve():
        raise InputError(f"{output} is the input checkpoint itself; choose another -o")
    with atomic_write(output) as temporary:
        torch.save(
            {"model": config.model_dump(mode="json"), "weights": weights, "source": str(file.resolve())},
            temporary,
        )
    found = {
        "output": str(output),
        "preset": next((name for name, preset in PRESETS.items() if preset == config), None),
        **summarise(config),
        "config": config.model_dump(mode="json"),
    }
    if format == "json":
        print_json(found)
        return
    typer.echo(f"{output}: {found['preset'] or 'no preset'}, {found['parameters']:,} parameters")
    print_table(configuration(found["config"]))


def _state_dict(file: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, alone or under one of the usual keys; nothing in the file is executed.

    Raises:
        InputError: the file is no torch file, or holds more than plain tensors.
    """
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file} cannot be read as weights: {reason}") from None
    for key in ("state_dict", "model_state_dict", "model", "generator"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise InputError(f"{file} does not contain a state dict (key -> tensor)")
    return content


def _score_files(
    clean: Path,
    enhanced: Path,
    metrics: tuple[str, ...],
    jobs: int,
    plugins: dict[str, str],
    pattern: str | None,
) -> dict[str, Scored]:
    from rich.console import Console
    from rich.progress import Progress

    from .data.alignment import delay, fit
    from .metrics import MetricPool
    from .metrics.files import pair_paths, read_pair
    from .metrics.scores import failed

    pairs, notes = pair_paths(clean, enhanced, pattern)
    sent: list[str] = []
    lags: dict[str, float] = {}
    refused: dict[str, str] = {}

    def signals() -> Any:
        for pair in pairs:
            try:
                reference, judged, said = read_pair(pair)
            except ValueError as error:
                refused[pair.name] = str(error)
                continue
            notes.extend(said)
            sent.append(pair.name)
            if (found := fit(reference, judged)).late:
                lags[pair.name] = found.lag
            yield reference, judged

    console = Console(stderr=True)
    with (
        MetricPool(min(jobs, len(pairs)), plugins=plugins) as pool,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        results = progress.track(pool.map(signals(), metrics), total=len(pairs), description="scoring")
        measured = list(results)
    if not measured:
        raise InputError(next(iter(refused.values())))
    if lags:
        told = listed([f"{name} {delay(seconds)}" for name, seconds in lags.items()], 3)
        notes.append(f"{plural(len(lags), 'file')} of {len(pairs):,} not aligned with the clean ones: {told}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    scored = dict(zip(sent, measured, strict=True))
    return {pair.name: scored.get(pair.name) or failed(refused[pair.name], metrics) for pair in pairs}


def _means(scored: dict[str, Scored], metrics: tuple[str, ...]) -> dict[str, float]:
    """Means over the files where a metric could be taken or is at its floor; NaN where there are none."""
    means = {}
    for metric in metrics:
        values = [v for r in scored.values() if not math.isnan(v := r.with_floors()[metric])]
        means[metric] = math.fsum(values) / len(values) if values else math.nan
    return means


def _print_table(scored: dict[str, Scored], metrics: tuple[str, ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("utterance", box=None)
    for metric in metrics:
        table.add_column(metric, justify="right")

    def add(name: str, values: dict[str, float]) -> None:
        cells = [
            "-" if math.isnan(values[m]) else f"{values[m]:.{3 if 'stoi' in m else 2}f}" for m in metrics
        ]
        table.add_row(escape(name), *cells)

    if len(scored) <= ROWS:
        for name, result in scored.items():
            add(name, result.with_floors())
    if len(scored) > 1:
        add(f"mean of {len(scored)}", _means(scored, metrics))
    print_table(table, spare=metrics[::-1])
    broken = Counter(m for r in scored.values() for m in r.broken)
    missing = Counter(m for r in scored.values() for m in r.errors if m not in r.broken)
    for counts, what in (
        (broken, "broken output, counts as the floor"),
        (missing, "not scored, excluded from the mean"),
    ):
        if counts:
            told = ", ".join(f"{metric} {counts[metric]}" for metric in metrics if counts[metric])
            print(f"{what}: {told}", file=sys.stderr)
