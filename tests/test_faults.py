"""Damage of all kinds to what a run leaves on disk: it is noticed, told in a sentence, and what is whole goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import tiny

from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.loggers import MetricsCSV, read_metrics
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume
from fpo_torchrl.trained import load_policy


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of four iterations, with its last two checkpoints."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda self: {})
        start_run(tiny.compose(*tiny.GRIDWORLD, f"run_dir={path}")).train()
    return path


@pytest.fixture
def checkpoints(run_dir):
    """The two files, put back after each test."""
    paths = sorted((run_dir / "checkpoints").glob("checkpoint-*"))
    contents = [path.read_bytes() for path in paths]
    yield paths
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)


def resumed(run_dir: Path) -> Run:
    """The run of a directory, which it lets go again without having trained."""
    with (run := resume([f"resume={run_dir}"])).hold:
        return run


def flipped(content: bytes, generator: random.Random) -> bytes:
    """One bit is another."""
    damaged = bytearray(content)
    damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def cut(content: bytes, generator: random.Random) -> bytes:
    """The end is missing."""
    return content[: generator.randrange(len(content))]


def overwritten(content: bytes, generator: random.Random) -> bytes:
    """A block of zeros, as a file system leaves behind that lost power."""
    at = generator.randrange(len(content))
    return content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]


@pytest.mark.parametrize(("field", "value"), [(10, 8), (10, 12), (10, 14), (10, 99), (8, 1)])
def test_a_header_that_lies_is_damage(run_dir, checkpoints, field, value):
    """The method of compression (deflate, bzip2, LZMA, one that is none) and the flag of encryption."""
    damaged = bytearray(checkpoints[-1].read_bytes())
    damaged[damaged.rindex(b"PK\x01\x02") + field] = value
    checkpoints[-1].write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is truncated or damaged"):
        Checkpointer(run_dir, actor=tiny.Captured()).load(checkpoints[-1])


@pytest.mark.parametrize("damage", [flipped, cut, overwritten])
def test_what_is_loaded_is_what_was_saved(run_dir, checkpoints, damage):
    """A damaged checkpoint is refused, or loads as if it were not: the bit was one that says nothing."""
    whole = tiny.read_checkpoint(run_dir)
    content, generator = checkpoints[-1].read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        checkpoints[-1].write_bytes(damage(content, generator))
        parts = {name: tiny.Captured() for name in ("actor", "critic", "optimizer", "trainer", "rng")}
        try:
            Checkpointer(run_dir, **parts).load(checkpoints[-1])
        except CheckpointError:
            refused += 1
        else:
            assert tiny.same(tiny.flat({name: part.state for name, part in parts.items()}), whole)
    assert refused > 40


def test_a_run_goes_on_from_the_one_before(run_dir, checkpoints, capsys):
    content = bytearray(checkpoints[-1].read_bytes())
    content[len(content) // 2] ^= 1
    checkpoints[-1].write_bytes(content)
    run = resumed(run_dir)
    assert run.trainer.frames == 192
    assert [row["frames"] for row in run.metrics.rows] == [64, 128, 192]
    assert f"{checkpoints[-1]} is damaged: the checksum of " in (out := capsys.readouterr().out)
    assert "is wrong: going on from checkpoint-000000000192.torchrl" in out


@pytest.mark.parametrize("command", [resumed, load_policy])
def test_a_file_that_is_cut_off_is_not_passed_over_in_silence(run_dir, checkpoints, capsys, command):
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:5000])
    command(run_dir)
    assert f"{checkpoints[-1]} is truncated or damaged: going on from {checkpoints[-2].name}" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [flipped, cut, overwritten, lambda content, generator: b""])
def test_metrics_come_back_from_the_checkpoint(run_dir, checkpoints, damage):
    path, generator = run_dir / "metrics.csv", random.Random(1)
    rows = resumed(run_dir).metrics.rows
    assert [row["frames"] for row in rows] == [64, 128, 192, 256]
    content = path.read_bytes()
    for _ in range(3):
        path.write_bytes(damage(content, generator))
        assert tiny.settled(resume([f"resume={run_dir}"])).metrics.rows == rows
        assert path.read_bytes() == content


def test_a_checkpoint_that_has_no_metrics_leaves_them_to_the_file(tmp_path, run_dir, monkeypatch):
    path = shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.setattr(Checkpointer, "holds", lambda self, path, component: component != "metrics")
    assert resumed(path).metrics.rows == read_metrics(path / "metrics.csv") != []


class TestMetrics:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "metrics.csv"
        metrics = MetricsCSV(path)
        for i in range(1, 4):
            metrics.log({"frames": 64.0 * i, "return": 0.5 * i})
        return path

    def test_a_line_that_is_no_numbers_is_named(self, path: Path):
        path.write_text(path.read_text().replace("128,1", "12x8,1"))
        with pytest.raises(ConfigError, match=r"line 3 of .*metrics.csv is damaged: .*12x8.*Remove the line"):
            read_metrics(path)

    def test_bytes_that_are_no_text(self, path: Path):
        path.write_bytes(b"frames,\xff\n")
        with pytest.raises(ConfigError, match=r"metrics.csv is damaged \(.*decode"):
            read_metrics(path)

    def test_a_cut_anywhere_loses_no_more_than_the_row_it_is_in(self, path: Path):
        content = path.read_bytes()
        rows = read_metrics(path)
        for length in range(len(content) + 1):
            path.write_bytes(content[:length])
            whole = max(0, content[:length].count(b"\n") - 1)
            assert read_metrics(path) == rows[:whole]
