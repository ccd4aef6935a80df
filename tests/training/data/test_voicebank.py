"""The download of VoiceBank+DEMAND, against a server on the loopback."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ablate.training.data.voicebank import ARCHIVES, CHUNK, Archive, download, missing


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut` bytes are sent of each first answer about a file; `ranges` are the asked ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.ranges: list[tuple[str, str | None]] = []
        self.honours_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        wanted = self.headers.get("Range")
        self.server.ranges.append((name, wanted))
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.honours_ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start : self.server.cut.pop(name, len(body))])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def recordings(folder: str, count: int = 2) -> bytes:
    return zipped({f"{folder}/p232_{i:03d}.wav": bytes([i]) * 3000 for i in range(count)})


def offer(server: Server, name: str, content: bytes, files: int = 2) -> Archive:
    server.files[f"{name}.zip"] = content
    return Archive(name, md5(content).hexdigest(), files)


def test_brings_recordings_and_logs_and_does_not_ask_again(server: Server, tmp_path: Path) -> None:
    archives = [
        offer(server, "clean_testset_wav", recordings("clean_testset_wav")),
        offer(server, "logfiles", zipped({"logs/log_testset.txt": b"p232_000 bus 2.5\n", "x.doc": b"-"}), 0),
    ]
    assert missing(tmp_path, archives) == ["clean_testset_wav: 0 of 2 files", "logfiles: no log_*.txt"]
    seen: list[tuple[str, int, int]] = []
    download(tmp_path, base_url=server.url, archives=archives, progress=lambda *row: seen.append(row))
    assert missing(tmp_path, archives) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean_testset_wav", "log_testset.txt"]
    assert (tmp_path / "clean_testset_wav" / "p232_001.wav").read_bytes() == b"\1" * 3000
    size = len(server.files["clean_testset_wav.zip"])
    assert ("clean_testset_wav.zip", size, size) in seen
    asked = len(server.ranges)
    download(tmp_path, base_url=server.url, archives=archives)
    assert len(server.ranges) == asked


def test_an_interrupted_transfer_goes_on(server: Server, tmp_path: Path) -> None:
    archive = offer(server, "clean_testset_wav", recordings("clean_testset_wav", 80), 80)
    server.cut = {"clean_testset_wav.zip": 150_000}
    download(tmp_path, base_url=server.url, archives=[archive])
    assert [wanted for _, wanted in server.ranges] == [None, f"bytes={2 * CHUNK}-"]
    assert missing(tmp_path, [archive]) == []


@pytest.mark.parametrize(("there", "honours"), [(1000, True), (1000, False), (-1, True)])
def test_a_later_call_takes_up_the_part(server: Server, tmp_path: Path, there: int, honours: bool) -> None:
    archive = offer(server, "clean_testset_wav", recordings("clean_testset_wav"))
    body = server.files["clean_testset_wav.zip"]
    server.honours_ranges = honours
    part = tmp_path / ".download" / "clean_testset_wav.zip.part"
    part.parent.mkdir()
    part.write_bytes(body[:there] if there > 0 else body)
    download(tmp_path, base_url=server.url, archives=[archive])
    assert [wanted for _, wanted in server.ranges] == [f"bytes={there if there > 0 else len(body)}-"]
    assert missing(tmp_path, [archive]) == []


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    archive = offer(server, "clean_testset_wav", recordings("clean_testset_wav"))
    server.files["clean_testset_wav.zip"] = recordings("clean_testset_wav", 3)
    with pytest.raises(ValueError, match=r"clean_testset_wav\.zip is damaged"):
        download(tmp_path, base_url=server.url, archives=[archive])
    assert not (tmp_path / "clean_testset_wav").exists()
    server.files["clean_testset_wav.zip"] = recordings("clean_testset_wav")
    download(tmp_path, base_url=server.url, archives=[archive])
    assert missing(tmp_path, [archive]) == []


def test_damage_inside_a_zip_is_found_without_a_checksum(server: Server, tmp_path: Path) -> None:
    body = bytearray(recordings("clean_testset_wav"))
    body[1500] ^= 0xFF
    server.files["clean_testset_wav.zip"] = bytes(body)
    with pytest.raises(ValueError, match="CRC"):
        download(tmp_path, base_url=server.url, archives=[Archive("clean_testset_wav", None, 2)])
    assert not (tmp_path / "clean_testset_wav").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../evil.wav": b"x", "a.wav": b"y"}, "unsafe name"),
        ({"/tmp/evil.wav": b"x", "a.wav": b"y"}, "unsafe name"),
        ({"a/one.wav": b"x", "b/one.wav": b"y"}, "twice"),
        ({"one.wav": b"x"}, "1 recordings instead of 2"),
    ],
)
def test_a_bad_archive_is_refused(
    server: Server, tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    target = tmp_path / "deep" / "set"
    archive = offer(server, "clean_testset_wav", zipped(members))
    with pytest.raises(ValueError, match=message):
        download(target, base_url=server.url, archives=[archive])
    assert not list(tmp_path.rglob("*.wav"))


def test_a_missing_file_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"noisy_testset_wav\.zip answered 404"):
        download(tmp_path, base_url=server.url, archives=[Archive("noisy_testset_wav", None, 2)])


def test_the_data_set_is_the_published_one() -> None:
    assert {archive.name: archive.files for archive in ARCHIVES if archive.files} == {
        "clean_trainset_28spk_wav": 11_572,
        "noisy_trainset_28spk_wav": 11_572,
        "clean_testset_wav": 824,
        "noisy_testset_wav": 824,
    }
    assert all(archive.md5 and len(archive.md5) == 32 for archive in ARCHIVES)
