"""Export a study to one file: plan, scores, curves, report and environment; no audio or weights."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shlex
import sys
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ablate.models.distribution import version_of
from ablate.models.plugins import code_digest, sources
from ablate.training.files import atomic_write
from ablate.training.rundir import RunDir
from ablate.training.train_command.code import kept_files

from . import plan as plans
from .plan import Plan, study_path
from .train_command import COPIES

FORMAT = 1
MANIFEST = "manifest.json"
_RUN_FILES = ("spec.json", "state.json", "summary.json", "metrics.jsonl")


def export(root: Path, name: str | None, output: Path) -> dict[str, Any]:
    """Write a study (default: the most recent) to a `.tar.gz`.

    Returns:
        The manifest: `format`, `study`, `ablate`, `created`, `runs` (number of finished runs), `left_out`
        (plug-ins whose code is no longer that of the plan), and `files` (path in the archive -> sha256).

    Raises:
        InputError: there is no such study.
    """
    folder = study_path(root, plans.find(root, name))
    written = (folder / "plan.json").read_text()
    plan = plans.parse(written, folder / "plan.json")
    files = {f"study/{path.relative_to(folder)}": path for path in _study_files(folder)}
    done = 0
    for at in plan.every_step_fraction():
        for (cell, seed), run in plans.run_dirs(at, root).items():
            scored = at.cell(cell).scored_as(seed)
            done += run.state.state == "done"
            for path in _run_files(run, scored):
                files[f"runs/{run.signature}/{path.relative_to(run.path)}"] = path
    left_out = []
    for number, (plugin, digest) in enumerate((Path(path), code) for path, code in plan.plugins.items()):
        if not plugin.is_file() or code_digest(plugin) != digest:
            left_out.append(str(plugin))
            continue
        for path in sources(plugin):
            files[f"plugins/{number}/{path.relative_to(plugin.parent)}"] = path
    if plan.train is not None:
        for name_of, path in kept_files(root / COPIES / plan.train.digest).items():
            files[f"code/{plan.train.digest}/{name_of}"] = path
    texts = {
        "environment.json": json.dumps(environment(plan), indent=1),
        "reproduce.sh": reproduce(plan),
        "study/plan.json": written,
    }
    digests: dict[str, str] = {}
    manifest = {
        "format": FORMAT,
        "study": plan.name,
        "ablate": version_of("ablate"),
        "created": time.time(),
        "runs": done,
        "left_out": left_out,
        "files": digests,
    }
    with atomic_write(output) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name_in_archive, text in texts.items():
            digests[name_in_archive] = _add(archive, name_in_archive, text.encode())
        for name_in_archive, path in sorted(files.items()):
            with suppress(FileNotFoundError):  # of a study that runs, a file may have gone by now
                digests[name_in_archive] = _add(archive, name_in_archive, path.read_bytes())
        _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def environment(plan: Plan) -> dict[str, Any]:
    """Interpreter, system and packages of this process, and those recorded in the plan."""
    installed = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": dict(sorted(installed.items(), key=lambda item: item[0].lower())),
        "planned_with": plan.versions,
        "planned_on": plan.machine,
        "commit": plan.git_commit,
    }


def reproduce(plan: Plan) -> str:
    """A shell script with the command lines that created a study."""
    lines = [
        "#!/bin/sh",
        f"# Commands that made the study {plan.name!r}, with ablate {version_of('ablate')}.",
        f"# Digest of its corpus: {plan.corpus.digest}.",
        "set -e",
        *plan.commands,
    ]
    return "\n".join(lines) + "\n"


def command_line(arguments: list[str] | None = None) -> str:
    """This process's command line, quoted for a shell, without passwords in URLs."""
    from .redaction import redact

    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["ablate", *(redact(word) if "://" in word else word for word in words)])


def _study_files(folder: Path) -> list[Path]:
    report = (path for path in (folder / "report").rglob("*") if path.suffix not in (".wav", ".flac"))
    averages = (folder / "averages").glob("*.parquet")
    return [path for path in (*averages, *report) if path.is_file()]


def _run_files(run: RunDir, scored: Iterable[str]) -> list[Path]:
    files = [*(run.path / name for name in _RUN_FILES), *map(run.scores_path, scored)]
    return [path for path in files if path.is_file()]


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> str:
    """Write a file; returns the sha256 of its content."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, int(time.time())
    archive.addfile(member, io.BytesIO(data))
    return hashlib.sha256(data).hexdigest()
