"""What a trainer takes for environment, loss and optimiser, and what it refuses before the first rollout."""

from __future__ import annotations

import copy

import pytest
import torch
from small_trainer import BATCH, NUM_ENVS, trainer_on
from tensordict.nn import TensorDictModule
from torchrl.envs import GymEnv, ParallelEnv, RenameTransform, SerialEnv, StepCounter, TransformedEnv

from fpo_torchrl import FlowActor, FPOLoss, ObservationNormalizer, ValueMLP, VelocityMLP
from fpo_torchrl.advantage import GAE
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.evaluation import evaluate
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.trainer import Trainer


def pendulum():
    return GymEnv("Pendulum-v1")


BATCHES = {
    "serial": lambda: SerialEnv(NUM_ENVS, pendulum),
    "transformed": lambda: TransformedEnv(SerialEnv(NUM_ENVS, pendulum), StepCounter()),
    "parallel": lambda: ParallelEnv(NUM_ENVS, pendulum),
    "of our own, with a counter": lambda: TransformedEnv(ProbeEnv("both", num_envs=NUM_ENVS), StepCounter()),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("started", [False, True])
def test_torchrls_batches_of_environments_are_trained_on(kind, started):
    env = BATCHES[kind]()
    if started:
        env.reset()
    try:
        trainer = trainer_on(env, total_frames=BATCH)
        (metrics,) = trainer
        assert metrics["frames"] == BATCH
        assert not trainer.can_restore_env
        assert set(trainer.state_dict()) == {"frames", "lr_scale", "tracker"}
        other = trainer_on(env, total_frames=2 * BATCH)
        other.load_state_dict(trainer.state_dict() | {"env": {}})  # as older versions saved it
        assert [metrics["frames"] for metrics in other] == [2 * BATCH]
    finally:
        env.close()


def test_an_environments_own_metrics_are_reported_through_transforms():
    class Counting(ProbeEnv):
        def metrics(self):
            return {"num_moons": 2.0}

    env = TransformedEnv(Counting("both", num_envs=NUM_ENVS), StepCounter())
    (metrics,) = trainer_on(env, total_frames=BATCH)
    assert metrics["num_moons"] == 2


@pytest.mark.parametrize(
    ("env", "shape"), [(pendulum, r"\[\]"), (lambda: SerialEnv(2, lambda: SerialEnv(2, pendulum)), r"\[2, 2\]")]
)
def test_environments_that_are_no_plain_batch_are_refused(env, shape):
    with pytest.raises(ValueError, match=rf"batch size \[num_envs\], got {shape}: wrap a single one"):
        trainer_on(env())


def parts(**others):
    """Another trainer's parts, some of them exchanged."""
    trainer = trainer_on(ProbeEnv("both", num_envs=NUM_ENVS))
    names = ("env", "actor", "loss", "advantage", "optimizer")
    return {name: getattr(trainer, name) for name in names} | others


def test_a_loss_that_is_not_reduced_is_refused():
    own = parts()
    own["loss"].reduction = "none"
    with pytest.raises(ValueError, match='reduction="none" and would be summed'):
        Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH)


@pytest.mark.parametrize("copied", ["actor", "critic", "optimizer"])
def test_parts_that_are_copies_of_each_other_are_refused(copied):
    env = ProbeEnv("both", num_envs=NUM_ENVS)
    actor = FlowActor(VelocityMLP(1, 1))
    critic = TensorDictModule(ValueMLP(1), in_keys=["observation"], out_keys=["state_value"])
    other = {"actor": actor, "critic": critic}
    if copied != "optimizer":
        other[copied] = copy.deepcopy(other[copied])
    loss = FPOLoss(other["actor"], other["critic"])
    trained = copy.deepcopy(critic) if copied == "optimizer" else other["critic"]
    optimizer = AgentOptimizer(other["actor"].parameters(), trained.parameters())
    words = {"actor": "actor that collects", "critic": "advantage's critic", "optimizer": "optimizer"}[copied]
    with pytest.raises(ValueError, match=f"weights of the {words} are not the loss's: build the loss"):
        Trainer(env, actor, loss, GAE(critic), optimizer, total_frames=64, frames_per_batch=32, minibatch_size=32)


def test_trainable_weights_that_no_step_changes_are_refused():
    own = parts()
    own["optimizer"] = AgentOptimizer(own["actor"].parameters(), [])
    with pytest.raises(ValueError, match=r"4 trainable weights of the loss are not the optimizer's: .* requires_grad_"):
        Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH)
    own["advantage"].critic.requires_grad_(False)
    Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH, minibatch_size=BATCH)


def test_weights_may_be_frozen_after_the_optimizer_was_built():
    env = ProbeEnv("both", num_envs=NUM_ENVS)
    trainer = trainer_on(env)
    trainer.loss.critic_network_params.requires_grad_(False) if trainer.loss.functional else None
    parts = {"loss": trainer.loss, "advantage": trainer.advantage, "optimizer": trainer.optimizer}
    for weight in trainer.advantage.critic.parameters():
        weight.requires_grad_(False)
    Trainer(env, trainer.actor, **parts, total_frames=BATCH, frames_per_batch=BATCH, minibatch_size=BATCH)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"action_high": 2.0},
            r"reach from .* to \[2.0\], and the environment takes \[-1.0\] to \[1.0\]: build the act",
        ),
        ({"action_dim": 2}, "actions have 2 entries, the environment takes 1"),
    ],
)
def test_actions_that_the_environment_does_not_take_are_refused(settings, message):
    net = VelocityMLP(1, settings.get("action_dim", 1))
    actor = FlowActor(net, **{name: value for name, value in settings.items() if name != "action_dim"})
    with pytest.raises(ValueError, match=message):
        trainer_on(ProbeEnv("both", num_envs=NUM_ENVS), actor=actor)


def test_parameters_in_the_wrong_order_are_refused():
    env = ProbeEnv("both", num_envs=NUM_ENVS)
    actor = FlowActor(VelocityMLP(1, 1))
    critic = TensorDictModule(ValueMLP(1), in_keys=["observation"], out_keys=["state_value"])
    optimizer = AgentOptimizer(critic.parameters(), actor.parameters())
    with pytest.raises(ValueError, match="first parameters are not the actor's"):
        Trainer(env, actor, FPOLoss(actor, critic), GAE(critic), optimizer, total_frames=64, frames_per_batch=32)


def test_a_plain_optimizer_is_refused():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(TypeError, match=r"AgentOptimizer\(actor.parameters.* got Adam"):
        Trainer(**parts(optimizer=optimizer), total_frames=BATCH, frames_per_batch=BATCH)


def test_advantages_under_another_key_than_the_loss_reads_are_refused():
    own = parts()
    own["loss"].set_keys(advantage="adv")
    with pytest.raises(
        ValueError, match=r"advantage under 'adv', and GAE writes it under 'advantage': call its set_keys"
    ):
        Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH)
    own["advantage"].set_keys(advantage="adv")
    (metrics,) = Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH)
    assert metrics["frames"] == BATCH


def renamed(**transform) -> TransformedEnv:
    return TransformedEnv(ProbeEnv("both", num_envs=NUM_ENVS), RenameTransform(**transform))


@pytest.mark.parametrize("name", ["reward", "done", "terminated"])
def test_entries_of_the_environment_under_other_names_are_refused(name):
    env = renamed(in_keys=[name], out_keys=["other"])
    with pytest.raises(ValueError, match=rf"the trainer reads '{name}', and the .* 'other'.*RenameTransform"):
        Trainer(**parts(env=env), total_frames=BATCH, frames_per_batch=BATCH)


def test_a_normalizer_of_an_observation_that_is_not_there_is_refused():
    env = renamed(in_keys=["observation"], out_keys=["pose"])
    with pytest.raises(ValueError, match=r"the normalizer reads 'observation', and the environment writes 'pose'"):
        Trainer(**parts(env=env), normalizer=ObservationNormalizer(1), total_frames=BATCH, frames_per_batch=BATCH)


def test_a_critic_of_what_the_actor_computes_is_refused():
    critic = TensorDictModule(ValueMLP(4), in_keys=["features"], out_keys=["state_value"])
    with pytest.raises(ValueError, match=r"the critic reads 'features', which is in no next .* \('observation'\).*Seq"):
        Trainer(**parts(advantage=GAE(critic)), total_frames=BATCH, frames_per_batch=BATCH)


class TestAnActionOfAnyName:
    @pytest.fixture
    def env(self):
        return renamed(in_keys=[], out_keys=[], in_keys_inv=["action"], out_keys_inv=["torque"])

    def actor(self, network: type[VelocityMLP] = VelocityMLP) -> FlowActor:
        return FlowActor(network(1, 1, hidden_sizes=(8,)), num_mc_samples=2, action_key="torque")

    def test_it_is_trained_and_evaluated(self, env):
        trainer = trainer_on(env, actor=self.actor())
        assert all(metrics["action_std"] > 0 for metrics in trainer)
        assert evaluate(trainer.actor, env).action_spread > 0

    def test_it_is_refused_if_it_is_not_finite(self, env):
        class Sick(VelocityMLP):
            def forward(self, observation, x_t, time):
                return super().forward(observation, x_t, time) * torch.nan

        with pytest.raises(NonFiniteError, match=r"^torque of environment 0 at step 0 .* Nothing was learnt"):
            next(iter(trainer_on(env, actor=self.actor(Sick))))


def test_several_actions_are_refused(monkeypatch):
    own = parts()
    monkeypatch.setattr(ProbeEnv, "action_keys", ["arm", "leg"])
    with pytest.raises(ValueError, match=r"trains one action, and the environment takes \['arm', 'leg'\]"):
        Trainer(**own, total_frames=BATCH, frames_per_batch=BATCH)


def test_a_loss_without_a_critic_learns_from_any_advantage():
    """With the reward for an advantage, the policy of an environment that pays for large actions makes them larger."""

    def reward_to_advantage(batch):
        return batch.set("advantage", batch["next", "reward"])

    own = parts(env=ProbeEnv("action", num_envs=64), advantage=reward_to_advantage)
    own["loss"] = FPOLoss(own["actor"])
    own["optimizer"] = AgentOptimizer(own["actor"].parameters(), [], lr=0.01)
    rewards = [metrics["reward"] for metrics in Trainer(**own, total_frames=4096, frames_per_batch=256)]
    assert rewards[-1] > rewards[0]


def test_rewards_of_whole_numbers():
    class Whole(ProbeEnv):
        def advance(self, action):
            reward, terminated = super().advance(action)
            return reward.long(), terminated

    (metrics,) = trainer_on(Whole("constant", num_envs=NUM_ENVS), total_frames=BATCH)
    assert metrics["reward"] == 1


def test_bounds_that_come_with_loaded_weights_are_checked_too():
    trainer = trainer_on(ProbeEnv("both", num_envs=NUM_ENVS))
    wider = FlowActor(VelocityMLP(1, 1, hidden_sizes=(8,), output_scale=1.0), action_low=-20.0, action_high=20.0)
    trainer.actor.load_state_dict(wider.state_dict())
    with pytest.raises(ValueError, match=r"reach from \[-20.0\] to \[20.0\], and the environment takes"):
        next(iter(trainer))
