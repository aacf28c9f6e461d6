"""Where a run may start, and what a refused start leaves."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
import tiny
from hydra.core.override_parser.overrides_parser import OverridesParser

from fpo_torchrl.cli import how_to_go_on
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.runs.auto_resume import names_run, unfinished_run
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume


def config(run_dir: Path, *overrides: str):
    return tiny.compose(*tiny.GRIDWORLD, "total_frames=192", f"run_dir={run_dir}", *overrides)


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != LOCK}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """The directory of a run of three iterations."""
    run = start_run(config(tmp_path_factory.mktemp("runs") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda self: {})
        run.train()
    return run.run_dir


@pytest.fixture
def trained(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


class TestADirectoryThatHoldsARun:
    @pytest.mark.parametrize("left", ["config.yaml", "metrics.csv", "checkpoints"])
    def test_is_known_by_any_of_its_files(self, trained, left):
        for path in trained.iterdir():
            if path.name != left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = files(trained)
        assert before
        with pytest.raises(ConfigError, match=r"holds a run already: the same command with resume=auto continues it"):
            start_run(config(trained))
        assert files(trained) == before

    def test_goes_on_from_its_checkpoint(self, trained):
        (trained / "metrics.csv").unlink()
        with pytest.raises(ConfigError, match=rf"holds a run already: resume={trained} continues it, or choose"):
            start_run(config(trained))
        tiny.settled(resume([f"resume={trained}"]))
        assert [row["frames"] for row in read_metrics(trained / "metrics.csv")] == [64, 128, 192]

    def test_before_its_first_checkpoint_begins_again_with_resume_auto(self, tmp_path):
        tiny.begin(config(tmp_path))
        run = unfinished_run(config(tmp_path), tmp_path)
        assert run is not None
        assert run.trainer.frames == 0


def test_other_settings_before_the_first_checkpoint_need_another_directory(tmp_path):
    tiny.begin(config(tmp_path))
    with pytest.raises(ConfigError, match=r"optim.lr=.* It has no checkpoint yet: remove the directory, or"):
        unfinished_run(config(tmp_path, "optim.lr=0.5"), tmp_path)


def test_a_directory_that_was_prepared_is_taken(tmp_path):
    (tmp_path / ".hydra").mkdir()
    for name in (LOCK, ".hydra/config.yaml", "notes.txt", "slurm.out"):
        (tmp_path / name).write_text("mine")
    tiny.begin(config(tmp_path))
    assert (tmp_path / "config.yaml").is_file()
    assert (tmp_path / LOCK).read_text() == "mine"


def test_a_logger_that_is_missing_is_refused_before_anything_is_written(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    max((trained / "checkpoints").iterdir()).unlink()
    before = files(trained)
    assert len(read_metrics(trained / "metrics.csv")) == 3
    with pytest.raises(ConfigError, match=r"logger=wandb needs a package that is missing"):
        resume([f"resume={trained}", "logger=wandb"])
    assert files(trained) == before


def test_a_run_that_stops_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "record", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGUSR1) or [])
    with pytest.raises(Preempted) as stopped:
        start_run(config(tmp_path)).train()
    assert stopped.value.directory == tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], False),
        (["task=PointMass", "resume=null"], False),
        (["resume=auto"], False),
        (["resume='auto'"], False),
        (["resume=runs/a", "resume=null"], False),
        (["resume=null", "resume=runs/a"], True),
        (["resume="], True),
        (["resume=runs/null"], True),
    ],
)
def test_which_arguments_name_a_run_to_continue(arguments, named):
    assert names_run(arguments) == named


def test_what_stopped_is_continued_by_a_command_that_a_shell_takes(tmp_path):
    for name in ("plain", "p a,b's"):
        directory = tmp_path / name
        (directory / "checkpoints").mkdir(parents=True)
        assert how_to_go_on(directory) == "the same command with resume=auto"
        (directory / "checkpoints" / "checkpoint-000000000064.torchrl").touch()
        program, argument = shlex.split(how_to_go_on(directory))
        assert program == "fpo-train"
        (override,) = OverridesParser.create().parse_overrides([argument])
        assert override.value() == str(directory)
    assert how_to_go_on(tmp_path / "plain") == f"fpo-train resume={tmp_path}/plain"
