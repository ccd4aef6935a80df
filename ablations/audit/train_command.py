"""The audit of a study that a command trains: its data, seeds and cells.

A203, A302 and A4xx are not checked, since they need a network that is built here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.models.errors import InputError, listed
from ablate.training.train_command.code import PROGRAMS, find_code
from ablate.training.train_command.config import TrainingCommand

from ..factors import Factor
from ..grid import AnyCell
from ..runspec import RunSpec
from . import data
from .finding import Finding
from .neighbours import alike, untoggled

if TYPE_CHECKING:
    from ablate.training.data.corpus import Corpus


def audit_train_command(
    cells: Sequence[AnyCell],
    factors: Sequence[Factor],
    train: TrainingCommand,
    *,
    runs: Sequence[RunSpec] = (),
    corpus: Corpus | None = None,
    same: Mapping[str, str] | None = None,
) -> list[Finding]:
    """All findings on cells that a command trains, by code.

    Args:
        train: the command; its code is read, and its network imported if the user trusts that code.
        runs: all runs of the study.
        corpus: to check its pairs, leaks and noisy score; default: not checked.
        same: run -> sentence that its scores are those of another seed.

    Raises:
        InputError: the network does not exist or does not run.
    """
    code: dict[str, Path] = {}
    with suppress(InputError):  # its folder is gone by now
        code = find_code(Path(train.folder), train.patterns)
    found = [*alike(cells, factors, _same), *untoggled(cells, factors, train.defaults)]
    found += [*read_by_nobody(cells, code), *of_network(train, cells)]
    found += [*data.unequal_runs(runs), *validated_on_test(train.command, cells, code, train.defaults)]
    if corpus is not None:
        found += [*data.leaked(corpus), *data.noisy_score(corpus), *data.wrong_pairs(corpus)]
    remedy = "use {seed} for every random draw of the training (initial weights, order, crops)"
    found += [Finding.of("A602", run, evidence, remedy) for run, evidence in (same or {}).items()]
    return sorted(found, key=lambda finding: finding.code)


def _same(a: AnyCell, b: AnyCell) -> str | None:
    return "they give the command the same overrides" if a.config == b.config else None


def read_by_nobody(cells: Sequence[AnyCell], code: Mapping[str, Path]) -> Iterator[Finding]:
    """A205: an override whose name does not occur in any program of the code."""
    programs = [path for path in code.values() if path.suffix.lower() in PROGRAMS]
    text = "\n".join(path.read_text(errors="replace") for path in programs)
    for key in dict.fromkeys(key for cell in cells for key in cell.config.result_fields() if programs):
        last = re.escape(key.rpartition(".")[2].lstrip("+~")).replace("_", "[_-]").replace(r"\-", "[_-]")
        if not re.search(rf"(?<![A-Za-z0-9_]){last}(?![A-Za-z0-9_])", text):
            yield Finding.of(
                "A205",
                key,
                f"the name occurs in no program of the code ({listed([path.name for path in programs], 4)})",
                "check its spelling: a program that ignores it trains the same network for every level. "
                "If an installed package reads it, ignore this",
            )


VALIDATES_ON_TEST = re.compile(
    r"""(?ix) \b (?:valid(?:ation)? | val | dev)
    (?:[._-]?(?:clean|noisy|data|dir|set|path|wav|file|list|json|root))*
    ["']? \s* [=:\s] \s* ["']? [^\s"',\#]* test"""
)
"""A setting of validation data whose value names a test set, as in `valid_dir: data/clean_testset_wav`."""
CONFIGS = (".yaml", ".yml", ".toml", ".json", ".ini", ".cfg", ".sh")


def validated_on_test(
    command: str, cells: Sequence[AnyCell], code: Mapping[str, Path], defaults: Mapping[str, Any]
) -> Iterator[Finding]:
    """A505: a command, setting or config validates on a test set, so weights are chosen there."""
    given = [{**defaults, **cell.config.result_fields()} for cell in cells]
    settings = {f"{name}={value}" for one in given for name, value in one.items()}
    places = [("train.command", command), *(("a setting", text) for text in sorted(settings))]
    for name, path in code.items():
        if path.suffix.lower() in CONFIGS:
            lines = path.read_text(errors="replace").splitlines()
            places += [(f"{name}:{number}", line) for number, line in enumerate(lines, 1)]
    found = [f"{where}: {line.strip()[:100]}" for where, line in places if VALIDATES_ON_TEST.search(line)]
    if found:
        yield Finding.of(
            "A505",
            "train.command",
            listed(found),
            "weights chosen on the test set score higher there than those chosen on validation files; "
            "validate on held-out training files, or score the last weights",
        )


def of_network(train: TrainingCommand, cells: Sequence[AnyCell]) -> Iterator[Finding]:
    """A1xx and A202 of the network that a study file names, and A601: what could not be checked."""
    if train.network is None:
        yield Finding.of(
            "A601",
            "train.command",
            "the network is not known, so it was not checked whether all parameters are used and whether "
            "factors do what they declare; sizes, memory and time are not known either",
            "to audit the network, name its class in the study file, e.g. network: model.py:Net",
        )
        return
    from . import audit_class

    settings = train.network_settings(cells[0].config.result_fields() if cells else {})
    told, findings = audit_class(str(Path(train.folder) / train.network), settings, named=False)
    given = f"the arguments {listed(list(settings))}" if settings else "the arguments it has by itself"
    yield Finding.of(
        "A601",
        train.network,
        f"audited with {given} ({'; '.join(told) or 'nothing was guessed'}); it was not checked that the "
        "command's overrides change it as the factors declare",
        f"look at a level too: ablate audit {train.network} --set ARGUMENT=VALUE",
    )
    yield from findings
