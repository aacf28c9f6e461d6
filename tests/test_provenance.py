"""A run's account of itself: who computed it, with what, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import tiny
import torch

import fpo_torchrl
from fpo_torchrl import provenance
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.provenance import read_provenance, recorded
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)


class TestRuns:
    @pytest.fixture(scope="class")
    def run_dir(self, tmp_path_factory):
        """A run of four iterations, then continued for one more."""
        path = tmp_path_factory.mktemp("runs") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fpo_torchrl.runs.run.draw_learning_curve", lambda *args, **kwargs: None)
            patch.setattr("sys.argv", ["/somewhere/fpo-train", "task=gridworld/two_walls", "env.x=[1, 2]"])
            start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={path}")).train()
            patch.setattr("sys.argv", ["fpo-train", "resume=it"])
            resume([f"resume={path}", "total_frames=320"]).train()
        return path

    def test_it_has_finished(self, run_dir):
        content = read_provenance(run_dir)
        assert (content["status"], content["frames"], content["error"]) == ("finished", 320, None)
        assert content["starts"][0]["date"] <= content["starts"][1]["date"] <= content["ended"]

    def test_the_first_start_is_kept_when_it_is_resumed(self, run_dir):
        starts = read_provenance(run_dir)["starts"]
        assert [start["from_frame"] for start in starts] == [0, 256]
        assert starts[0]["command"] == "fpo-train task=gridworld/two_walls 'env.x=[1, 2]'"
        assert starts[1]["command"] == "fpo-train resume=it"

    def test_machine_and_versions(self, run_dir):
        start = read_provenance(run_dir)["starts"][0]
        assert start["machine"]["cores"] == os.cpu_count()
        assert start["machine"]["threads"] == 1  # of the preset
        assert start["machine"]["gpu"] is None
        assert start["versions"]["torch"] == torch.__version__
        assert start["versions"]["torchrl"] == version("torchrl")

    def test_divergence_is_told_with_its_message(self, tmp_path):
        run = start_run(tiny.compose(*tiny.GRIDWORLD, "optim.lr=1e30", f"run_dir={tmp_path}"))
        with pytest.raises(NonFiniteError):
            run.train()
        content = read_provenance(tmp_path)
        assert content["status"] == "diverged"
        assert content["error"].startswith("NonFiniteError: ")
        assert "became NaN or infinite in the update after frame" in content["error"]
        assert not (tmp_path / "evaluation.json").exists()


class TestRecorded:
    def test_while_it_runs_and_when_it_is_killed_it_says_so(self, tmp_path):
        with recorded(tmp_path, device="cpu", frames=lambda: 7):
            assert read_provenance(tmp_path)["status"] == "running"

    @pytest.mark.parametrize(
        ("error", "status", "message"),
        [
            (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
            (OSError(28, "No space left"), "interrupted", "OSError: [Errno 28] No space left"),
            (NonFiniteError("the loss is NaN"), "diverged", "NonFiniteError: the loss is NaN"),
        ],
    )
    def test_what_stopped_it_is_kept_and_raised_again(self, tmp_path, error, status, message):
        frames = iter([0, 0, 64])
        with pytest.raises(type(error)), recorded(tmp_path, device="cpu", frames=lambda: next(frames)):
            raise error
        content = read_provenance(tmp_path)
        assert (content["status"], content["error"], content["frames"]) == (status, message, 64)

    def test_going_on_clears_the_error(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), recorded(tmp_path, device="cpu", frames=lambda: 0):
            raise KeyboardInterrupt
        with recorded(tmp_path, device="cpu", frames=lambda: 0):
            pass
        assert read_provenance(tmp_path)["error"] is None
        assert read_provenance(tmp_path)["status"] == "finished"

    def test_a_full_disk_does_not_hide_what_stopped_it(self, tmp_path, monkeypatch):
        def fill_the_disk() -> None:
            monkeypatch.setattr(provenance, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
            raise NonFiniteError("NaN")

        with pytest.raises(NonFiniteError), recorded(tmp_path, device="cpu", frames=lambda: 0):
            fill_the_disk()

    def test_a_run_without_one(self, tmp_path):
        assert read_provenance(tmp_path) == {}


class TestSourceCommit:
    def test_it_is_that_of_a_checkout(self, tmp_path, monkeypatch):
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        package = tmp_path / "fpo_torchrl"
        package.mkdir()
        (package / "provenance.py").write_text("1\n")
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v1"]):
            subprocess.run([*git, *command], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
        assert provenance.source_commit() == commit[:12]
        (package / "provenance.py").write_text("2\n")
        assert provenance.source_commit() == f"{commit[:12]}-dirty"

    def test_an_installed_package_has_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages/fpo_torchrl/provenance.py"))
        assert provenance.source_commit() is None


def test_the_processor_has_a_name():
    name = provenance.cpu_model()
    assert name
    info = Path("/proc/cpuinfo")
    if info.exists() and "model name" in info.read_text():
        assert f": {name}\n" in info.read_text()


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("fpo-torchrl", "no-such-package"))
    found = provenance.versions()
    assert found["no-such-package"] is None
    assert found["fpo-torchrl"] == fpo_torchrl.__version__
    assert json.dumps(found)
