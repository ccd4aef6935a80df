"""Locks go with their holder, can be inherited, and are looked at without touching anything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.training.files import LockHeldError, append_lines, atomic_write, is_locked, locked, read_lines


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    with atomic_write(path) as temporary:
        temporary.write_text("1")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("2")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_and_goes_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path, wait=False):
        assert is_locked(path)
        with pytest.raises(LockHeldError, match="lock is held"), locked(path, wait=False):
            pass
    assert not is_locked(path)
    code = (
        "import sys, time; from pathlib import Path; from ablate.training.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_locked(path)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(path):
        pass


def test_a_child_inherits_the_lock(tmp_path):
    path = tmp_path / "lock"
    with locked(path) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
    try:
        assert is_locked(path)
    finally:
        child.communicate(b"\n")
    assert not is_locked(path)


def test_looking_at_a_lock_makes_nobody_fail_and_changes_nothing(tmp_path):
    path = tmp_path / "run" / "lock"
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []
    with locked(path):
        pass
    before = path.stat().st_mtime_ns, sorted(path.parent.iterdir())
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            is_locked(path)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(200):
            with locked(path, wait=False):
                pass
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
    assert (path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


def test_a_lock_is_looked_at_on_a_read_only_disk(tmp_path):
    with locked(tmp_path / "lock"):
        pass
    mount = ["mount", "-o", "bind,ro", str(tmp_path), str(tmp_path)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path)], check=True)
    try:
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "x").touch()
        assert not is_locked(tmp_path / "lock")
        assert not is_locked(tmp_path / "other")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_one_who_waits_gets_the_lock(tmp_path):
    path, order = tmp_path / "lock", []

    def wait() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.05)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


LINES = [{"step": step, "loss": 0.5} for step in range(4)]


@settings(deadline=None)
@given(cut=st.integers(1, 100), tail=st.sampled_from([b"", b"\0" * 512, b'{"step": 9']))
def test_whatever_a_crash_leaves_the_next_line_stands_alone(tmp_path_factory, cut, tail):
    path = tmp_path_factory.mktemp("cut") / "lines.jsonl"
    append_lines(path, LINES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] + tail)
    kept = read_lines(path)
    assert kept == LINES[: len(kept)]
    append_lines(path, [{"step": 7}])
    assert read_lines(path) == [*kept, {"step": 7}]
    assert b"\0" not in path.read_bytes()


def test_lines_that_were_joined_are_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"attempt": 1}\n{"attempt": 2, "ti{"attempt": 3}\n\0\0{"attempt": 4}\n{"attempt": 5}\n')
    assert read_lines(path) == [{"attempt": 1}, {"attempt": 5}]
    assert f"{path}: 2 incomplete lines are left out" in caplog.text


def test_a_full_disk_takes_all_lines_or_none(small_disk):
    path = small_disk / "lines.jsonl"
    append_lines(path, LINES)
    before = path.read_bytes()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"\0" * (2 << 20))
    with pytest.raises(OSError, match=f"No space.*{path.name}"):
        append_lines(path, [{"text": "x" * 500}] * 20)
    assert path.read_bytes() == before
    filler.unlink()
    append_lines(path, [{"step": 9}])
    assert read_lines(path) == [*LINES, {"step": 9}]


def test_a_lock_whose_folder_was_moved_is_not_held(tmp_path):
    """Whoever waits for the lock of a folder that its holder renames gets the lock of the file moved away."""
    folder, results = tmp_path / "run", []

    def take(wait):
        try:
            with locked(folder / "lock", wait=wait):
                results.append((wait, (folder / "lock").exists(), is_locked(folder / "lock")))
        except LockHeldError as error:
            results.append((wait, "was moved" in str(error), folder.exists()))

    for wait in (False, True):
        with locked(folder / "lock"):
            waiting = threading.Thread(target=take, args=(wait,))
            waiting.start()
            time.sleep(0.2)
            folder.rename(tmp_path / f"aside-{wait}")
        waiting.join()
    assert results == [(False, True, False), (True, True, True)]
