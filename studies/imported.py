"""Import a study from an archive that need not be trusted: its code is not run.

The scores of an imported run were not measured here; a mark in the run records that.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import ValidationError

from ablate.ablations.runspec import run_path
from ablate.models import plugins, trust
from ablate.models.errors import InputError, explain
from ablate.training.files import atomic_folder, locked
from ablate.training.rundir import RunDir, file_digest, read_json, write_json
from ablate.training.train_command.code import keep, kept_files

from . import plan as plans
from .archive import FORMAT, MANIFEST
from .plan import Plan, study_path
from .train_command import COPIES

MARK = "imported.json"
"""File in an imported run's directory: the `studies` that imported or accepted it, and its number of
`attempts` at the import."""
_HEX = "[0-9a-f]{64}"
_KEPT = re.compile(
    rf"study/plan\.json|study/averages/{_HEX}\.parquet|plugins/\d+/.+\.py|code/{_HEX}/.+|manifest\.json"
    rf"|runs/{_HEX}/((spec|state|summary)\.json|metrics\.jsonl|scores/{_HEX}\.parquet)"
)
_SHOWN_TO_READERS = re.compile(r"environment\.json|reproduce\.sh|study/journal\.log|study/report/.+")
"""Files of an export for human readers; checked, but not kept. Reports are rendered again."""
LEAST, RATIO = 64 << 20, 100
"""Maximum unpacked size: this many bytes, or this multiple of the archive's size, whichever is larger."""


def import_(archive: Path, root: Path, *, trust_plugins: bool = False) -> Plan:
    """Import an exported study so that it can be reported and extended.

    None of its code is run, and existing runs stay as they are. Its training command is run again only if
    your own study file names the command and its code.

    Args:
        trust_plugins: trust the code of the study's plug-ins.

    Raises:
        InputError: the file is not an export, is damaged, or contains something that exports never do; a
            study or run of that name exists with other content; or another study under the root plans a run
            that the import would add.
    """
    if not archive.is_file():
        raise InputError(f"{archive} does not exist")
    root = root.absolute()
    with _readable(archive), tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        manifest = _unpack(archive, unpacked)
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "import.lock"):
            return _put(unpacked, manifest, root, trust_plugins)


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn errors from malformed content into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = explain(error) if isinstance(error, ValidationError) else repr(error)
        raise InputError(f"{archive} is not a file of ablate export: {why}") from None


def untrusted(plan: Plan) -> list[str]:
    """The plug-ins of a study that cannot be used: not trusted, or their code is missing."""
    return [
        path
        for path, digest in plan.plugins.items()
        if digest is None or not trust.is_trusted(Path(path).resolve(), digest)
    ]


def is_imported(run: RunDir) -> bool:
    """Whether a run was finished elsewhere and imported."""
    mark = read_json(run.path / MARK)
    return mark is not None and mark["attempts"] == run.state.attempts


def unaccepted(run: RunDir, study: str) -> bool:
    """Whether a run was imported, but neither with this study nor accepted for it."""
    return is_imported(run) and study not in read_json(run.path / MARK)["studies"]


def accept(run: RunDir, study: str) -> None:
    """Let a study use an imported run."""
    mark = read_json(run.path / MARK) or {"studies": [], "attempts": run.state.attempts}
    write_json(run.path / MARK, mark | {"studies": sorted({*mark["studies"], study})})


def _put(unpacked: Path, manifest: dict[str, Any], root: Path, trusted: bool) -> Plan:
    """Copy runs and study to a root. The plan is written last, so the study exists only when complete."""
    folder = study_path(root, manifest["study"])
    raw = json.loads((unpacked / "study" / "plan.json").read_text())
    if raw["name"] != manifest["study"]:
        raise InputError(f"the archive's plan is of {raw['name']!r}, its manifest of {manifest['study']!r}")
    if (folder / "plan.json").exists():
        if not _is_of(manifest, folder):
            raise InputError(f"another study {raw['name']!r} is in {folder.parent}; use another --root")
        plan = plans.load(root, raw["name"])
        _trust(plan.plugins, trusted)
        return plan
    placed = folder / "plugins"
    try:
        raw["plugins"] = _take_plugins(unpacked / "plugins", raw.get("plugins"), placed)
        _trust(raw["plugins"], trusted)
        plan = plans.parse(json.dumps(raw), folder / "plan.json")
        runs = dict(_runs(plan))
        _check_runs(unpacked, root, runs)
    except BaseException:
        shutil.rmtree(placed, ignore_errors=True)
        raise
    if plan.train is not None and (source := unpacked / "code" / plan.train.digest).exists():
        keep(kept_files(source), source.name, root / COPIES)
    for signature, (spec, scores) in runs.items():
        _take_run(unpacked / "runs" / signature, spec, scores, RunDir(run_path(root, signature)), plan.name)
    if (averages := unpacked / "study" / "averages").exists():
        shutil.copytree(averages, folder / "averages", dirs_exist_ok=True)
    write_json(folder / MANIFEST, manifest)
    plans.save(plan, root)
    return plan


def _is_of(manifest: dict[str, Any], folder: Path) -> bool:
    """Whether the study in a folder is the archive's: the exported original, or an earlier import of it."""
    original = file_digest(folder / "plan.json") == manifest["files"]["study/plan.json"]
    return original or read_json(folder / MANIFEST) == manifest


def _take_plugins(source: Path, named: Any, target: Path) -> dict[str, str | None]:
    """Copy the plug-ins of a plan and check their digests. Returns the path of each copy -> digest.

    Raises:
        InputError: the archive's code does not match the digests in its plan.
    """
    found: dict[str, str | None] = {}
    expected: set[Path] = set()
    for number, (path, digest) in enumerate(named.items() if isinstance(named, dict) else ()):
        file = source / str(number) / Path(path).name
        if digest is None or not file.is_file():
            found[path] = digest
            continue
        try:
            expected |= set(plugins.sources(file))
            code = plugins.code_digest(file)
        except (SyntaxError, ValueError) as error:
            raise InputError(f"plug-in {file.name} of the archive is not valid Python: {error}") from None
        if code != digest:
            raise InputError(f"plug-in {file.name} of the archive does not match the digest in its plan")
        found[str(target / str(number) / file.name)] = digest
    if more := sorted(path for path in source.rglob("*") if path.is_file() and path not in expected):
        raise InputError(f"the archive has code that its plan does not name: {more[0].relative_to(source)}")
    if expected:
        shutil.copytree(source, target, dirs_exist_ok=True)
    return found


def _trust(planned: Mapping[str, str | None], asked: bool) -> None:
    """Trust the plug-ins in a study's folder, if `asked` or if their code is known."""
    for path, digest in planned.items():
        if digest is not None and Path(path).is_file() and (asked or trust.is_known(digest)):
            trust.grant(Path(path).resolve(), digest)


def _runs(plan: Plan) -> Iterator[tuple[str, tuple[dict[str, Any], tuple[str, ...]]]]:
    """Every run of a plan: its signature, its `spec.json`, and the evaluation signatures it is scored as.

    Raises:
        InputError: a signature does not match its run.
    """
    for at in plan.every_step_fraction():
        for cell, seed in at.runs:
            signature, spec = cell.signatures[seed], at.spec(cell, seed)
            if spec.results_version(signature) is None:
                raise InputError(f"{cell.name}, seed {seed}: {signature[:12]} is not this run's signature")
            yield signature, (spec.document() | {"training_signature": signature}, cell.scored_as(seed))


def _take_run(source: Path, spec: dict[str, Any], scores: tuple[str, ...], run: RunDir, study: str) -> None:
    """Copy a finished run and mark it as imported; an existing one stays as it is."""
    brought = RunDir(source)
    if run.path.exists():
        if (run.path / MARK).exists():
            accept(run, study)
    elif brought.state.state in ("done", "failed", "diverged"):
        if not all(isinstance(line, dict) for line in (brought.summary, *brought.metrics())):
            raise InputError(f"run {run.signature[:12]} of the archive is damaged")
        for path in source.glob("scores/*.parquet"):
            if path.stem not in scores:
                path.unlink()
        ours: dict[str, dict[str, Any]] = {"spec.json": spec}
        ours[MARK] = {"studies": [study], "attempts": brought.state.attempts}
        if summary := brought.summary:
            ours["summary.json"] = {"imported": True} | summary
        for name, content in ours.items():  # not durably: it is copied
            (source / name).write_text(json.dumps(content))
        with atomic_folder(run.path) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)


def _check_runs(unpacked: Path, root: Path, planned: Collection[str]) -> None:
    """Check that the runs are in the plan, have the same scores here, and are not planned by another study.

    Raises:
        InputError: a run fails the check.
    """
    brought = {path.name for path in (unpacked / "runs").glob("*")}
    if more := sorted(brought - set(planned)):
        raise InputError(f"the archive contains a run that is not in its plan: {more[0][:12]}")
    for source in sorted((unpacked / "runs").glob("*/scores/*.parquet")):
        here = run_path(root, source.parts[-3]) / "scores" / source.name
        if here.exists() and file_digest(here) != file_digest(source):
            raise InputError(
                f"run {source.parts[-3][:12]} is under {root} with scores that differ from the archive's; "
                "import into another --root to compare them"
            )
    new = {signature for signature in brought if not run_path(root, signature).exists()}
    for other in plans.names(root):
        shared = [at.cells for at in plans.load(root, other).every_step_fraction()]
        if new & {signature for cells in shared for cell in cells for signature in cell.signatures.values()}:
            raise InputError(
                f"study {other!r} under {root} has planned runs that are finished in the archive; import "
                "into another --root, so that it does not use imported scores as its own"
            )


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive and check all files against its manifest.

    Raises:
        InputError: the archive is damaged, too large, or not an export.
    """
    found: dict[str, str] = {}
    most = max(LEAST, RATIO * archive.stat().st_size)
    try:
        with (
            gzip.open(archive) as stream,
            tarfile.open(fileobj=_Limited(stream, most), mode="r|") as members,  # type: ignore[call-overload]
        ):
            for member in members:
                content = members.extractfile(_checked(member, found))
                assert content is not None
                found[member.name] = _written(content, folder / member.name)
    except _TooLargeError:
        raise InputError(
            f"{archive} unpacks to more than {most / 1e6:,.0f} MB, too much for an export of its size"
        ) from None
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive} is damaged, or is not a file of ablate export: {error}") from None
    if found.pop(MANIFEST, None) is None:
        raise InputError(f"{archive} is not a file of ablate export: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if manifest["format"] != FORMAT:
        raise InputError(f"{archive} has format {manifest['format']!r}; this version reads format {FORMAT}")
    if wrong := sorted(set(found.items()) ^ set(manifest["files"].items())):
        raise InputError(f"{archive} is damaged: {wrong[0][0]} does not match its manifest")
    return manifest


def _checked(member: tarfile.TarInfo, found: Collection[str]) -> tarfile.TarInfo:
    """The member, checked: a regular file that occurs once and has a name that exports use."""
    name = member.name
    plain = str(PurePosixPath(name)) == name and ".." not in PurePosixPath(name).parts
    if not (plain and (_KEPT.fullmatch(name) or _SHOWN_TO_READERS.fullmatch(name))) or name in found:
        raise tarfile.TarError(f"an export has no member {name!r}{' twice' if name in found else ''}")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise tarfile.TarError(f"its member {name!r} is not a regular file")
    return member


def _written(content: IO[bytes], path: Path) -> str:
    """Write a file. Returns its sha256."""
    total = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while data := content.read(1 << 20):
            total.update(data)
            file.write(data)
    return total.hexdigest()


class _TooLargeError(Exception):
    """An archive is too large when unpacked."""


class _Limited:
    """A stream that raises after a maximum number of bytes, including headers."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        return data
