"""What a command makes of errors, and where it finds modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fpo_torchrl import errors
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.envs.physics import CapacityError


class TestFriendlyErrors:
    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (errors.ConfigError("x=1 is wrong"), 2, "error: x=1 is wrong\n"),
            (errors.DamagedFileError("a.json is damaged"), 3, "error: a.json is damaged\n"),
            (errors.CheckpointError("no checkpoint"), 3, "error: no checkpoint\n"),
            (errors.NoLocksError("no locks"), 3, "no locks, but several processes share this directory. Choose one"),
            (errors.NonFiniteError("a NaN"), 4, "error: a NaN\n"),
            (errors.InUseError("it is in use"), 5, "error: it is in use\n"),
            (errors.WorkerLostError("it is gone"), 6, "it is gone. The last checkpoint is intact. A run that has a"),
            (errors.WorkersNotStartedError("no answer"), 7, "error: no answer. If it repeats, look at the cluster"),
            (CapacityError("give max_contacts more than 64"), 1, "error: give max_contacts more than 64"),
            (KeyboardInterrupt(), 130, "goes on from it with fpo-train resume=RUN_DIRECTORY"),
            (OSError(28, "No space left on device", "metrics.csv"), 3, "could not write: [Errno 28] No space left"),
            (
                PermissionError(13, "Permission denied", "runs"),
                3,
                "could not write: [Errno 13] Permission denied",
            ),
        ],
    )
    def test_what_happens_to_a_user_is_a_message(self, capsys, error, code, words):
        with pytest.raises(SystemExit) as stopped, friendly_errors():
            raise error
        assert stopped.value.code == code
        assert words in capsys.readouterr().err

    def test_the_code_of_each_error_is_documented(self):
        page = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
        assert len(kinds) > 1
        for kind in kinds:
            assert f"\n| {kind.exit_code} | " in page, kind

    @pytest.mark.parametrize("error", [ValueError("a mistake of ours"), FileNotFoundError(2, "No such file", "x")])
    def test_a_bug_keeps_its_traceback(self, error):
        with pytest.raises(type(error)), friendly_errors():
            raise error


class TestModulesOfOnesOwn:
    def test_those_in_the_directory_of_the_command_are_found_behind_installed_ones(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
        (tmp_path / "own_module_of_a_user.py").write_text("x = 1")
        (tmp_path / "torch.py").write_text("raise RuntimeError('hides the installed one')")
        with friendly_errors():
            assert importlib.import_module("own_module_of_a_user").x == 1
            assert importlib.util.find_spec("torch").origin != str(tmp_path / "torch.py")


def test_a_command_in_a_directory_that_is_gone_has_no_trouble_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with friendly_errors():
        pass
