"""The repository of docs/audit_ci.md: its workflow and its hook, run as GitHub and pre-commit would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "lint"
HOOKS = yaml.safe_load((EXAMPLE / ".pre-commit-config.yaml").read_text())
WORKFLOW = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "audit.yml").read_text())
FAULT = "return torch.sigmoid(self.write(self.read(magnitude)))"
"""The gate is built and never called."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "repository", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "repository"


def break_network(repository: Path) -> int:
    """Plant a fault, and give the line at which it is to be found."""
    net = repository / "net.py"
    lines = net.read_text().splitlines()
    (last,) = (n for n, line in enumerate(lines) if "self.gate(self.read" in line)
    lines[last] = f"        {FAULT}"
    net.write_text("\n".join(lines) + "\n")
    return 1 + next(n for n, line in enumerate(lines) if "self.gate = Gate" in line)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-e", "-c", command], cwd=folder, env=env, capture_output=True, text=True)


def steps(folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """The `run:` steps after the installation, by name; one that fails skips the rest but `always()`."""
    (job,) = WORKFLOW["jobs"].values()
    named: list[dict[str, Any]] = [step for step in job["steps"] if "name" in step]
    assert [step["run"] for step in job["steps"] if "run" in step and "name" not in step] == [
        "pip install ablate-speech"
    ]
    done: dict[str, subprocess.CompletedProcess[str]] = {}
    for step in named:
        failed = any(each.returncode for each in done.values())
        if not failed or step.get("if") == "always()":
            done[step["name"]] = shell(step["run"], folder)
    return done


@pytest.mark.slow
def test_workflow_annotates_the_line_and_fails(repository: Path) -> None:
    annotate, write = steps(repository).values()
    assert annotate.returncode == 0, annotate.stderr
    assert "::error" not in annotate.stdout
    assert write.returncode == 0
    line = break_network(repository)
    annotate, write = steps(repository).values()
    assert annotate.returncode == 5
    assert f"::error file=net.py,line={line}," in annotate.stdout
    assert write.returncode == 0
    log = json.loads((repository / "audit.sarif").read_text())
    assert log["version"] == "2.1.0"
    places = [
        place["physicalLocation"]
        for result in log["runs"][0]["results"]
        if result["level"] == "error"
        for place in result["locations"]
    ]
    assert {"net.py"} == {place["artifactLocation"]["uri"] for place in places}
    assert line in {place["region"]["startLine"] for place in places}
    (upload,) = (
        step for step in WORKFLOW["jobs"]["audit"]["steps"] if "upload-sarif" in step.get("uses", "")
    )
    assert upload["with"]["sarif_file"] == "audit.sarif"
    assert WORKFLOW["permissions"]["security-events"] == "write"


@pytest.mark.slow
def test_hook_refuses_a_commit_of_a_fault(repository: Path) -> None:
    (hook,) = (hook for repo in HOOKS["repos"] for hook in repo["hooks"])
    assert hook["language"] == "system"
    assert shell(hook["entry"], repository).returncode == 0
    break_network(repository)
    assert shell(hook["entry"], repository).returncode == 5


def test_page_shows_the_example() -> None:
    page = (REPOSITORY / "docs" / "audit_ci.md").read_text()
    assert (EXAMPLE / ".pre-commit-config.yaml").read_text() in page
    assert all(step in page for step in ("--format github", "--format sarif", "security-events: write"))
