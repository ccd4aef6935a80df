"""Old training logs side by side, with why they attribute nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any, TextIO

from ablate.models.console import console, plain, print_table
from ablate.models.errors import InputError

from ..sources.logs import Epoch, TrainingLog, compare_logs, objections


def _row(log: TrainingLog) -> list[str]:
    def show(epoch: Epoch | None) -> str:
        return f"{epoch.pesq:.4f} (epoch {epoch.number})" if epoch else "none"

    diverged = "no"
    if log.diverged_at is not None:
        at = f", step {log.diverged_step}" if log.diverged_step is not None else ""
        diverged = f"epoch {log.diverged_at}{at}"
    count = f"{len(log.epochs)}" + (f" of {log.settings['epochs']}" if "epochs" in log.settings else "")
    return [log.name, log.parameters or "not said", count, show(log.best), show(log.last), diverged]


_HEAD = ["log", "parameters", "epochs", "best test PESQ", "last finite", "diverged"]


def _curve_rows(logs: Sequence[TrainingLog]) -> tuple[list[str], list[list[str]]]:
    numbers = sorted({epoch.number for log in logs for epoch in log.epochs})
    pairs = compare_logs(logs)
    head = ["epoch", *(log.name for log in logs), *(f"{p.reference} - {p.other}" for p in pairs)]
    rows = []
    for number in numbers:
        known = [{epoch.number for epoch in log.epochs} for log in logs]
        cells = [
            f"{log.pesq[number]:.4f}" if number in log.pesq else ("nan" if number in have else "")
            for log, have in zip(logs, known, strict=True)
        ]
        gaps = [f"{p.matched[number]:+.4f}" if number in p.matched else "" for p in pairs]
        rows.append([str(number), *cells, *gaps])
    return head, rows


def logs_json(logs: Sequence[TrainingLog]) -> dict[str, Any]:
    """Everything read from the logs, with `schema` naming the version of this form."""
    return {
        "schema": "ablate-logs/1",
        "logs": [
            {
                "name": log.name,
                "parameters": log.parameters,
                "settings": log.settings,
                "epochs": [
                    {
                        "epoch": e.number,
                        "loss": plain(e.loss),
                        "discriminator_loss": plain(e.discriminator_loss),
                        "test_pesq": plain(e.pesq),
                    }
                    for e in log.epochs
                ],
                "best_epoch": log.best.number if log.best else None,
                "best_test_pesq": log.best.pesq if log.best else None,
                "last_epoch": log.last.number if log.last else None,
                "last_test_pesq": log.last.pesq if log.last else None,
                "diverged_epoch": log.diverged_at,
                "unfinished_epoch": log.open_epoch,
                "saved_best_epochs": log.saved_best,
            }
            for log in logs
        ],
        "matched_epochs": [
            {"reference": p.reference, "other": p.other, "low": p.low, "high": p.high, "best": p.best}
            for p in compare_logs(logs)
        ],
        "attributable": False,
        "reasons": objections(logs),
    }


FORMATS = ("table", "md", "csv", "json")


def write_logs(logs: Sequence[TrainingLog], format: str, out: TextIO) -> None:
    """Print logs side by side as a table, Markdown, CSV (the curves alone) or JSON.

    Raises:
        InputError: another format.
    """
    head, rows = _curve_rows(logs)
    summary = [_row(log) for log in logs]
    if format == "json":
        out.write(json.dumps(logs_json(logs), indent=1) + "\n")
    elif format == "csv":
        csv.writer(out, lineterminator="\n").writerows([head, *rows])
    elif format == "md":
        for title, header, body in (("Runs", _HEAD, summary), ("Test PESQ by epoch", head, rows)):
            lines = [header, ["---"] * len(header), *body]
            out.write(f"## {title}\n\n" + "".join("| " + " | ".join(r) + " |\n" for r in lines) + "\n")
        out.write("## Not an attribution\n\n" + "".join(f"- {r}\n" for r in objections(logs)))
    elif format == "table":
        from rich import box
        from rich.table import Table

        screen = console(out)
        for title, header, body in (("Runs", _HEAD, summary), ("Test PESQ by epoch", head, rows)):
            table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
            for column in header:
                table.add_column(column, justify="left" if column == "log" else "right")
            for row in body:
                table.add_row(*row)
            print_table(table, screen)
        screen.print("[bold]Not an attribution.[/bold] These logs cannot say what a change is worth:")
        for reason in objections(logs):
            screen.print(f"  - {reason}", markup=False)
    else:
        raise InputError(f"logs are screen as {', '.join(FORMATS)}, not {format!r}")
