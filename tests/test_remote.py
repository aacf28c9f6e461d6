"""Workers elsewhere collect what this process would, with the weights of that time; with RPC, and with Ray on two nodes."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children

import pytest
import tiny
import torch
from omegaconf import OmegaConf

from fpo_torchrl.builders import ConfigError, build
from fpo_torchrl.collecting import derived_seed, make_collector
from fpo_torchrl.follow import build_trainer
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.parallel import Processes
from fpo_torchrl.remote import RemoteBatches, WorkerLostError
from fpo_torchrl.seeds.run import check_seeds
from fpo_torchrl.trainer import Trainer

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
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield "ray"
        finally:
            ray.shutdown()
            cluster.shutdown()


def make_trainer(collector: str, *overrides: str) -> Trainer:
    return build_trainer(tiny.compose(*RUN, f"collector={collector}", *overrides), Processes())[1]


def collect_here(trainer: Trainer, cfg, worker: int):
    """The first batch of a worker, in this process."""
    seed = derived_seed(cfg.seed, part=worker + 1)
    tree = OmegaConf.to_container(cfg, resolve=True)
    torch.manual_seed(seed)
    env = build(tree["env"], "env", task=cfg.task, num_envs=4, device="cpu", seed=seed)
    return next(iter(make_collector(env, trainer.actor, 32)))


def test_the_first_batch_is_what_this_process_would_collect(collector):
    cfg = tiny.compose(*RUN, f"collector={collector}")
    trainer = build_trainer(cfg, Processes())[1]
    try:
        batch = next(iter(trainer.start()))
    finally:
        trainer.close()
    alone = torch.cat([collect_here(trainer, cfg, worker) for worker in range(2)])
    assert batch.shape == alone.shape == (8, 8)
    for key in alone.keys(True, True):
        torch.testing.assert_close(batch[key], alone[key], rtol=0, atol=0, msg=str(key))
    assert not batch["observation"][:4].equal(batch["observation"][4:])


def test_every_batch_is_of_the_weights_that_learn_from_it(collector):
    trainer = make_trainer(collector, "total_frames=192")
    try:
        errors = [metrics["first_ratio_error"] for metrics in trainer]
    finally:
        trainer.close()
    assert len(errors) == 3
    assert max(errors) < 1e-5


def test_older_weights_would_be_seen(monkeypatch):
    """What the test above would miss, it would not test."""
    trainer = make_trainer("rpc", "total_frames=128")
    batches = iter(trainer.start())
    assert isinstance(batches, RemoteBatches)
    first = next(batches)
    trainer.learn(first)
    monkeypatch.setattr(batches._collector, "update_policy_weights_", lambda weights: None)
    try:
        assert trainer.learn(next(batches))["first_ratio_error"] > 1e-3
    finally:
        trainer.close()


def test_a_signal_stops_it_and_the_same_command_goes_on(collector, tmp_path):
    slow = ("actor/velocity_net=custom", "actor.velocity_net._target_=tiny.SlowVelocityMLP")
    run = tmp_path / "run"
    command = (*RUN, *slow, f"collector={collector}", "total_frames=640", f"run_dir={run}", "resume=auto")
    first = tiny.start(tiny.fpo_train, tmp_path / "log", *command)
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        assert first.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    first.terminate()
    first.join(60)
    assert first.exitcode == 75, (tmp_path / "log").read_text()
    rows = len(read_metrics(run / "metrics.csv"))
    assert 0 < rows < 10
    again = tiny.start(tiny.fpo_train, tmp_path / "again.log", *command)
    again.join(120)
    assert again.exitcode == 0, (tmp_path / "again.log").read_text()
    assert "2 workers: their episodes and random numbers start afresh" in (tmp_path / "again.log").read_text()
    assert [row["frames"] for row in read_metrics(run / "metrics.csv")] == [64.0 * i for i in range(1, 11)]


def test_a_worker_that_dies_is_missed():
    trainer = make_trainer("rpc")
    batches = iter(trainer.start())
    next(batches)
    victim = active_children()[0]
    victim.kill()
    with pytest.raises(WorkerLostError, match="a worker is gone"):
        next(batches)
    trainer.close()


class TestBeforeAnythingStarts:
    def test_by_default_no_worker(self):
        assert tiny.compose(*RUN).collector is None
        assert tiny.make_trainer(*RUN).workers is None

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

    def test_not_together_with_torchrun(self):
        pair = Processes()
        pair.size = 2
        with pytest.raises(ConfigError, match="either workers collect, or the processes of torchrun do"):
            build_trainer(tiny.compose(*RUN, "collector=rpc"), pair)

    def test_not_with_several_seeds(self):
        with pytest.raises(ConfigError, match="it needs collector=local"):
            check_seeds(tiny.compose(*RUN, "collector=rpc", "num_seeds=2"), None)
