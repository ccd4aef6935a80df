"""Fetching VoiceBank+DEMAND (Valentini-Botinhao 2017, doi 10.7488/ds/2117, CC BY 4.0).

An archive is downloaded to a `.part` file that an interrupted transfer goes on from, compared with its
MD5 (the sums that DataShare shows beside the files), unpacked beside its final folder and renamed.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ablate.models.errors import InputError

from ..files import LockHeldError, locked

BASE_URL = "https://datashare.ed.ac.uk/bitstream/handle/10283/2791"
ATTEMPTS = 5
CHUNK = 1 << 16

_DAMAGED = "{} is damaged and was removed; run the command again ({})"

Progress = Callable[[str, int, int], None]
"""Called with the archive's name, the bytes that are there, and all bytes (0: not known)."""


@dataclass(frozen=True)
class Archive:
    """An archive of the data set: `files` recordings go to the folder `name`; no files: logs."""

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
    """A line for each part of the data set that is not whole in a folder."""
    lines = []
    for archive in archives:
        found = _present(directory, archive)
        if archive.files and found != archive.files:
            lines.append(f"{archive.name}: {found} of {archive.files} files")
        elif not archive.files and not found:
            lines.append(f"{archive.name}: no log_*.txt")
    return lines


def download(
    directory: Path,
    *,
    base_url: str = BASE_URL,
    archives: Sequence[Archive] = ARCHIVES,
    progress: Progress | None = None,
) -> None:
    """Bring the data set into a folder, in the layout it is distributed in; what is there is kept.

    Called again after an interruption it goes on where it stopped. Archives are removed once unpacked.

    Raises:
        InputError: an archive does not have its checksum, its files or a sound content.
        OSError: the transfer failed, or the disk has no room.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    parts = directory / ".download"
    parts.mkdir(parents=True, exist_ok=True)
    try:
        with locked(parts / "lock", wait=False):
            for archive in archives:
                if not missing(directory, [archive]):
                    continue
                name = f"{archive.name}.zip"
                try:
                    fetched = pooch.retrieve(
                        f"{base_url.rstrip('/')}/{name}",
                        known_hash=archive.md5 and f"md5:{archive.md5}",
                        fname=name,
                        path=parts,
                        downloader=_Resumable(parts / f"{name}.part", progress),
                    )
                except ValueError as error:
                    raise InputError(_DAMAGED.format(name, error)) from error
                _unpack(Path(fetched), archive, directory)
                Path(fetched).unlink()
    except LockHeldError:
        raise InputError(f"another process is downloading to {directory}") from None
    shutil.rmtree(parts, ignore_errors=True)


def _present(directory: Path, archive: Archive) -> int:
    if not archive.files:
        return len(list(directory.glob("log_*.txt")))
    return sum(1 for _ in (directory / archive.name).glob("*.wav"))


class _Resumable:
    """A downloader for pooch that keeps what has come and asks for the rest."""

    def __init__(self, part: Path, progress: Progress | None) -> None:
        self.part = part
        self.progress = progress

    def __call__(
        self, url: str, output_file: str | IO[bytes], _pooch: Any, check_only: bool | None = False
    ) -> bool | None:
        import requests
        from requests.exceptions import ChunkedEncodingError

        if check_only:
            return requests.head(url, timeout=30, allow_redirects=True).ok
        failures = 0
        while True:
            before = self._size()
            try:
                self._transfer(url)
                break
            except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
                failures = 0 if self._size() > before else failures + 1
                if failures >= ATTEMPTS:
                    reached = f"{url} broke off at {self._size()} bytes"
                    raise OSError(f"the transfer of {reached}; run the command again ({error})") from error
            except requests.RequestException as error:
                raise OSError(f"cannot fetch {url}: {error}") from error
        if hasattr(output_file, "write"):
            with self.part.open("rb") as source:
                shutil.copyfileobj(source, output_file)
            self.part.unlink()
        else:
            self.part.replace(output_file)
        return None

    def _size(self) -> int:
        with suppress(FileNotFoundError):
            return self.part.stat().st_size
        return 0

    def _transfer(self, url: str) -> None:
        """One request for what is missing; returns when the file is whole."""
        import requests

        start = self._size()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with requests.get(url, headers=headers, stream=True, timeout=60) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(start):
                    return
                self.part.unlink()
                return self._transfer(url)
            if not response.ok:
                raise OSError(f"{url} answered {response.status_code} {response.reason}")
            if response.status_code != requests.codes.partial_content:
                start = 0
            length = response.headers.get("Content-Length")
            total_bytes = start + int(length) if length else 0
            with self.part.open("ab" if start else "wb") as handle:
                done = start
                for chunk in response.iter_content(CHUNK):
                    handle.write(chunk)
                    done += len(chunk)
                    if self.progress is not None:
                        self.progress(self.part.stem, done, total_bytes)
            if total_bytes and done != total_bytes:
                raise requests.ConnectionError(f"{done} of {total_bytes} bytes came")


def _unpack(path: Path, archive: Archive, directory: Path) -> None:
    """Unpack an archive as a whole: recordings into the folder of its name, logs into the directory."""
    suffix = ".wav" if archive.files else ".txt"
    target = directory / archive.name
    partial = directory / ".download" / archive.name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with zipfile.ZipFile(path) as opened:
            members = _members(opened, suffix)
            needed, free = sum(m.file_size for m in members.values()), shutil.disk_usage(directory).free
            if needed > free:
                raise OSError(
                    f"{directory} needs {needed / 1e9:.1f} GB for {path.name}, has {free / 1e9:.1f}"
                )
            if archive.files and len(members) != archive.files:
                raise ValueError(f"it holds {len(members)} recordings instead of {archive.files}")
            for name, member in members.items():
                with opened.open(member) as source, (partial / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK)
    except (zipfile.BadZipFile, ValueError) as error:
        path.unlink()
        raise InputError(_DAMAGED.format(path.name, error)) from error
    if archive.files:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    else:
        for file in partial.iterdir():
            file.replace(directory / file.name)


def _members(opened: zipfile.ZipFile, suffix: str) -> dict[str, zipfile.ZipInfo]:
    """The wanted files of an archive by plain name; its folders are dropped."""
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
