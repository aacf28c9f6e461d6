"""Training that begins with an actor which has learnt already."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from fpo_torchrl import CFMLoss, Euler, FlowActor, FPOLoss, VelocityMLP
from fpo_torchrl.advantage import GAE
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.errors import CheckpointError, ConfigError
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.seeds.run import resume
from fpo_torchrl.trainer import Trainer


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def make_run(tmp_path):
    def make(*overrides: str, name: str = "run") -> Run:
        return start_run(tiny.compose(*tiny.CARTPOLE, f"run_dir={tmp_path / name}", *overrides))

    return make


@pytest.fixture
def pretrained(make_run, tmp_path):
    """A checkpoint of an actor alone, after a step of flow matching and a look at some observations."""
    run = make_run("seed=1", name="pretrained")
    agent, batch = run.agent, run.trainer.env.rollout(4)
    optimizer = torch.optim.SGD(agent.actor.parameters(), lr=1.0)
    CFMLoss(agent.actor)(batch)["loss_cfm"].backward()
    optimizer.step()
    agent.normalizer.update(batch["observation"])
    return Checkpointer(tmp_path / "pretrained", actor=agent.actor).save(0), agent.actor


class TestInitFrom:
    def test_a_checkpoint_of_an_actor_pretrained_by_hand(self, make_run, pretrained):
        path, actor = pretrained
        assert not same_weights(make_run(name="fresh").agent.actor, actor)
        run = make_run(f"init_from={path}")
        assert same_weights(run.agent.actor, actor)
        assert run.agent.normalizer.count == actor.normalizer.count > 0

    def test_a_run_gives_its_actor_and_keeps_its_critic(self, make_run):
        first = make_run("total_frames=64", "seed=1", name="first")
        first.train()
        run = make_run(f"init_from={first.run_dir}")
        assert same_weights(run.agent.actor, first.agent.actor)
        assert not same_weights(run.agent.critic, first.agent.critic)
        assert run.trainer.frames == 0

    def test_a_resumed_run_goes_on_with_its_own_actor(self, make_run, pretrained):
        run = make_run(f"init_from={pretrained[0]}", "total_frames=64")
        run.train()
        pretrained[0].unlink()
        assert same_weights(resume([f"resume={run.run_dir}"]).agent.actor, run.agent.actor)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (["init_from=nowhere.torchrl"], "nowhere.torchrl does not exist"),
            (["init_from=."], "holds no run and no checkpoints/"),
            (["init_from={path}", "actor.velocity_net.hidden_sizes=[9]"], "does not fit"),
        ],
    )
    def test_what_cannot_be_loaded_leaves_no_run(self, make_run, pretrained, tmp_path, settings, words):
        with pytest.raises(CheckpointError, match=words):
            make_run(*(setting.format(path=pretrained[0]) for setting in settings))
        assert not (tmp_path / "run").exists()


class TestCriticWarmup:
    @pytest.mark.parametrize("frames", [100, 128])
    def test_the_actor_waits_while_the_critic_learns(self, frames):
        """Two batches of 64, the second of them in part or as a whole."""
        trainer = tiny.make_trainer(*tiny.BANDIT, f"trainer.critic_warmup_frames={frames}")
        actor, critic, moved = trainer.actor.velocity_net, trainer.advantage.critic, []
        before = copy.deepcopy(actor), copy.deepcopy(critic)
        for _ in zip(range(3), trainer, strict=False):
            moved.append((not same_weights(actor, before[0]), not same_weights(critic, before[1])))
            before = copy.deepcopy(actor), copy.deepcopy(critic)
        assert moved == [(False, True), (False, True), (True, True)]

    def test_weights_that_the_critic_shares_with_the_actor_wait_too(self):
        class Shared(nn.Module):
            """A value made of one of the actor's weights and one of its own."""

            def __init__(self, net: VelocityMLP) -> None:
                super().__init__()
                self.net, self.own = net, nn.Parameter(torch.ones(1))

            def forward(self, observation):
                return 0 * observation + self.net.layers[-1].bias[:1] + self.own

        net = VelocityMLP(1, 1, hidden_sizes=(8,))
        critic = TensorDictModule(Shared(net), in_keys=["observation"], out_keys=["state_value"])
        actor = FlowActor(net, Euler(2), num_mc_samples=2)
        parts = FPOLoss(actor, critic), GAE(critic), AgentOptimizer(actor.parameters(), critic.parameters(), lr=0.1)
        sizes = {"total_frames": 48, "frames_per_batch": 24, "minibatch_size": 24, "critic_warmup_frames": 24}
        trainer, before = Trainer(ProbeEnv("both", num_envs=4), actor, *parts, **sizes), copy.deepcopy(actor)
        next(iter(trainer))
        assert same_weights(actor, before)
        assert critic.module.own.item() != 1

    def test_below_zero(self, make_run):
        with pytest.raises(ConfigError, match="critic_warmup_frames must not be negative, got -1"):
            make_run("trainer.critic_warmup_frames=-1")
