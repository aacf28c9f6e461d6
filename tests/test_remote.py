"""Workers collect elsewhere what this process would, with the weights of that time: by RPC, and by Ray on two nodes."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from multiprocessing import active_children
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from omegaconf import OmegaConf

from fpo_torchrl.assembly import build_trainer
from fpo_torchrl.builders import ConfigError, build
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.collecting import PLAIN, derived_seed, make_collector
from fpo_torchrl.envs.base import NonFiniteError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.parallel import Processes
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.remote import RPCWorkers, WorkerCollector, WorkerLostError, WorkersNotStartedError, shares, told
from fpo_torchrl.run import Run
from fpo_torchrl.seeds.run import check_seeds
from fpo_torchrl.start import start_run
from fpo_torchrl.trainer import Trainer

pytestmark = pytest.mark.timeout(1200)  # workers import everything anew, which takes long on a busy machine
RUN = (*tiny.GRIDWORLD, "normalizer=running", "optim.lr=0.01", "trainer.redraw_pairs=false")
RAY = pytest.param(
    "ray",
    marks=[
        pytest.mark.ray,
        pytest.mark.skipif(
            importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'fpo-torchrl[ray]'"
        ),
    ],
)


@pytest.fixture(scope="module", params=["rpc", RAY])
def collector(request) -> Iterator[str]:
    """The option of the group; for Ray, with a cluster of two nodes of one CPU each."""
    if request.param == "rpc":
        yield "rpc"
        return
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:  # of which the workers, that Ray starts, inherit
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
    yield f"ray at {cluster.address}"
    cluster.shutdown()


def make_trainer(collector: str, *overrides: str) -> Trainer:
    option, _, address = collector.partition(" at ")
    if address:
        os.environ["RAY_ADDRESS"] = address
    return build_trainer(tiny.compose(*RUN, f"collector={option}", *overrides), Processes())[1]


def watch(collector: str, result: Path) -> None:
    """Some updates with workers, the last with older weights on their side, and then without one of the workers."""
    trainer = make_trainer(collector)
    batches: Any = trainer.start()
    first = next(batches)
    found = {"batch": first.clone(), "errors": [trainer.learn(first)["first_ratio_error"]]}
    found["errors"] += [trainer.learn(next(batches))["first_ratio_error"] for _ in range(2)]
    remote = batches._collector
    send, remote.update_policy_weights_ = remote.update_policy_weights_, lambda weights: None
    found["error with older weights"] = trainer.learn(next(batches))["first_ratio_error"]
    remote.update_policy_weights_ = send
    found["processes"] = [child.pid for child in active_children()]
    found["cores"] = [cores_of(process) for process in found["processes"]]
    if collector == "rpc":
        active_children()[0].kill()
    else:
        import ray

        ray.kill(remote.remote_collectors[0])
    try:
        next(batches)
    except WorkerLostError as error:
        found["without a worker"] = str(error)
    torch.save(found, result)
    os._exit(0)


def cores_of(process: int) -> list[set[int]]:
    """Where the threads of a worker may run: those that were there when it began, and those of its physics."""
    threads = [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]
    return [os.sched_getaffinity(thread) for thread in threads]


class TestBatches:
    @pytest.fixture(scope="class")
    def found(self, collector, tmp_path_factory) -> dict[str, Any]:
        result = tmp_path_factory.mktemp("found") / "result"
        process = tiny.start(watch, collector, result)
        process.join(600)
        assert process.exitcode == 0
        return torch.load(result, weights_only=False)

    def test_the_first_is_what_this_process_would_collect(self, found):
        cfg = tiny.compose(*RUN)
        actor = tiny.make_trainer(*RUN).actor
        assert found["batch"].shape == (8, 8)
        for worker in range(2):
            seed = derived_seed(cfg.seed, part=worker + 1)
            torch.manual_seed(seed)
            tree: Any = OmegaConf.to_container(cfg, resolve=True)
            env = build(tree["env"], "env", task=cfg.task, num_envs=4, device="cpu", seed=seed)
            alone = next(iter(make_collector(env, actor, 32)))
            rows = found["batch"][4 * worker : 4 * worker + 4]
            assert {*alone.keys(True, True)} == {*rows.keys(True, True)}
            different = [key for key in alone.keys(True, True) if not alone[key].equal(rows[key])]
            assert not different
        assert not found["batch"]["observation"][:4].equal(found["batch"]["observation"][4:])

    def test_each_is_of_the_weights_that_learn_from_it(self, found):
        assert len(found["errors"]) == 3
        assert max(found["errors"]) < 1e-5

    @pytest.mark.skipif(sys.platform != "linux", reason="cores can be chosen on Linux")
    def test_workers_of_a_machine_share_its_cores(self, found, collector):
        if collector == "rpc":
            assert {frozenset.union(*map(frozenset, cores)) for cores in found["cores"]} == {*shares(2)}

    def test_older_weights_would_have_been_seen(self, found):
        assert found["error with older weights"] > 1e-3

    def test_a_worker_that_dies_is_missed(self, found):
        assert found["without a worker"].startswith("a worker is gone")

    def test_workers_end_with_the_learner(self, found, collector):
        """Which did not say goodbye."""
        deadline = time.monotonic() + 60
        while any(map(is_running, found["processes"])):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(found["processes"]) == (2 if collector == "rpc" else 0)


def meet_nan(collector: str, result: Path) -> None:
    """The environments of the workers break."""
    trainer = make_trainer(collector, "env._target_=tiny.breaking_env")
    try:
        next(trainer.start())
    except NonFiniteError as error:
        result.write_text(str(error))
    trainer.close()


@pytest.mark.slow
def test_a_nan_of_a_worker_is_one_of_the_run(collector, tmp_path):
    process = tiny.start(meet_nan, collector, tmp_path / "result")
    process.join(600)
    words = (tmp_path / "result").read_text()
    assert words.startswith("in a worker: ")
    assert "a NaN of the simulator" in words


@pytest.mark.slow
def test_a_signal_stops_it_and_the_same_command_goes_on(collector, tmp_path):
    option, _, address = collector.partition(" at ")
    slow = ("actor/velocity_net=custom", "actor.velocity_net._target_=tiny.SlowVelocityMLP")
    run = tmp_path / "run"
    command = (*RUN, *slow, f"collector={option}", "total_frames=640", f"run_dir={run}", "resume=auto")
    first = tiny.start(fpo_train, address, tmp_path / "log", *command)
    deadline = time.monotonic() + 600
    while not (run / "metrics.csv").exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        assert first.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    for process in (*(children(first.pid) if option == "rpc" else ()), first.pid):  # as a scheduler does
        os.kill(process, signal.SIGTERM)
    first.join(300)
    assert first.exitcode == 75, (tmp_path / "log").read_text()
    rows = len(read_metrics(run / "metrics.csv"))
    assert 0 < rows < 10
    again = tiny.start(fpo_train, address, tmp_path / "again.log", *command)
    again.join(600)
    assert again.exitcode == 0, (tmp_path / "again.log").read_text()
    assert "2 workers: their episodes and random numbers start afresh" in (tmp_path / "again.log").read_text()
    assert [row["frames"] for row in read_metrics(run / "metrics.csv")] == [64.0 * i for i in range(1, 11)]
    alone = tiny.start(tiny.fpo_train, tmp_path / "alone.log", f"resume={run}", "collector=local", "total_frames=704")
    alone.join(600)
    assert alone.exitcode == 0, (tmp_path / "alone.log").read_text()
    assert [row["frames"] for row in read_metrics(run / "metrics.csv")] == [64.0 * i for i in range(1, 12)]


def is_running(process: int) -> bool:
    path = Path(f"/proc/{process}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def children(process: int) -> list[int]:
    """The processes that it started."""
    return [int(it) for it in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def refuse_connection(*args: Any, **settings: Any) -> None:
    raise ConnectionError("at 10.0.0.1:6379")


def fpo_train(address: str, log: Path, *overrides: str) -> None:
    if address:
        os.environ["RAY_ADDRESS"] = address
    tiny.fpo_train(log, *overrides)


class TestBeforeAnythingStarts:
    def test_by_default_no_worker(self):
        assert tiny.compose(*RUN).collector is None
        assert tiny.make_trainer(*RUN).workers is None

    def test_rpc_a_second_time_in_a_process(self, monkeypatch):
        trainer = make_trainer("rpc")
        monkeypatch.setattr(RPCWorkers, "has_started", True)
        for start in (trainer.start, partial(make_trainer, "rpc")):
            with pytest.raises(ConfigError, match="RPC starts once in a process; start each run by itself"):
                start()

    def test_metrics_of_an_environment_that_is_not_the_one_that_collects_are_left_out(self):
        trainer = make_trainer("rpc")
        trainer.env.metrics = lambda: {"share_lost": 1.0}
        assert trainer._of_task() == {}
        trainer.workers = None
        assert trainer._of_task() == {"share_lost": 1.0}

    def test_environments_that_cannot_be_shared(self):
        with pytest.raises(ConfigError, match="num_envs=8 cannot be shared equally by 3 workers: give a multiple of 3"):
            make_trainer("rpc", "collector.num_workers=3")

    @pytest.mark.parametrize("change", ["num_workers=0", "cpus_per_worker=0"])
    def test_out_of_range(self, change):
        with pytest.raises(ConfigError, match=f"collector: {change.partition('=')[0]} must be"):
            make_trainer("ray", f"collector.{change}")

    def test_without_ray_the_message_has_the_command(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ConfigError, match=r"collector=ray needs Ray: pip install 'fpo-torchrl\[ray\]'"):
            make_trainer("ray")

    def test_a_cluster_that_is_too_small(self, monkeypatch):
        """Ray would wait for further machines."""
        ray = ModuleType("ray")
        ray.__spec__ = ModuleSpec("ray", None)
        ray.is_initialized = lambda: True
        sizes = ((True, {"CPU": 3.0}), (True, {"CPU": 1.0}), (False, {"CPU": 8.0}), (True, {}))
        ray.nodes = lambda: [{"Alive": alive, "Resources": resources} for alive, resources in sizes]
        monkeypatch.setitem(sys.modules, "ray", ray)
        with pytest.raises(ConfigError, match=r"num_workers=2: the Ray cluster has room for 1, .*\[3.0, 1.0, 0\] CPUs"):
            make_trainer("ray", "collector.cpus_per_worker=2")

    def test_a_cluster_that_is_not_there(self, monkeypatch, tmp_path, capsys):
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

    def test_workers_that_do_not_start(self, monkeypatch):
        trainer = make_trainer("rpc")
        monkeypatch.setattr(RPCWorkers, "connect", refuse_connection)
        with pytest.raises(WorkersNotStartedError, match=r"the workers did not start \(ConnectionError: at 10"):
            trainer.start()

    def test_a_collector_without_an_end_is_true_when_it_fails_in_ray(self):
        env = build(tiny.compose(*RUN).env, "env", task="gridworld/two_walls", num_envs=1, device="cpu", seed=0)
        assert WorkerCollector(env, None, frames_per_batch=1, total_frames=-1, **PLAIN)

    @pytest.mark.parametrize("error", [WorkerLostError, WorkersNotStartedError])
    def test_a_signal_that_took_the_workers_too_stops_the_run_as_ever(self, monkeypatch, tmp_path, error):
        def fail(self):
            self.stop.received = signal.SIGTERM
            raise error("no answer")

        monkeypatch.setattr(Run, "_train", fail)
        run = start_run(tiny.compose(*RUN, f"run_dir={tmp_path / 'run'}"))
        with pytest.raises(Preempted, match="SIGTERM"):
            run.train()

    def test_cores_are_shared(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6, 7, 9}, raising=False)
        assert shares(2) == [{3, 6, 9}, {5, 7}]
        assert shares(7)[5:] == [{3}, {5}]

    @pytest.mark.parametrize("error", [NonFiniteError, RuntimeError])
    def test_what_a_worker_says_of_a_nan(self, error):
        """By RPC it arrives as a RuntimeError."""
        words = "NonFiniteError: On WorkerInfo(id=1)"
        with pytest.raises(NonFiniteError, match="in a worker: NonFiniteError: On W"), told(WorkerLostError, "gone"):
            raise error(words)

    def test_not_together_with_torchrun(self):
        pair = Processes()
        pair.size = 2
        with pytest.raises(ConfigError, match="either workers collect, or the processes of torchrun do"):
            build_trainer(tiny.compose(*RUN, "collector=rpc"), pair)

    def test_rpc_does_not_start_twice(self):
        with pytest.raises(ConfigError, match="nan_rollbacks=1 needs collector=ray or local"):
            make_trainer("rpc", "nan_rollbacks=1")

    def test_not_with_several_seeds(self):
        with pytest.raises(ConfigError, match="it needs collector=local"):
            check_seeds(tiny.compose(*RUN, "collector=rpc", "num_seeds=2"), None)
