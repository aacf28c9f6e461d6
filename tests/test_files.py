"""Locks between threads and processes, and files that are whole or as they were."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from fpo_torchrl.files import InUseError, is_held, locked, replacing, write_whole


class TestLocked:
    def test_another_one_waits(self, tmp_path):
        order = []

        def second() -> None:
            with locked(tmp_path / "lock"):
                order.append("second")

        with locked(tmp_path / "lock"):
            thread = threading.Thread(target=second)
            thread.start()
            time.sleep(0.1)
            order.append("first")
        thread.join(10)
        assert order == ["first", "second"]

    def test_who_waited_for_a_file_that_was_removed_holds_the_new_one(self, tmp_path):
        path, found = tmp_path / "lock", []

        def second() -> None:
            with locked(path):
                found.append(is_held(path))

        with locked(path):
            thread = threading.Thread(target=second)
            thread.start()
            time.sleep(0.1)
            path.unlink()
        thread.join(10)
        assert found == [True]

    def test_or_says_so(self, tmp_path):
        with locked(tmp_path / "lock"), pytest.raises(InUseError, match="lock is held by another process"):  # noqa: SIM117
            with locked(tmp_path / "lock", wait=False):
                pass

    def test_it_lets_go_when_its_holder_is_killed(self, tmp_path):
        path = tmp_path / "lock"
        code = f"import fcntl, time; f = open({str(path)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); time.sleep(60)"
        holder = subprocess.Popen([sys.executable, "-c", code])
        while not is_held(path):
            time.sleep(0.01)
        holder.kill()
        holder.wait()
        with locked(path, wait=False):
            assert is_held(path)
        assert not is_held(path)

    def test_what_was_never_held_is_free(self, tmp_path):
        assert not is_held(tmp_path / "lock")
        assert not (tmp_path / "lock").exists()


class TestReplacing:
    def test_two_writers_at_a_time_do_not_mix(self, tmp_path):
        path = tmp_path / "file"
        with replacing(path) as outer:
            outer.write("out")
            write_whole(path, "inner")
            outer.write("er")
        assert path.read_text() == "outer"
        assert [*tmp_path.iterdir()] == [path]

    def test_an_error_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "file"
        write_whole(path, "before")
        with pytest.raises(OSError, match="full"), replacing(path) as file:  # noqa: PT012
            file.write("after")
            raise OSError("full")
        assert path.read_text() == "before"
        assert [*tmp_path.iterdir()] == [path]
