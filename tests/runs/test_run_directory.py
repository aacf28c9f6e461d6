"""One process at a time trains in a directory, however it is started; what cannot be built leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import ConfigError, InUseError, NonFiniteError
from fpo_torchrl.files import is_held, locked
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.runs.auto_resume import ensure_trained, unfinished_run
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume


def config(run_dir: Path, *changes: str):
    return tiny.compose(*tiny.GRIDWORLD, "total_frames=64", f"run_dir={run_dir}", *changes)


def content(directory: Path) -> dict[Path, bytes | None]:
    """Everything in a directory; None stands for a directory."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


WAYS = {
    "new": lambda run_dir, *changes: start_run(config(run_dir, *changes)),
    "resume": lambda run_dir, *changes: resume([f"resume={run_dir}", *changes]),
    "auto": lambda run_dir, *changes: unfinished_run(config(run_dir, *changes), run_dir),
}


@pytest.fixture(autouse=True)
def no_final_evaluation(monkeypatch):
    monkeypatch.setattr(Run, "finish", lambda self: {"random": type("Evaluation", (), {"mean": 0.0})})


@pytest.mark.parametrize("way", WAYS)
def test_a_directory_in_use_is_refused_and_left_as_it_is(tmp_path, way):
    tiny.begin(config(tmp_path)).checkpointer.save(0)
    (tmp_path / LOCK).unlink()
    before = content(tmp_path)
    with locked(tmp_path / LOCK), pytest.raises(InUseError, match=f"run_dir={tmp_path} is being trained in by another"):
        WAYS[way](tmp_path)
    (tmp_path / LOCK).unlink()
    assert content(tmp_path) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_run_writes_nothing_before_it_trains_and_holds_its_directory_until_it_has(tmp_path, way):
    if way != "new":
        tiny.begin(config(tmp_path)).checkpointer.save(0)
    before = {**content(tmp_path), tmp_path / LOCK: b""}
    run = WAYS[way](tmp_path)
    assert content(tmp_path) == before
    assert is_held(tmp_path / LOCK)
    run.train()
    assert [row["frames"] for row in read_metrics(tmp_path / "metrics.csv")] == [64]
    assert {LOCK, "config.yaml"} <= {path.name for path in tmp_path.iterdir()}
    assert not is_held(tmp_path / LOCK)


def test_a_run_that_fails_lets_its_directory_go(tmp_path, monkeypatch):
    def fail(run):
        assert is_held(tmp_path / LOCK)
        raise NonFiniteError("a NaN")

    monkeypatch.setattr(Run, "_train", fail)
    with pytest.raises(NonFiniteError, match="a NaN"):
        start_run(config(tmp_path)).train()
    assert not is_held(tmp_path / LOCK)


@pytest.mark.parametrize("way", ["new", "auto"])
@pytest.mark.parametrize("change", ["num_envs=0", "trainer.frames_per_batch=3", "actor.num_mc_samples=0"])
def test_what_cannot_be_built_leaves_nothing(tmp_path, way, change):
    with pytest.raises(ConfigError):
        WAYS[way](tmp_path / "a/b", change)
    assert not content(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_built_leaves_a_directory_that_was_there_as_it_was(tmp_path, way):
    (tmp_path / "run").mkdir()
    if way == "resume":
        tiny.begin(config(tmp_path / "run")).checkpointer.save(0)
        (tmp_path / "run" / LOCK).unlink()
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="frames_per_batch"):
        WAYS[way](tmp_path / "run", "trainer.frames_per_batch=3")
    assert content(tmp_path) == before


def test_a_run_that_cannot_write_leaves_nothing(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fpo_torchrl.runs.run.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        start_run(config(tmp_path / "a/b")).train()
    assert not content(tmp_path)


def test_a_run_that_is_given_up_leaves_nothing(tmp_path):
    start_run(config(tmp_path / "a/b")).hold.close()
    assert not content(tmp_path)


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
    tiny.begin(config(tmp_path)).checkpointer.save(0)
    kept = {path for path in tmp_path.rglob("*") if path.is_file()} | {tmp_path / "notes.partial", tmp_path / LOCK}
    (tmp_path / "notes.partial").write_text("of the user")
    (tmp_path / "metrics.csv.0123abcd.partial").write_text("frames\n")
    stage = tmp_path / "checkpoints/.checkpoint-000000000064.torchrl.stage-0123456789abcdef"
    (stage / "components").mkdir(parents=True)
    (stage / "components/weights").write_text("some")
    stage.with_name(".checkpoint-000000000064.torchrl.archive-0123").write_text("some")
    stage.with_name(".best.torchrl.archive-0123").write_text("some")
    ensure_trained(config(tmp_path, "resume=auto", "checkpoint_interval_frames=640", "keep_checkpoints=9"))
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in left - kept} == {
        *("provenance.json", "metrics.csv", "checkpoint-000000000064.torchrl", "best.torchrl")
    }
    assert kept <= left
    assert not stage.exists()
