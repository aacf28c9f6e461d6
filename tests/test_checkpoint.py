"""Checkpoints that are whole or refused, and never half loaded."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickletools
import resource
import shutil
import signal
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from fpo_torchrl.checkpoint import Checkpointer, RandomNumbers
from fpo_torchrl.errors import CheckpointError
from fpo_torchrl.optim import AgentOptimizer


class Parts:
    """A small actor, critic and optimizer with some history, and their checkpointer."""

    def __init__(self, run_dir: Path, *, width: int = 8, keep_last: int = 2, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.actor = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
        self.critic = nn.Linear(3, 1)
        self.optimizer = AgentOptimizer(self.actor.parameters(), self.critic.parameters())
        self.learn()
        self.checkpointer = Checkpointer(
            run_dir, keep_last=keep_last, actor=self.actor, critic=self.critic, optimizer=self.optimizer
        )

    def learn(self) -> None:
        x = torch.randn(4, 3)
        self.optimizer.backward(self.actor(x).square().sum() + self.critic(x).sum())
        self.optimizer.limited_step()

    def state(self) -> dict:
        parts = {"actor": self.actor, "critic": self.critic, "optimizer": self.optimizer}
        return copy.deepcopy(tiny.flat({name: part.state_dict() for name, part in parts.items()}))


@pytest.fixture
def saved(tmp_path):
    """The parts whose state is in the checkpoint of frame 64."""
    parts = Parts(tmp_path)
    parts.path = parts.checkpointer.save(64)
    return parts


def corrupt(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "flipped byte":
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda member: member.file_size)
        content[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(path: Path, edit) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith(".json") and "/" not in name)
    manifest = json.loads(members[name])
    edit(manifest)
    members[name] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


class TestRoundTrip:
    def test_everything_comes_back_bit_for_bit(self, saved, tmp_path):
        other = Parts(tmp_path, seed=1)
        assert not tiny.same(other.state(), saved.state())
        assert other.checkpointer.load() == saved.path
        assert tiny.same(other.state(), saved.state())
        other.learn()  # and the optimizer goes on

    def test_some_components_of_it(self, saved, tmp_path):
        other = Parts(tmp_path, seed=1)
        critic = copy.deepcopy(other.critic.state_dict())
        other.checkpointer.load(components={"actor"})
        assert tiny.same(other.actor.state_dict(), saved.actor.state_dict())
        assert tiny.same(other.critic.state_dict(), critic)

    def test_random_numbers_go_on(self, tmp_path):
        checkpointer = Checkpointer(tmp_path, rng=RandomNumbers())
        checkpointer.save(1)
        expected = torch.randn(3)
        checkpointer.load()
        assert torch.randn(3).equal(expected)

    def test_saving_twice_at_the_same_frame_keeps_the_later(self, saved, tmp_path):
        saved.learn()
        assert saved.checkpointer.save(64) == saved.path
        other = Parts(tmp_path, seed=1)
        other.checkpointer.load()
        assert tiny.same(other.state(), saved.state())

    def test_the_newest_are_kept(self, tmp_path):
        checkpointer = Parts(tmp_path, keep_last=2).checkpointer
        for frames in (64, 256, 128):
            checkpointer.save(frames)
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == ["checkpoint-000000000128.torchrl", "checkpoint-000000000256.torchrl"]
        assert checkpointer.latest().name == names[-1]

    def test_at_least_one_is_kept(self, tmp_path):
        with pytest.raises(ValueError, match="keep_last must be at least 1, got 0"):
            Checkpointer(tmp_path, keep_last=0)


class TestNoPickle:
    """Loading a checkpoint must not be able to run code."""

    def test_only_json_and_raw_tensors(self, saved, tmp_path):
        archives = [saved.path]
        for archive in archives:
            target = tmp_path / archive.stem
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)
            for path in target.rglob("*"):
                if path.is_file() and zipfile.is_zipfile(path):
                    archives.append(path)
                elif path.is_file():
                    assert path.suffix in {".json", ".memmap"}, path
                    assert not self.is_pickle(path.read_bytes()), path
        assert len(archives) == 4  # the checkpoint, and one archive of tensors for each component

    @staticmethod
    def is_pickle(content: bytes) -> bool:
        try:
            opcodes = [opcode.name for opcode, _, _ in pickletools.genops(content)]
        except Exception:
            return False
        return opcodes[-1] == "STOP" and len(opcodes) > 2

    def test_that_this_test_would_find_one(self, tmp_path):
        torch.save({"a": torch.ones(2)}, tmp_path / "state.pt")
        with zipfile.ZipFile(tmp_path / "state.pt") as file:
            (member,) = (name for name in file.namelist() if name.endswith("data.pkl"))
            assert self.is_pickle(file.read(member))

    def test_pickle_is_never_called(self, saved, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("a pickle was loaded")

        for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
            monkeypatch.setattr(name, refuse)
        Parts(tmp_path, seed=1).checkpointer.load()


class TestRefused:
    """Each with what to do about it, and with nothing loaded."""

    @pytest.mark.parametrize("how", ["truncated", "empty", "flipped byte"])
    def test_a_damaged_file(self, saved, tmp_path, how):
        corrupt(saved.path, how)
        self.refused(Parts(tmp_path, seed=1), "damaged.*Give another file below a run's checkpoints/", saved.path)

    def test_a_path_that_is_no_checkpoint(self, saved, tmp_path):
        self.refused(Parts(tmp_path, seed=1), "checkpoints is a directory. Give the path of a file", saved.path.parent)
        (tmp_path / "config.yaml").write_text("seed: 0")
        self.refused(Parts(tmp_path, seed=1), r"damaged.*\)\. Give another file below", tmp_path / "config.yaml")

    def test_another_format(self, saved, tmp_path):
        edit_manifest(saved.path, lambda manifest: manifest["metadata"].update(format=99, fpo_torchrl="7.0"))
        self.refused(
            Parts(tmp_path, seed=1), "format 99, written by fpo_torchrl 7.0; .*Load it with the version that wrote it"
        )

    def test_a_checkpoint_of_another_program(self, saved, tmp_path):
        edit_manifest(saved.path, lambda manifest: manifest.pop("metadata"))
        self.refused(Parts(tmp_path, seed=1), "damaged")

    @pytest.mark.parametrize("width", [4, 16])
    def test_another_network(self, saved, tmp_path, width):
        self.refused(
            Parts(tmp_path, seed=1, width=width),
            r"does not fit this run.*size mismatch.*Use the configuration the run was started with \(config.yaml",
        )

    def test_a_network_that_differs_in_the_part_loaded_last(self, saved, tmp_path):
        other = Parts(tmp_path, seed=1)
        other.checkpointer = Checkpointer(
            tmp_path,
            actor=other.actor,
            critic=other.critic,
            optimizer=AgentOptimizer(other.actor.parameters(), []),
        )
        self.refused(other, "does not fit this run")

    def test_a_file_that_is_not_there(self, tmp_path):
        parts = Parts(tmp_path)
        self.refused(parts, "nowhere.torchrl does not exist. Give the path", tmp_path / "nowhere.torchrl")
        self.refused(
            parts, "no whole checkpoint in .*checkpoints: there is nothing to load. Where training has begun, its own"
        )

    def test_a_directory_that_holds_a_damaged_one_only(self, saved, tmp_path):
        corrupt(saved.path, "truncated")
        self.refused(
            Parts(tmp_path, seed=1),
            r"all are damaged: checkpoint-000000000064.torchrl. Train again in another.* once that folder is removed",
        )

    def test_a_file_out_of_reach_is_not_said_to_be_damaged(self, saved, tmp_path, monkeypatch):
        def fail(path):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(zipfile, "ZipFile", fail)
        self.refused(Parts(tmp_path, seed=1), "cannot be read: Input/output error. Nothing says that it is damaged")

    def test_the_only_one_is_not_said_to_have_one_before_it(self, saved, tmp_path, capsys):
        corrupt(saved.path, "flipped byte")
        self.refused(Parts(tmp_path, seed=1), "all are damaged: checkpoint-000000000064.torchrl. Train again")
        assert capsys.readouterr().out == ""

    @staticmethod
    def refused(parts: Parts, message: str, path: Path | None = None) -> None:
        before = parts.state()
        with pytest.raises(CheckpointError, match=f"(?s){message}"):
            parts.checkpointer.load(path)
        assert tiny.same(parts.state(), before)

    def test_a_truncated_newest_leaves_the_one_before(self, saved, tmp_path):
        before = saved.state()
        saved.learn()
        corrupt(saved.checkpointer.save(128), "truncated")
        other = Parts(tmp_path, seed=1)
        assert other.checkpointer.load() == saved.path
        assert tiny.same(other.state(), before)


@contextmanager
def no_file_beyond(num_bytes: int):
    """The kernel refuses to write any file beyond this size, as a full disk would, at whatever place writes first.

    A real full disk needs a file system of its own, and so rights that tests do not have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFullDisk:
    @pytest.mark.parametrize("num_bytes", [0, 50, 1000, 5000])
    def test_the_error_is_clear_and_the_earlier_checkpoint_intact(self, saved, tmp_path, num_bytes):
        before = saved.state()
        saved.learn()
        with no_file_beyond(num_bytes), pytest.raises(CheckpointError) as caught:
            saved.checkpointer.save(128)
        message = str(caught.value)
        assert "could not write the checkpoint of frame 128" in message
        assert "the one before it, checkpoint-000000000064.torchrl, is intact. Make room" in message
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-000000000064.torchrl"]
        other = Parts(tmp_path, seed=1)
        other.checkpointer.load()
        assert tiny.same(other.state(), before)
        saved.checkpointer.save(128)  # with room again it works

    def test_the_first_checkpoint_has_none_before_it(self, tmp_path):
        with no_file_beyond(0), pytest.raises(CheckpointError, match="there is none before it"):
            Parts(tmp_path).checkpointer.save(64)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_without_write_access(self, saved, tmp_path):
        (tmp_path / "checkpoints").chmod(0o500)
        with pytest.raises(CheckpointError, match="Permission denied"):
            saved.checkpointer.save(128)
        (tmp_path / "checkpoints").chmod(0o700)


def save_and_die(run_dir: Path, moment: str) -> None:
    """Save a second checkpoint, and be killed before or while it is renamed into place."""
    parts = Parts(run_dir)
    parts.checkpointer.save(64)
    parts.learn()
    if moment == "before the rename":
        os.replace = lambda source, destination: os.kill(os.getpid(), signal.SIGKILL)
    else:
        zipfile.ZipFile.write = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    parts.checkpointer.save(128)


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_killed_while_saving_the_one_before_is_the_newest(tmp_path, moment):
    process = tiny.start(save_and_die, tmp_path, moment)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    other = Parts(tmp_path, seed=1)
    assert other.checkpointer.load().name == "checkpoint-000000000064.torchrl"
    assert tiny.same(other.state(), Parts(tmp_path).state())
    other.checkpointer.save(128)
    assert other.checkpointer.latest().name == "checkpoint-000000000128.torchrl"


def test_a_run_moved_elsewhere_still_loads(saved, tmp_path):
    shutil.move(tmp_path / "checkpoints", tmp_path / "elsewhere" / "checkpoints")
    other = Parts(tmp_path / "elsewhere", seed=1)
    other.checkpointer.load()
    assert tiny.same(other.state(), saved.state())
