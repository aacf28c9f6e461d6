"""What remote workers refuse before anything starts, and how a run ends without them."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import tiny

from fpo_torchrl.builders import env_maker
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import ConfigError, NonFiniteError, WorkerLostError, WorkersNotStartedError
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.remote import RPCWorkers
from fpo_torchrl.remote.engines import WorkerCollector, shares
from fpo_torchrl.remote.workers import told
from fpo_torchrl.runs.assembly import build_trainer, check_workers
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import check_seeds
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import PLAIN
from fpo_torchrl.training.parallel import Processes

RUN = tiny.GRIDWORLD


def make_trainer(*overrides: str) -> Trainer:
    return build_trainer(tiny.compose(*RUN, *overrides), Processes())[1]


def refuse_connection(*args: Any, **settings: Any) -> None:
    raise ConnectionError("at 10.0.0.1:6379")


def test_by_default_no_worker():
    assert tiny.compose(*RUN).collector is None
    assert tiny.make_trainer(*RUN).workers is None


def test_rpc_a_second_time_in_a_process(monkeypatch):
    trainer = make_trainer("collector=rpc")
    monkeypatch.setattr(RPCWorkers, "has_started", True)
    for start in (trainer.start, partial(make_trainer, "collector=rpc")):
        with pytest.raises(ConfigError, match="RPC starts once in a process; start each run by itself"):
            start()


def test_physics_on_a_device_that_workers_lack():
    cfg = tiny.compose(*tiny.CARTPOLE, "env.backend=warp", "collector=rpc")
    with pytest.raises(ConfigError, match=r"env\.backend=warp steps on this process's device.*give env\.backend=c"):
        check_workers(RPCWorkers(make_env=lambda: None, num_envs=2, num_workers=2), None, cfg, Processes())


def test_steps_drawn_for_each_rollout():
    with pytest.raises(
        ConfigError, match="draw their number of steps for each call; give actor/solver=random_steps or"
    ):
        make_trainer("actor/solver=random_steps_per_rollout", "collector=rpc")


def test_metrics_of_an_environment_that_is_not_the_one_that_collects_are_left_out():
    trainer = make_trainer("collector=rpc")
    trainer.env.metrics = lambda: {"share_lost": 1.0}
    batch = trainer.env.rollout(2, break_when_any_done=False)
    assert "share_lost" not in trainer.report(batch, {}, collect_s=1, update_s=1)
    trainer.workers = None
    assert trainer.report(batch, {}, collect_s=1, update_s=1)["share_lost"] == 1


def test_environments_that_cannot_be_shared():
    with pytest.raises(ConfigError, match="num_envs=8 cannot be shared equally by 3 workers: give a multiple of 3"):
        make_trainer("collector=rpc", "collector.num_workers=3")


@pytest.mark.parametrize("change", ["num_workers=0", "cpus_per_worker=0"])
def test_out_of_range(change):
    with pytest.raises(ConfigError, match=f"collector: {change.partition('=')[0]} must be"):
        make_trainer("collector=ray", f"collector.{change}")


def test_without_ray_the_message_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"collector=ray needs Ray: pip install 'fpo-torchrl\[ray\]'"):
        make_trainer("collector=ray")


def test_a_cluster_that_is_too_small(monkeypatch):
    """Ray would wait for further machines."""
    ray = ModuleType("ray")
    ray.__spec__ = ModuleSpec("ray", None)
    ray.is_initialized = lambda: True
    sizes = ((True, {"CPU": 3.0}), (True, {"CPU": 1.0}), (False, {"CPU": 8.0}), (True, {}))
    ray.nodes = lambda: [{"Alive": alive, "Resources": resources} for alive, resources in sizes]
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(ConfigError, match=r"num_workers=2: the Ray cluster has room for 1, .*\[3.0, 1.0, 0\] CPUs"):
        make_trainer("collector=ray", "collector.cpus_per_worker=2")


def test_a_cluster_that_is_not_there(monkeypatch, tmp_path, capsys):
    ray = ModuleType("ray")
    ray.__spec__ = ModuleSpec("ray", None)
    ray.is_initialized = lambda: False
    ray.init = refuse_connection
    monkeypatch.setitem(sys.modules, "ray", ray)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as end, friendly_errors():
        start_run(tiny.compose(*RUN, "collector=ray", f"run_dir={run}"))
    assert end.value.code == 7
    assert "no Ray cluster was reached or started (ConnectionError: at 10.0.0.1:6379)" in capsys.readouterr().err
    assert not list(run.glob("*.yaml"))


def test_workers_that_do_not_start(monkeypatch):
    trainer = make_trainer("collector=rpc")
    monkeypatch.setattr(RPCWorkers, "connect", refuse_connection)
    with pytest.raises(WorkersNotStartedError, match=r"the workers did not start \(ConnectionError: at 10"):
        trainer.start()


def test_a_collector_without_an_end_is_true_when_it_fails_in_ray():
    env = env_maker(tiny.compose(*RUN))(num_envs=1, device="cpu", seed=0)
    assert WorkerCollector(env, None, frames_per_batch=1, total_frames=-1, **PLAIN)


@pytest.mark.parametrize("error", [WorkerLostError, WorkersNotStartedError])
def test_a_signal_that_took_the_workers_too_stops_the_run_as_ever(monkeypatch, tmp_path, error):
    def fail(self):
        self.stop.received = signal.SIGTERM
        raise error("no answer")

    monkeypatch.setattr(Run, "_train", fail)
    run = start_run(tiny.compose(*RUN, f"run_dir={tmp_path / 'run'}"))
    with pytest.raises(Preempted, match="SIGTERM"):
        run.train()


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6, 7, 9}, raising=False)
    assert shares(2) == [{3, 6, 9}, {5, 7}]
    assert shares(7)[5:] == [{3}, {5}]


@pytest.mark.parametrize("error", [NonFiniteError, RuntimeError])
def test_what_a_worker_says_of_a_nan(error):
    """By RPC it arrives as a RuntimeError."""
    words = "NonFiniteError: On WorkerInfo(id=1)"
    with pytest.raises(NonFiniteError, match="in a worker: NonFiniteError: On W"), told(WorkerLostError, "gone"):
        raise error(words)


def test_not_together_with_torchrun():
    pair = Processes()
    pair.size = 2
    with pytest.raises(ConfigError, match="either workers collect, or the processes of torchrun do"):
        build_trainer(tiny.compose(*RUN, "collector=rpc"), pair)


def test_rpc_does_not_start_twice():
    with pytest.raises(ConfigError, match="nan_rollbacks=1 needs collector=ray or local"):
        make_trainer("collector=rpc", "nan_rollbacks=1")


def test_not_with_several_seeds():
    with pytest.raises(ConfigError, match="it needs collector=local"):
        check_seeds(tiny.compose(*RUN, "collector=rpc", "num_seeds=2"), None)
