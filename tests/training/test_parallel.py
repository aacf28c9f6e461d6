"""Two processes that share a batch take the steps that one takes with all of it; one of them writes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny
import torch

from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.errors import ConfigError, NonFiniteError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.runs.run import Run
from fpo_torchrl.seeds.run import resume
from fpo_torchrl.training.parallel import Processes, joined

RUN = (*tiny.CARTPOLE, "trainer.redraw_pairs=false")
POLICIES = {
    "fpo": RUN,
    # without the entropy, which is estimated with random numbers
    "ppo": (*tiny.SMALL, "task=CartpoleBalance", "actor=gaussian", "loss=ppo", "loss.entropy_coeff=0"),
}


def as_process(rank: int, port: int, log: Path) -> None:
    """What ``torchrun --nproc-per-node 2`` tells a process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)


def start_pair(function, directory: Path, *arguments) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [tiny.start(function, rank, port, directory / f"{rank}.log", *arguments) for rank in range(2)]


def finish(processes: list[BaseProcess], directory: Path) -> list[int | None]:
    for rank, process in enumerate(processes):
        process.join(150)
        assert not process.is_alive(), (directory / f"{rank}.log").read_text()
    return [process.exitcode for process in processes]


def learn(directory: Path, overrides: tuple[str, ...], share: slice) -> None:
    """Two updates from the stored weights with a share of the stored batches; stores the weights."""
    trainer = tiny.make_trainer(*overrides)
    trainer.loss.load_state_dict(torch.load(directory / "start"))
    for batch in torch.load(directory / "batches", weights_only=False):
        trainer.learn(batch[share])
    torch.save((trainer.loss.state_dict(), trainer.optimizer.state_dict()), directory / f"end{share.start}")


def learn_together(rank: int, port: int, log: Path, directory: Path, overrides: tuple[str, ...]) -> None:
    as_process(rank, port, log)
    with joined():
        learn(directory, (*overrides, "num_envs=4"), slice(4 * rank, 4 * rank + 4))


@pytest.mark.parametrize("policy", POLICIES)
def test_two_halves_of_a_batch_are_the_batch(tmp_path, policy):
    overrides = (*POLICIES[policy], "normalizer=running", "trainer.minibatch_size=64", "trainer.num_epochs=3")
    overrides = (*overrides, "optim.max_grad_norm=0.01")
    trainer = tiny.make_trainer(*overrides)
    torch.save(trainer.loss.state_dict(), tmp_path / "start")
    batches = iter(trainer.start())
    torch.save([next(batches).clone() for _ in range(2)], tmp_path / "batches")
    learn(tmp_path, overrides, slice(0, 8))
    (tmp_path / "end0").rename(tmp_path / "one")
    assert finish(start_pair(learn_together, tmp_path, tmp_path, overrides), tmp_path) == [0, 0]
    one, first, second = (
        tiny.flat(torch.load(tmp_path / name, weights_only=False)) for name in ("one", "end0", "end4")
    )
    begun = tiny.flat(torch.load(tmp_path / "start"))
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(first[key], value, atol=1e-5, rtol=1e-5)
            assert second[key].equal(first[key]), key
    moved = [(one[f"0.{key}"] - value).abs().max() for key, value in begun.items() if f"0.{key}" in one]
    assert max(moved) > 1e-3


def fpo_train(rank: int, port: int, log: Path, *overrides: str) -> None:
    as_process(rank, port, log)
    tiny.fpo_train(log, *overrides)


def fpo_train_breaking(rank: int, port: int, log: Path, where: str, *overrides: str) -> None:
    """A run in which a process meets a NaN in its environment, or process 0 in an evaluation."""
    as_process(rank, port, log)
    broken = (BatchedEnv, "_step", 1) if where == "environment" else (Run, "evaluate", 0)

    def breaking(self, *args):
        raise NonFiniteError("a NaN of the simulator")

    if rank == broken[2]:
        setattr(*broken[:2], breaking)
    tiny.fpo_train(log, *overrides)


@pytest.mark.parametrize("where", ["environment", "evaluation"])
def test_a_nan_anywhere_stops_both_and_says_where(tmp_path, where):
    command = (*RUN, "total_frames=1024", f"run_dir={tmp_path}/run")
    codes = finish(start_pair(fpo_train_breaking, tmp_path, where, *command), tmp_path)
    assert codes == [4, 0]
    words = "in another process: a NaN of" if where == "environment" else "a NaN of the simulator"
    assert f"error: {words}" in (tmp_path / "0.log").read_text()
    assert read_provenance(tmp_path / "run")["status"] == "diverged"


class TestARun:
    @pytest.fixture(scope="class")
    def story(self, tmp_path_factory):
        """A run of two processes, of which one gets a signal; it is started again and ends."""
        directory = tmp_path_factory.mktemp("pair")
        command = (*RUN, "total_frames=1024", f"run_dir={directory}/run", "resume=auto")
        first = start_pair(fpo_train, directory, *command)
        deadline = time.monotonic() + 120
        while not (directory / "run/metrics.csv").exists():
            assert time.monotonic() < deadline, (directory / "0.log").read_text()
            assert first[0].is_alive(), (directory / "0.log").read_text()
            time.sleep(0.01)
        assert first[1].pid is not None
        os.kill(first[1].pid, signal.SIGTERM)
        codes = finish(first, directory)
        rows = len(read_metrics(directory / "run/metrics.csv"))
        again = finish(start_pair(fpo_train, directory, *command), directory)
        (directory / "straight").mkdir()
        straight = (*RUN, "total_frames=1024", f"run_dir={directory}/straight/run")
        finish(start_pair(fpo_train, directory / "straight", *straight), directory)
        return directory, codes, rows, again

    def test_a_signal_to_one_stops_both(self, story):
        _, codes, rows, again = story
        assert codes == [75, 75]
        assert again == [0, 0]
        assert 0 < rows < 16

    def test_one_of_them_writes(self, story):
        directory, _, rows, _ = story
        assert [row["frames"] for row in read_metrics(directory / "run/metrics.csv")] == [
            64.0 * i for i in range(1, 17)
        ]
        assert [it["from_frame"] for it in read_provenance(directory / "run")["starts"]] == [0, 64 * rows]
        assert (directory / "1.log").read_text() == ""
        assert "start afresh" not in (directory / "0.log").read_text()

    def test_it_ends_as_if_nothing_had_stopped_it(self, story):
        """Bit for bit, in both processes: weights, episodes, random numbers and metrics."""
        directory, *_ = story
        runs = (directory / "straight/run", directory / "run")
        straight, resumed = (tiny.read_checkpoint(run, "states") for run in runs)
        unused = tuple(f"{rng}.{it}" for rng in ("rng", "states.0.rng", "states.1.rng") for it in ("python", "numpy"))
        assert any(key.startswith("states.1.env.generator") for key in straight)
        assert not [
            key
            for key in straight.keys() | resumed.keys()
            if not key.startswith(unused) and not tiny.same({key: straight.get(key)}, {key: resumed.get(key)})
        ]
        assert not straight["states.0.rng.torch_cpu"].equal(straight["states.1.rng.torch_cpu"])

    def test_one_process_goes_on_with_other_episodes(self, story, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(Run, "finish", lambda self: {})
        run_dir = shutil.copytree(story[0] / "run", tmp_path / "run")
        resume([f"resume={run_dir}", "total_frames=1088"]).train()
        assert "or of workers: episodes and random numbers start afresh" in capsys.readouterr().out
        assert [row["frames"] for row in read_metrics(run_dir / "metrics.csv")] == [64.0 * i for i in range(1, 18)]

    def test_the_same_command_finds_it_finished(self, story):
        directory, *_ = story
        command = (*RUN, "total_frames=1024", f"run_dir={directory}/run", "resume=auto")
        assert finish(start_pair(fpo_train, directory, *command), directory) == [0, 0]
        assert "holds the finished run already" in (directory / "0.log").read_text()


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("given", [["RANK"], ["RANK", "MASTER_ADDR"], ["RANK", "WORLD_SIZE", "MASTER_ADDR"]])
def test_a_part_of_what_torchrun_sets_is_refused(given, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.delenv(name, raising=False)
        if name in given:
            monkeypatch.setenv(name, value)
    missing = ", ".join(name for name in TORCHRUN if name not in given)
    said = f"RANK=1 is in the environment without {missing}: torchrun sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"
    with pytest.raises(ConfigError, match=said), joined():
        pass


@pytest.mark.parametrize(
    ("num_gpus", "backend", "taken"), [(2, "cpu:gloo,cuda:nccl", [1]), (1, "gloo", [0]), (0, "gloo", [])]
)
def test_each_takes_a_gpu_where_there_is_one_for_each(num_gpus, backend, taken, monkeypatch):
    begun, devices = [], []
    for name, value in {**TORCHRUN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", begun.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with joined():
        pass
    assert (begun, devices) == ([backend], taken)


def test_alone_nothing_is_shared():
    alone, gradient = Processes(), torch.tensor([2.0])
    alone.average([gradient])
    assert gradient == 2
    assert alone.share("num_envs", 7) == 7
    assert alone.reduce({"ratio_max": 3.0}) == {"ratio_max": 3.0}


def test_what_cannot_be_shared_equally_is_refused():
    pair = Processes()
    pair.size = 2
    with pytest.raises(ConfigError, match="num_envs=7 cannot be shared equally by 2 processes: give a multiple of 2"):
        pair.share("num_envs", 7)
