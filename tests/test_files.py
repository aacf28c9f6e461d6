"""Locks between threads and processes, and files that are whole or as they were."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fpo_torchrl.errors import ConfigError, DamagedFileError, InUseError
from fpo_torchrl.files import is_held, locked, make_directory, read_json, replacing, write_json, write_whole


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


class TestReadJson:
    def test_what_was_written(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": [1, None]})
        assert read_json(tmp_path / "x.json") == {"a": [1, None]}

    @pytest.mark.parametrize("content", ["", '{"a": 1', "\0", "[3]"])
    def test_a_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DamagedFileError, match=r"x.json is damaged .*: restore it, or remove it"):
            read_json(tmp_path / "x.json")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DamagedFileError, match=r"x.json is missing"):
            read_json(tmp_path / "x.json")


class TestMakeDirectory:
    def test_with_those_above_it_and_again(self, tmp_path):
        for _ in range(2):
            make_directory(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("below", [".", "a", "a/b"])
    def test_the_file_in_its_place_or_above_it_is_named(self, tmp_path, below):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=rf"a directory is needed, {tmp_path}/file is a file"):
            make_directory(tmp_path / "file" / below)

    def test_where_nothing_can_be_made(self):
        with pytest.raises(ConfigError, match=r"/proc/runs cannot be made: .*Choose another directory"):
            make_directory(Path("/proc/runs"))
