"""The options in TorchRL's Hydra groups: composed with TorchRL's own, built, and trained."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torchrl.collectors import Collector
from torchrl.trainers.algorithms import configs
from torchrl.trainers.algorithms.configs import PPOTrainerConfig
from torchrl.trainers.algorithms.ppo import PPOTrainer

from fpo_torchrl import FlowActor, FPOLoss, Heun, VelocityMLP, make_env
from fpo_torchrl.config import register_schemas, registered_schemas
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.torchrl_configs import STORED, make_flow_actor, make_trainer, register

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

RECIPE = Path(__file__).parents[2] / "examples" / "torchrl_trainer"
SOURCE = os.environ.get("TORCHRL_SOURCE")
TINY = ("total_frames=128", "collector.frames_per_batch=64", "replay_buffer.batch_size=32", "trainer.num_epochs=1")


@pytest.fixture(autouse=True)
def options(monkeypatch):
    """TorchRL's options and ours, also where those of ``fpo-train`` were registered in this process."""
    Plugins.instance()  # which store their options once in a process, so before the copy
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    importlib.reload(configs)
    register()


def recipe(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(RECIPE), version_base="1.3"):
        return compose("config", [*TINY, "trainer.logger=null", *overrides])


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_fpo_train_does_not_offer_them_and_leaves_them_where_they_were():
    def there() -> set[str]:
        return {f"{group}/{name}" for group, name in STORED if name in store.repo.get(group, {})}

    store = ConfigStore.instance()
    everything = there()
    assert {"loss/fpo.yaml", "env/fpo_task.yaml", "solver/heun.yaml"} <= everything
    with registered_schemas():
        assert there() == set()
        assert "solver" not in store.repo
    assert there() == everything


class Witness:
    """Watches a trainer: the weights that collect, and the ratio of the first minibatch of each batch."""

    def __init__(self, trainer: Any) -> None:
        self.collected: list[dict[str, torch.Tensor]] = []
        self.ratios: list[float] = []
        self.fresh = False
        trainer.register_op("batch_process", self.collect)
        trainer.loss_module.register_forward_hook(self.update)
        self.trainer = trainer

    def collect(self, batch):
        self.collected.append(weights(self.trainer.collector.policy))
        self.fresh = True
        return batch

    def update(self, module, inputs, losses) -> None:
        if self.fresh:
            self.ratios.append(losses["max_ratio"].item())
        self.fresh = False


def test_the_recipe_trains_and_the_collector_follows_the_loss():
    cfg = recipe()
    trainer = instantiate(cfg.trainer)
    actor = trainer.loss_module.actor_network
    assert type(trainer) is PPOTrainer
    assert type(trainer.loss_module) is FPOLoss
    assert isinstance(actor, FlowActor)
    assert trainer.collector.policy is actor
    assert trainer.loss_module.critic_network is not None
    before, witness = weights(actor), Witness(trainer)
    trainer.train()
    after = weights(actor)
    learnt = [name for name in before if not before[name].equal(after[name])]
    assert {"velocity_net.layers.0.weight", "velocity_net.layers.2.bias"} <= set(learnt)
    first, second = witness.collected
    assert all(first[name].equal(before[name]) for name in before)
    assert any(not second[name].equal(before[name]) for name in before)
    assert witness.ratios == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_collector_that_the_recipe_builds_itself_gets_the_weights_of_the_loss():
    cfg = recipe("collector._partial_=false")
    trainer = instantiate(cfg.trainer)
    assert trainer.collector.policy is not trainer.loss_module.actor_network
    witness = Witness(trainer)
    trainer.train()
    assert witness.ratios == pytest.approx([1.0, 1.0], abs=1e-5)
    collects, learns = weights(trainer.collector.policy), weights(trainer.loss_module.actor_network)
    assert all(collects[name].equal(learns[name]) for name in learns)


def test_without_the_three_words_it_is_torchrls_gaussian():
    cfg = recipe("model@actor=tanh_normal", "loss=ppo", "trainer=ppo")
    assert cfg.actor._target_.endswith("_make_tanh_normal_model")
    assert cfg.trainer._target_ == PPOTrainerConfig._target_


def test_our_tasks_and_solvers_are_options_too():
    cfg = recipe("env=fpo_task", "~env.env_name", "env.task=PointMass", "+solver@actor.solver=heun")
    env, actor = instantiate(cfg.env), instantiate(cfg.actor)
    assert type(env) is type(make_env("PointMass"))
    assert isinstance(actor.solver, Heun)


def test_settings_of_the_classes_are_settings_of_the_options():
    cfg = recipe("loss.ratio=per_sample", "loss.clip_epsilon=0.1", "actor.num_mc_samples=4", "trainer.gamma=0.9")
    loss = instantiate(cfg.loss)
    assert (loss.num_ratio_groups, loss.clip_epsilon) == (4, 0.1)
    assert cfg.trainer.gamma == 0.9


def test_they_do_not_disturb_the_options_of_fpo_train():
    """Where both have an option of one name, ``fpo-train`` means its file."""
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        for loss, target in (("fpo", "FPOLoss"), ("ppo", "ClipPPOLoss")):
            cfg = compose("config", [f"loss={loss}", "logger=wandb"])
            assert cfg.loss._target_.endswith(f".{target}")
            assert cfg.logger.kind == "wandb"


class TestFlowActorOption:
    def test_it_takes_the_sizes_of_the_gaussians_network(self):
        node = {"in_features": 7, "out_features": 6, "num_cells": [16, 8]}
        actor = make_flow_actor(network=node, low=-2, high=2)
        assert actor.action_dim == 3
        assert [layer.out_features for layer in actor.velocity_net.layers] == [16, 8, 3]
        assert actor.action_high.tolist() == [2, 2, 2]

    def test_or_a_network_of_ones_own(self):
        node = {"_target_": "fpo_torchrl.VelocityMLP", "obs_dim": 3, "action_dim": 2, "hidden_sizes": [4]}
        keys = {"in_keys": [["agents", "observation"]], "out_keys": [["agents", "action"]]}
        actor = make_flow_actor(velocity_net=OmegaConf.create(node), **keys)
        assert isinstance(actor.velocity_net, VelocityMLP)
        assert actor.in_keys == [("agents", "observation")]
        assert actor.action_key == ("agents", "action")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({}, "needs in_features, out_features, num_cells in network"),
            (
                {"network": {"in_features": 3, "out_features": 3, "num_cells": [4]}},
                "should be 2 times the action's size",
            ),
            ({"return_log_prob": False}, "return_log_prob must be true"),
            ({"out_keys": ["loc", "action"]}, "out_keys must name the action alone"),
        ],
    )
    def test_what_it_refuses(self, settings, words):
        with pytest.raises(ConfigError, match=words):
            make_flow_actor(**settings)


def test_a_functional_loss_is_refused(make_actor, make_critic):
    with pytest.raises(ConfigError, match=r"loss.functional=false"):
        make_trainer(collector=None, loss_module=FPOLoss(make_actor(), make_critic()))


class TestUpstream:
    """Every name of TorchRL's configs that ours rely on."""

    def test_its_groups_hold_what_the_recipe_names(self):
        repo = ConfigStore.instance().repo
        names = {
            "loss": "ppo",
            "trainer": "ppo",
            "model": "tanh_normal",
            "network": "mlp",
            "collector": "sync",
            "env": "gym",
        }
        for group, name in names.items():
            assert f"{name}.yaml" in repo[group], group

    def test_a_partial_collector_is_called_with_keywords(self):
        node = repo_node("collector", "sync")
        assert node._target_ == "torchrl.collectors.Collector"
        assert {"policy", "create_env_fn", "_partial_"} <= set(node)
        assert hasattr(Collector, "update_policy_weights_")

    def test_the_factory_of_the_ppo_trainer_is_named_by_its_config(self):
        assert callable(get_object(PPOTrainerConfig._target_))

    def test_the_gaussians_options_are_those_that_flow_actor_reads(self):
        assert {"network", "param_keys", "return_log_prob", "low", "high", "in_keys", "out_keys"} <= set(
            repo_node("model", "tanh_normal")
        )
        assert {"in_features", "out_features", "num_cells", "depth"} <= set(repo_node("network", "mlp"))


def repo_node(group: str, name: str) -> DictConfig:
    return copy.deepcopy(ConfigStore.instance().repo[group][f"{name}.yaml"].node)


@pytest.mark.slow
def test_importing_the_package_does_not_import_torchrls_configs():
    code = "import sys, fpo_torchrl; sys.exit('torchrl.trainers.algorithms.configs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0


@pytest.mark.skipif(not SOURCE, reason="needs TORCHRL_SOURCE, the path of a checkout of pytorch/rl")
def test_torchrls_own_recipe_trains_with_the_words_swapped(tmp_path):
    text = (Path(SOURCE) / "sota-implementations/ppo_trainer/config/config.yaml").read_text()
    swaps = {"policy_model: tanh_normal": "policy_model: flow_actor", "loss@loss: ppo": "loss@loss: fpo"}
    swaps |= {"trainer@trainer: ppo": "trainer@trainer: fpo"}
    swaps |= {"collector@collector: multi_async": "collector@collector: sync", "  num_workers: 2\n": ""}  # one process
    swaps |= {"  offline: false\n  project: torchrl-sota-implementations\n": ""}  # the csv logger has no such settings
    for old, new in swaps.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "config.yaml").write_text(text)
    small = ("collector.total_frames=128", "collector.frames_per_batch=64")
    small += (
        "trainer.total_frames=128",
        "trainer.logger=null",
        "replay_buffer.batch_size=32",
        "replay_buffer.storage.max_size=64",
    )
    small += ("trainer.progress_bar=false", "training_env.batched_env_type=serial")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("config", [*small])
    trainer = hydra.utils.instantiate(cfg.trainer)
    witness = Witness(trainer)
    before = weights(trainer.loss_module.actor_network)
    trainer.train()
    after = weights(trainer.collector.policy)
    assert any(not before[name].equal(after[name]) for name in before)
    assert witness.ratios == pytest.approx([1.0, 1.0], abs=1e-5)
