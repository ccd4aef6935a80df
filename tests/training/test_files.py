"""Locks go with their holder, can be inherited, and are looked at without touching anything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from ablate.training.files import LockHeldError, is_locked, locked, replacing


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as temporary:
        temporary.write_text("1")

    def fail() -> None:
        with replacing(path) as temporary:
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
