"""A study in one file: plan, scores, curves, report and where they come from; no audio and no weights."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from ablate.ablations.runspec import run_path
from ablate.models.errors import InputError
from ablate.models.plugins import sources
from ablate.training.files import locked, replacing, replacing_folder
from ablate.training.own.code import keep, kept_files
from ablate.training.rundir import RunDir, file_digest, read_json, write_json

from . import plan as plans
from .own import COPIES
from .plan import Plan, study_path

FORMAT = 1
MANIFEST = "manifest.json"
_RUN_FILES = ("spec.json", "state.json", "summary.json", "metrics.jsonl")


def export(root: Path, name: str | None, output: Path) -> dict[str, Any]:
    """Write a study to a `.tar.gz`.

    Args:
        root: of the study.
        name: of the study; none: the one written last.
        output: the file; an old one is replaced as a whole.

    Returns:
        The manifest: `format`, `study`, `ablate`, `created`, `runs` (how many of them are done), and `files`
        (path in the archive -> sha256).

    Raises:
        InputError: there is no such study.
    """
    plan = plans.load(root, name)
    folder = study_path(root, plan.name)
    files = {f"study/{path.relative_to(folder)}": path for path in _study_files(folder)}
    done = 0
    for at in plan.every_length():
        for run in plans.run_dirs(at, root).values():
            done += run.state.state == "done"
            for path in _run_files(run):
                files[f"runs/{run.signature}/{path.relative_to(run.path)}"] = path
    for number, plugin in enumerate(map(Path, plan.plugins)):
        for path in sources(plugin):
            files[f"plugins/{number}/{path.relative_to(plugin.parent)}"] = path
    if plan.train is not None:
        for name_of, path in kept_files(root / COPIES / plan.train.digest).items():
            files[f"code/{plan.train.digest}/{name_of}"] = path
    texts = {
        "environment.json": json.dumps(environment(plan), indent=1),
        "reproduce.sh": reproduce(plan),
    }
    manifest = {
        "format": FORMAT,
        "study": plan.name,
        "ablate": version("ablate"),
        "created": time.time(),
        "runs": done,
        "files": {name: file_digest(path) for name, path in sorted(files.items())}
        | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    texts[MANIFEST] = json.dumps(manifest, indent=1)
    with replacing(output) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name_in_archive, text in texts.items():
            _add_text(archive, name_in_archive, text)
        for name_in_archive, path in sorted(files.items()):
            archive.add(path, name_in_archive, recursive=False, filter=_anonymous)
    return manifest


def import_(archive: Path, root: Path, *, trust_plugins: bool = False) -> Plan:
    """Put an exported study under a root, where it can be reported, looked at and extended.

    Nothing of it is run, and runs that are there already stay as they are. A command that trained it is run
    again only where a study file of one's own names it and its code.

    Args:
        archive: a file of `export`.
        root: where to.
        trust_plugins: let the study's plug-ins be imported, which runs their code.

    Returns:
        The study's plan.

    Raises:
        InputError: the file is no export or is damaged, its study brings plug-ins that are not trusted, or a
            study or run of that name with other content is there.
    """
    if not archive.is_file():
        raise InputError(f"{archive} does not exist")
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        manifest = _unpack(archive, unpacked)
        plugins = sorted((unpacked / "plugins").rglob("*.py"))
        if plugins and not trust_plugins:
            names = ", ".join(path.name for path in plugins)
            raise InputError(
                f"study {manifest['study']!r} brings plug-ins ({names}), whose code would be run; "
                f"read them in {archive}, then import with --trust-plugins"
            )
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "import.lock"):
            _put(unpacked, manifest, root)
    return plans.load(root, manifest["study"])


def _put(unpacked: Path, manifest: dict[str, Any], root: Path) -> None:
    """Copy runs and study under a root, the plan last, so that there is a study when all of it is there."""
    folder = study_path(root, manifest["study"])
    if (folder / "plan.json").exists():
        original = file_digest(folder / "plan.json") == manifest["files"]["study/plan.json"]
        if original or read_json(folder / MANIFEST) == manifest:
            return
        raise InputError(f"another study {manifest['study']!r} is under {folder.parent}; give another --root")
    _check_runs(unpacked, root)
    for source in (unpacked / "code").glob("*"):
        keep(kept_files(source), source.name, root / COPIES)
    for source in sorted((unpacked / "runs").glob("*")):
        target = run_path(root, source.name)
        if not target.exists():
            with replacing_folder(target) as partial:
                shutil.copytree(source, partial, dirs_exist_ok=True)
    shutil.copytree(
        unpacked / "study", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("plan.json")
    )
    plan = json.loads((unpacked / "study" / "plan.json").read_text())
    if (unpacked / "plugins").exists():
        shutil.copytree(unpacked / "plugins", folder / "plugins", dirs_exist_ok=True)
        plan["plugins"] = {
            str(folder / "plugins" / str(number) / Path(path).name): digest
            for number, (path, digest) in enumerate(plan["plugins"].items())
        }
    write_json(folder / MANIFEST, manifest)
    write_json(folder / "plan.json", plan)


def environment(plan: Plan) -> dict[str, Any]:
    """Interpreter, system and packages of this process, and what the plan says of where it was made."""
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
    """A shell script of the command lines that made a study."""
    lines = [
        "#!/bin/sh",
        f"# The commands that made the study {plan.name!r}, with ablate {version('ablate')}.",
        f"# Its corpus had the digest {plan.corpus.digest}.",
        "set -e",
        *plan.commands,
    ]
    return "\n".join(lines) + "\n"


def command_line(arguments: list[str] | None = None) -> str:
    """This process' command line as a shell would take it, without the passwords of addresses in it."""
    from .secrets import redact

    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["ablate", *(redact(word) if "://" in word else word for word in words)])


def _study_files(folder: Path) -> list[Path]:
    report = (path for path in (folder / "report").rglob("*") if path.suffix not in (".wav", ".flac"))
    averages = (folder / "averages").glob("*.parquet")
    return [p for p in (folder / "plan.json", folder / "journal.log", *averages, *report) if p.is_file()]


def _run_files(run: RunDir) -> list[Path]:
    files = [run.path / name for name in _RUN_FILES] + sorted((run.path / "scores").glob("*.parquet"))
    return [path for path in files if path.is_file()]


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, int(time.time())
    archive.addfile(member, io.BytesIO(data))


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    try:
        with tarfile.open(archive, "r:gz") as members:
            members.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive} is no export of a study, or is damaged: {error}") from None
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise InputError(f"{archive} is no export of a study: it has no {MANIFEST}")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{archive} has format {manifest.get('format')!r}; this version reads format {FORMAT}"
        )
    found = {
        str(path.relative_to(folder)): file_digest(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }
    wrong = sorted(set(found.items()) ^ set(manifest["files"].items()))
    if wrong:
        raise InputError(f"{archive} is damaged: {wrong[0][0]} is not what its manifest says")
    return manifest


def _check_runs(unpacked: Path, root: Path) -> None:
    """Refuse where a run that is there has other scores than the archive's."""
    for source in sorted((unpacked / "runs").glob("*/scores/*.parquet")):
        signature = source.parts[-3]
        here = run_path(root, signature) / "scores" / source.name
        if here.exists() and file_digest(here) != file_digest(source):
            raise InputError(
                f"run {signature[:12]} is under {root} with other scores than in the archive; "
                "give another --root to look at both"
            )
