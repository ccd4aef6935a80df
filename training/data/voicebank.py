"""Downloads VoiceBank+DEMAND (Valentini-Botinhao 2017, doi 10.7488/ds/2117, CC BY 4.0).

An archive is downloaded to a `.part` file, which an interrupted transfer continues, then checked by its MD5
(published on DataShare beside the files), unpacked beside its final folder, and renamed.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path, PurePosixPath

from ablate.models.errors import InputError

from ..files import LockHeldError, locked

BASE_URL = "https://datashare.ed.ac.uk/bitstream/handle/10283/2791"
ATTEMPTS = 5
CHUNK = 1 << 16

Progress = Callable[[str, int, int], None]
"""Called with the archive's name, the bytes present, and all bytes (0: unknown)."""


@dataclass(frozen=True)
class Archive:
    """An archive of the data set: `files` recordings for the folder `name`; without files it has logs."""

    name: str
    md5: str | None
    files: int = 0


ARCHIVES: tuple[Archive, ...] = (
    Archive("logfiles", "0d16f5b6afe12d64238d1e4a0e6ff6e8"),
    Archive("clean_testset_wav", "34eb1c0ba7ef667e9b966866c542fc16", 824),
    Archive("noisy_testset_wav", "fb1b86caa31e8ba5b506c0c64da9aab5", 824),
    Archive("clean_trainset_28spk_wav", "d2d5a45ec32f8fcbf201bde0447e20ba", 11_572),
    Archive("noisy_trainset_28spk_wav", "1fca9e8bafb8cd069f6653c6d92f9e9c", 11_572),
)


def missing(directory: Path, archives: Sequence[Archive] = ARCHIVES) -> list[str]:
    """A line for each incomplete part of the data set in a folder."""
    lines = []
    for archive in archives:
        found = len(list((directory / archive.name).glob("*.wav")))
        if found != archive.files:
            lines.append(f"{archive.name}: {found} of {archive.files} files")
        elif not archive.files and not any(directory.glob("log_*.txt")):
            lines.append(f"{archive.name}: no log_*.txt")
    return lines


def download(
    directory: Path,
    *,
    base_url: str = BASE_URL,
    archives: Sequence[Archive] = ARCHIVES,
    progress: Progress | None = None,
) -> None:
    """Download the missing parts of the data set into a folder, in their published layout.

    Continues an interrupted download. Archives are removed after unpacking.

    Raises:
        InputError: an archive fails its checksum, lacks files or is damaged.
        OSError: the transfer failed, or the disk is full.
    """
    parts = directory / ".download"
    parts.mkdir(parents=True, exist_ok=True)
    try:
        with locked(parts / "lock", wait=False):
            for archive in archives:
                if not missing(directory, [archive]):
                    continue
                part = parts / f"{archive.name}.zip.part"
                _fetch(f"{base_url.rstrip('/')}/{part.stem}", part, progress)
                try:
                    _unpack(part, archive, directory)
                except (zipfile.BadZipFile, ValueError) as error:
                    part.unlink()
                    raise InputError(
                        f"{part.stem} is damaged and was removed; run the command again ({error})"
                    ) from error
                part.unlink()
    except LockHeldError:
        raise InputError(f"another process is downloading to {directory}") from None
    shutil.rmtree(parts, ignore_errors=True)


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Download a file, continuing an earlier transfer.

    Raises:
        OSError: it fails repeatedly, or the server has no such file.
    """
    import requests
    from requests.exceptions import ChunkedEncodingError

    failures, done = 0, False
    while not done:
        before = _size(part)
        try:
            done = _transfer(url, part, progress)
        except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                reached = f"{url} broke off at {_size(part)} bytes"
                raise OSError(f"the transfer of {reached}; run the command again ({error})") from error
        except requests.RequestException as error:
            raise OSError(f"cannot fetch {url}: {error}") from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, part: Path, progress: Progress | None) -> bool:
    """One request for the missing part; whether the file is then complete."""
    import requests

    start = _size(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with requests.get(url, headers=headers, stream=True, timeout=60) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if response.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                return True
            part.unlink()
            return False
        if not response.ok:
            raise OSError(f"{url} answered {response.status_code} {response.reason}")
        if response.status_code != requests.codes.partial_content:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else 0
        done = start
        with part.open("ab" if start else "wb") as handle:
            for chunk in response.iter_content(CHUNK):
                handle.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(part.stem, done, total)
        if total and done != total:
            raise requests.ConnectionError(f"{done} of {total} bytes came")
        return True


def _unpack(path: Path, archive: Archive, directory: Path) -> None:
    """Unpack a whole archive: recordings into the folder of its name, logs into the directory."""
    suffix = ".wav" if archive.files else ".txt"
    target = directory / archive.name
    partial = directory / ".download" / archive.name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with path.open("rb") as whole:
        if archive.md5 and file_digest(whole, "md5").hexdigest() != archive.md5:
            raise ValueError("its checksum is not the published one")
    with zipfile.ZipFile(path) as opened:
        members = _members(opened, suffix)
        needed, free = sum(m.file_size for m in members.values()), shutil.disk_usage(directory).free
        if needed > free:
            raise OSError(f"{directory} needs {needed / 1e9:.1f} GB for {path.stem}, has {free / 1e9:.1f}")
        if archive.files and len(members) != archive.files:
            raise ValueError(f"it holds {len(members)} recordings instead of {archive.files}")
        for name, member in members.items():
            with opened.open(member) as source, (partial / name).open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK)
    if archive.files:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    else:
        for file in partial.iterdir():
            file.replace(directory / file.name)


def _members(opened: zipfile.ZipFile, suffix: str) -> dict[str, zipfile.ZipInfo]:
    """The wanted files of an archive by plain name, without its folders."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename:
            raise ValueError(f"it has an unsafe name, {member.filename!r}")
        if member.is_dir() or "__MACOSX" in path.parts or path.name.startswith("."):
            continue
        if path.suffix.lower() == suffix:
            if path.name in members:
                raise ValueError(f"it has {path.name} twice")
            members[path.name] = member
    return members
