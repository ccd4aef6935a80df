"""Every command of README and docs: the real parser takes it, and it runs unless a reason stands here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.main import get_command

from ablate.ablations.claim_files import claims_from
from ablate.ablations.grid import parse_factors
from ablate.reports.cli import app
from ablate.studies import plan as plans
from ablate.studies.study_file import START, asked
from ablate.training import subprocess_env
from ablate.training.data.demo import DEMO_MARK, DEMO_VERSION
from ablate.training.data.demo.voices import engine

REPOSITORY = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in.py")
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"
)

COMMANDS: Any = get_command(app)
RUN = ("ablate", "cmp")
NOT_RUN = {
    "python3 -m venv": "an installation",
    "pip install": "an installation",
    "pip uninstall": "an installation",
    "pytest": "the tests themselves",
    "make": "checked by `make --dry-run`",
    "git clone": "a download",
    "ablate audit --plugin examples/public": "of what is downloaded; tests/ablations/test_public_adapters.py",
    "ablate report --scores": "of files that others made; tests/reports/sources",
    "ablate import-runs": "of files that others made; tests/reports/test_imports.py",
    "ablate report mine": "of what is imported; tests/reports/test_imports.py",
    "ablate run study.yaml --study mine": "of what is imported; tests/reports/test_imports.py",
    "ablate report --enhanced": "of files that others made; tests/reports/sources",
    "ablate score clean enhanced --explain": "of recordings; tests/training/metrics/test_conventions.py",
    "ablate status --watch": "watches until it is stopped",
    "ablate ui": "serves until it is stopped; tests/studies/test_ui.py",
    "ablate run --grid bidirectional,decoder4x,crossband --data /data": "SLURM; tests/studies/launchers",
}
"""How a command begins that is parsed and not run -> why."""

OF_TYPER = {"--help", "--install-completion"}
"""Options of every program that Typer makes."""

FOREIGN_OPTIONS = {
    "--cells": "benchmarks/driver_scale.py",
    **dict.fromkeys(("--tiny", "--json", "--minutes", "--wheels"), "benchmarks/gpu.py"),
    "--long-minutes": "benchmarks/enhance_chunks.py",
    "--table": "benchmarks/quiet_recipes.py",
    "--multirun": "Hydra",
    **dict.fromkeys(("--lr", "--causal", "--no-causal", "--sizes"), "a training command of one's own"),
}
"""Options in the text that are not of `ablate` -> whose."""


def split(line: str) -> Iterator[list[str]]:
    """The commands of a shell line, without comments, variables set before and the environment's path."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word.removeprefix(".venv/bin/"))
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words
        words = []


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = (line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines())
    return [words for line in lines for words in split(line)]


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def quoted(page: str) -> list[str]:
    """What stands between backticks in the text, each as one line."""
    codes = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page)))
    return [code.removeprefix(".venv/bin/") for code in codes]


def why_not(words: list[str]) -> str | None:
    return next((why for start, why in NOT_RUN.items() if " ".join(words).startswith(start)), None)


def parse(words: list[str]) -> Any:
    """What the parser of `ablate` makes of a command line; a mistake raises its error."""
    command = COMMANDS
    context = command.make_context("ablate", words[1:])
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


def every_command(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from every_command(command) if hasattr(command, "commands") else [command]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_block_parses(page):
    for words in commands(page):
        assert words[0] in RUN or why_not(words), f"neither run nor in NOT_RUN: {' '.join(words)}"
        if words[0] == "ablate":
            parse(words)
        elif words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_text_parses(page):
    known = COMMANDS.commands
    for code in quoted(page):
        words = shlex.split(code) if code.startswith(("ablate ", "python benchmarks/")) else []
        if words[:1] == ["python"]:
            script = (REPOSITORY / words[1]).read_text()
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in script] == [], code
        elif len(words) == 2 or words[1:2] == ["data"]:
            names = known["data"].commands if words[1] == "data" and len(words) > 2 else known
            assert words[2 if names is not known else 1] in names or words[1] in OF_TYPER, code
        elif words and words[-1].startswith("--"):
            assert words[1] in known, code
        elif words:
            parse(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_their_language(page):
    assert re.findall(r"^    (?:ablate|pip|git|python3?|make|pytest) .*", prose(page), re.MULTILINE) == []


def test_the_three_ways_to_start_parse():
    ways = [words for line in START.splitlines()[1:] for words in split(line)]
    assert len(ways) == 3
    for words in ways:
        parse(words)


def test_every_option_in_the_text_is_there():
    parameters = [part for command in every_command(COMMANDS) for part in command.params]
    known = {name for part in parameters for name in part.opts} | OF_TYPER
    codes = [code for page in PAGES for code in quoted(page) if code.startswith(("--", "ablate "))]
    named = {option for code in codes for option in re.findall(r"(?<!\S)--[a-z-]+", code)}
    assert named - known == set(FOREIGN_OPTIONS)


def test_reasons_are_of_commands_that_are_there():
    lines = [" ".join(words) for page in PAGES for words in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


@pytest.mark.parametrize("page", PAGES)
def test_study_files_are_read(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        if block.startswith("# claims.yaml"):
            Path("claims.yaml").write_text(block)
            assert claims_from("claims.yaml", parse_factors("bidirectional"), "pesq_wb")
            continue
        Path("study.yaml").write_text(block)
        assert asked(Path("study.yaml")).factors


def test_python_of_the_readme_runs(make):
    noise = np.random.default_rng(1).normal(size=16000)
    given = {
        "scores": make(factors=("bidirectional", "decoder4x")).replace({"cell": {"ref": "baseline"}}),
        "clean": noise,
        "enhanced": noise,
    }
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), given)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Eight files of half a second, as VoiceBank+DEMAND is laid out."""
    folder, draw = tmp_path_factory.mktemp("stand-in") / "corpus", np.random.default_rng(0)
    for part, speakers in (("train", "abc"), ("test", "d")):
        for name in (f"{speaker}_{number}" for speaker in speakers for number in (1, 2)):
            time = np.arange(12_000) / 16_000
            voice = sum(np.sin(2 * np.pi * 150 * k * time + draw.uniform(0, 6)) / k for k in range(1, 16))
            clean = 0.1 * voice * np.clip(np.sin(2 * np.pi * 2 * time), 0, None)
            for kind, wave in (("clean", clean), ("noisy", clean + 0.02 * draw.normal(size=len(clean)))):
                path = folder / f"{kind}_{part}set_wav" / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 16_000)
    (folder / DEMO_MARK).write_text("{}")
    return folder


class Field:
    """A folder in which the commands of the pages run one after the other."""

    def __init__(self, here: Path, corpus: Path, schema: Path) -> None:
        self.here, self.root, self.schema = here, here / "ablate-runs", schema
        demo = self.root / "cache" / "demo" / sha256(f"{DEMO_VERSION} {engine()}".encode()).hexdigest()[:12]
        demo.parent.mkdir(parents=True)
        demo.symlink_to(corpus)
        for name in ("docs", "examples"):
            (here / name).symlink_to(REPOSITORY / name)
        self.stand_ins = {"DIR": str(corpus), "my_net.py": "docs/examples/my_net.py"}
        installed = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = subprocess_env.environment(STAND_IN_CORPUS=str(corpus), PATH=installed)

    def run(self, words: list[str]) -> str:
        """Run a command to its end; what it wrote to standard error."""
        roots = [self.here / root for option, root in pairwise(words) if option == "--root"]
        for root in roots or [self.root]:
            root.mkdir(exist_ok=True)
            if not (root / "mlflow.db").exists():
                shutil.copyfile(self.schema, root / "mlflow.db")
        program = [sys.executable, STAND_IN] if words[0] == "ablate" else words[:1]
        done = subprocess.run(
            [*program, *(self.stand_ins.get(word, word) for word in words[1:])],
            cwd=self.here,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr

    def study(self) -> None:
        """One study is there before the pages, for what they say of a study, a run and its weights."""
        said = self.run(["ablate", "run", "--grid", "bidirectional,decoder4x,crossband"])
        plan = plans.load(self.root, None)
        page = plans.study_path(self.root.resolve(), plan.name) / "report" / "report.html"
        assert page.is_file()
        assert f"report: {page}" in said.splitlines()
        run = next(iter(plans.run_dirs(plan, self.root).values()))
        self.stand_ins |= {
            "STUDY": plan.name,
            "RUN": run.signature[:8],
            "checkpoints/best.pt": str(run.path / "checkpoints" / "best.pt"),
        }


@pytest.fixture(scope="module")
def field(tmp_path_factory, corpus, schema) -> Field:
    field = Field(tmp_path_factory.mktemp("field"), corpus, schema)
    field.study()
    return field


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not why_not(words) for words in commands(page))]
)
def test_every_command_of_a_page_runs_in_order(page, field):
    for words in commands(page):
        if not why_not(words):
            field.run(words)
