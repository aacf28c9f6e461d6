"""One process at a time trains in a directory, however it is started; what cannot be built leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.auto_resume import ensure_trained
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import ConfigError, InUseError
from fpo_torchrl.files import is_held, locked
from fpo_torchrl.run import Run
from fpo_torchrl.run_directory import LOCK
from fpo_torchrl.start import resume_run, start_run


def config(run_dir: Path, *changes: str):
    return tiny.compose(*tiny.GRIDWORLD, "total_frames=64", f"run_dir={run_dir}", *changes)


WAYS = {
    "new": lambda run_dir: start_run(config(run_dir)),
    "resume": lambda run_dir: resume_run([f"resume={run_dir}"]),
    "auto": lambda run_dir: ensure_trained(config(run_dir, "resume=auto")),
}


@pytest.fixture(autouse=True)
def no_final_evaluation(monkeypatch):
    monkeypatch.setattr(Run, "finish", lambda self: {"random": type("Evaluation", (), {"mean": 0.0})})


@pytest.mark.parametrize("way", WAYS)
def test_a_directory_in_use_is_refused_and_left_as_it_is(tmp_path, way):
    Run(config(tmp_path), tmp_path).checkpointer.save(0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with locked(tmp_path / LOCK), pytest.raises(InUseError, match=f"run_dir={tmp_path} is being trained in by another"):
        WAYS[way](tmp_path)
    (tmp_path / LOCK).unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_holds_its_directory_until_it_has_trained(tmp_path):
    run = start_run(config(tmp_path))
    assert is_held(tmp_path / LOCK)
    run.train()
    assert not is_held(tmp_path / LOCK)
    run = resume_run([f"resume={tmp_path}", "total_frames=128"])
    assert is_held(tmp_path / LOCK)
    run.train()
    assert not is_held(tmp_path / LOCK)


@pytest.mark.parametrize("way", ["new", "auto"])
@pytest.mark.parametrize("change", ["num_envs=0", "trainer.frames_per_batch=3", "actor.num_mc_samples=0"])
def test_what_cannot_be_built_leaves_nothing(tmp_path, way, change):
    start = {"new": start_run, "auto": ensure_trained}[way]
    with pytest.raises(ConfigError):
        start(config(tmp_path / "a/b", change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_no_directory(tmp_path, way):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises((ConfigError, RuntimeError), match=r"is a file|is not the directory of a run"):
            WAYS[way](path)


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    start_run(config(tmp_path / "run"))
    assert "warning: " in (out := capsys.readouterr().out)
    assert "without locks (flock: No locks available); nothing keeps another process" in out
    with pytest.raises(SystemExit) as stopped, friendly_errors(), locked(tmp_path / "shared"):
        pass
    assert stopped.value.code == 3
    assert "several processes share this directory" in capsys.readouterr().err


def test_what_killed_processes_left_half_written_is_removed(tmp_path):
    Run(config(tmp_path), tmp_path).checkpointer.save(0)
    kept = {path for path in tmp_path.rglob("*") if path.is_file()} | {tmp_path / "notes.partial", tmp_path / LOCK}
    (tmp_path / "notes.partial").write_text("of the user")
    (tmp_path / "metrics.csv.0123abcd.partial").write_text("frames\n")
    stage = tmp_path / "checkpoints/.checkpoint-000000000064.torchrl.stage-0123456789abcdef"
    (stage / "components").mkdir(parents=True)
    (stage / "components/weights").write_text("some")
    stage.with_name(".checkpoint-000000000064.torchrl.archive-0123").write_text("some")
    ensure_trained(config(tmp_path, "resume=auto", "checkpoint_interval_frames=640", "keep_checkpoints=9"))
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in left - kept} == {
        *("provenance.json", "metrics.csv", "checkpoint-000000000064.torchrl")
    }
    assert kept <= left
    assert not stage.exists()
