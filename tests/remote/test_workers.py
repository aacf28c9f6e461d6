"""Workers collect elsewhere what this process would, with the weights of that time: by RPC, and by Ray on two nodes."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from fpo_torchrl.builders import env_maker
from fpo_torchrl.errors import NonFiniteError, WorkerLostError
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.remote.engines import shares
from fpo_torchrl.runs.assembly import build_trainer
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import derived_seed, make_collector
from fpo_torchrl.training.parallel import Processes

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
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(tiny.__file__).parent), os.environ.get("PYTHONPATH", "")]))
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
            env = env_maker(cfg)(num_envs=4, device="cpu", seed=seed)
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


def fpo_train(address: str, log: Path, *overrides: str) -> None:
    if address:
        os.environ["RAY_ADDRESS"] = address
    tiny.fpo_train(log, *overrides)
