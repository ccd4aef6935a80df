"""Findings with file and line: SARIF, annotations of GitHub, and the example repository that uses both."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch import nn

from ablate.ablations.audit.finding import Finding
from ablate.ablations.audit.lint import github, place, sarif

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "examples" / "lint"
SOURCE = """import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))


class Net(Gate):
    def __init__(self):
        super().__init__()
        self.gate = Gate()
        setattr(self, "hidden" + "1", nn.Linear(4, 4))
"""


@pytest.fixture
def network(tmp_path, monkeypatch) -> nn.Module:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / "net_of_lint.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("net_of_lint", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "net_of_lint", module)
    spec.loader.exec_module(module)
    return module.Net()


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(SOURCE.splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("gate.linear.weight", "self.linear ="),
        ("under gate", "self.gate ="),
        ("gate.mean", '"mean"'),
        ("gate.layers.1.bias", "self.layers ="),
        ("linear", "self.linear ="),
        ("hidden1.weight", "class Net"),
    ],
)
def test_a_finding_is_at_the_line_that_makes_the_part(network, where, line):
    assert place(where, [network], None) == ("src/net_of_lint.py", line_of(line))


def test_what_no_line_makes_is_at_the_head_of_the_plug_in(network, tmp_path):
    assert place("study", [network], tmp_path / "src" / "plugin.py") == ("src/plugin.py", 1)
    assert place("study", [network], None) is None


def test_sources_that_are_not_below_here_are_not_named(network, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert place("gate.linear", [network], None) is None


def test_ignored_errors_are_suppressed_and_notes_are_notes():
    found = [
        (Finding.of("A101", "gate", "gate: 50%, dead", "use it"), ("a,b.py", 3)),
        (Finding.of("A302", "core", "twice the size", "match it"), None),
    ]
    log = sarif(found, frozenset({"A101"}), "1.2")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["A101", "A302"]
    dead, size = run["results"]
    assert (dead["level"], dead["suppressions"]) == ("error", [{"kind": "external"}])
    region = {"artifactLocation": {"uri": "a,b.py"}, "region": {"startLine": 3}}
    assert dead["locations"] == [{"physicalLocation": region}]
    assert (size["level"], "locations" in size, "suppressions" in size) == ("note", False, False)
    assert github(found, frozenset()) == [
        "::error file=a%2Cb.py,line=3,title=A101 dead-parameter::gate: 50%25, dead. To fix it: use it.",
        "::notice title=A302 capacity-confound::core: twice the size. To fix it: match it.",
    ]
    assert github(found, frozenset({"A101"}))[0].startswith("::notice file=a%2Cb.py")


def steps_of_example(folder: Path) -> dict[str, list[str]]:
    """The commands of the example's hook and workflow."""
    (hook,) = yaml.safe_load((folder / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    steps = yaml.safe_load((folder / ".github/workflows/audit.yml").read_text())["jobs"]["audit"]["steps"]
    lines = [step["run"].partition(" >")[0] for step in steps if "ablate audit" in step.get("run", "")]
    return {"hook": shlex.split(hook["entry"]), "github": lines[0].split(), "sarif": lines[1].split()}


@pytest.mark.slow
def test_the_example_passes_and_a_fault_is_found_at_its_line(tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(EXAMPLE, folder)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )

    steps = steps_of_example(folder)
    done = run(steps["hook"])
    assert done.returncode == 0, done.stdout + done.stderr
    net = folder / "net.py"
    net.write_text(
        net.read_text().replace("self.gate =", "self.spare = nn.Linear(width, 3)\n        self.gate =")
    )
    line = next(n for n, text in enumerate(net.read_text().splitlines(), 1) if "spare" in text)
    assert run(steps["hook"]).returncode == 5
    annotated = run(steps["github"])
    assert annotated.returncode == 5
    assert f"::error file=net.py,line={line},title=A101 dead-parameter::" in annotated.stdout
    scanned = json.loads(run(steps["sarif"]).stdout)["runs"][0]["results"]
    (location,) = scanned[0]["locations"]
    assert location["physicalLocation"]["region"]["startLine"] == line
