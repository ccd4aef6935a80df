"""`ablate data`: check a corpus, fetch VoiceBank+DEMAND, make the demo corpus."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ablate.models.console import ROOT, Format, Root

PAIRS_HELP = "How files with different names pair: a pattern, e.g. 'fileid_(\\d+)', or a list."
SHOWN = 20
"""Files that are named of each kind of fault."""
data = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check, download or generate speech corpora."
)


@data.command()
def check(
    directory: Annotated[str, typer.Argument(metavar="DIR", help='Data folder, or "demo".')],
    test_data: Annotated[str | None, typer.Option(help="Use the test split of this corpus instead.")] = None,
    pairs: Annotated[str | None, typer.Option(help=PAIRS_HELP)] = None,
    format: Format = "table",
    root: Root = ROOT,
) -> None:
    """Check a data folder: pairing, hours, SNRs, speakers, clipping, noisy score, leaks, wrong pairs.

    Exits with 5 if noisy files certainly do not match their clean ones.
    """
    from ..audio import FilesError
    from .check import check as inspect
    from .corpus import Corpus

    try:
        with _progress() as report:
            corpus = Corpus.open(
                directory, cache=root / "cache", test_data=test_data, report=report, pairs=pairs
            )
            found = inspect(corpus, report=report)
    except FilesError as error:
        raise error.at_length(SHOWN) from None
    print(json.dumps(found, indent=1) if format == "json" else "\n".join(_lines(found)))
    if found["errors"]:
        raise typer.Exit(5)


@data.command()
def voicebank(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the data set.")],
    download: Annotated[bool, typer.Option("--download", help="Download missing files (5.6 GB).")] = False,
    base_url: Annotated[
        str | None, typer.Option(help="Mirror to download from. Checksums are still verified.")
    ] = None,
) -> None:
    """Show which parts of VoiceBank+DEMAND a folder has, and download the rest. Run again to continue."""
    from . import voicebank as source

    if download:
        with _progress() as report:
            source.download(directory, base_url=base_url or source.BASE_URL, progress=report)
    lines = source.missing(directory)
    if lines:
        print("missing:", *lines, "add --download to get it", sep="\n  ", file=sys.stderr)
        raise typer.Exit(4)
    print(directory)


@data.command()
def demo(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder to write. [default: the cache]")
    ] = None,
    root: Root = ROOT,
) -> None:
    """Generate the demo corpus (synthetic speech and noise, for trying out ablate) and print its folder."""
    from .demo import make_demo

    print(make_demo(root / "cache", directory))


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on standard error for each thing that is reported; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        tasks: dict[tuple[str, int], Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if (what, total) not in tasks:
                tasks[what, total] = bars.add_task(what, total=total or None)
            bars.update(tasks[what, total], completed=done)

        yield report


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['name']} ({found['kind']})  {found['path']}"]
    for name, split in found["splits"].items():
        speakers = split["speakers"]
        lines += [
            f"{name}: {split['files']} pairs, {split['hours']:.2f} h "
            f"({split['shortest_seconds']:g} to {split['longest_seconds']:g} s), {len(speakers)} speakers",
            f"  sample rates {_join(split['sample_rates'])}; channels {_join(split['channels'])}",
            f"  SNR (dB: files) {_join(split['snr_histogram'])}; mean {split['snr_mean']}"
            + (f", by the log {split['snr_logged_mean']}" if split["snr_logged_mean"] is not None else ""),
        ]
        if split["noises"]:
            lines.append(f"  noises {_join(split['noises'])}")
        if split["clipped_files"]:
            lines.append(f"  {split['clipped_files']} pairs with clipped samples")
    if found["noisy_pesq_wb"] is not None:
        lines.append(
            f"noisy PESQ-WB {found['noisy_pesq_wb']:.3f} on {found['noisy_pesq_sampled']} test files"
        )
    lines += [f"note: {note}" for note in found["notes"]]
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    lines += [f"error: {error}" for error in found["errors"]]
    return lines


def _join(counts: dict[str, int]) -> str:
    return ", ".join(f"{key}: {count}" for key, count in counts.items())
