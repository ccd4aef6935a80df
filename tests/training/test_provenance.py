from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ablate.training.provenance import git_commit, machine


def git(folder: Path, *arguments: str) -> str:
    names = {
        f"GIT_{who}_{what}": "nobody@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | names,
    )
    return done.stdout.strip()


def test_the_commit_of_a_folder_that_git_keeps(tmp_path):
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == git_commit(tmp_path / "kept") == head
    (tmp_path / "kept" / "a.txt").write_text("2")
    assert git_commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "b.txt").write_text("1")
    assert git_commit(tmp_path / "installed") is None
    assert git_commit(tmp_path / "missing") is None


def test_the_machine_in_a_line():
    assert f"{os.cpu_count()} cores" in machine()
