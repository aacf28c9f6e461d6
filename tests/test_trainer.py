"""The loop's promises: a ratio of 1 where nothing has been learnt yet, who sees what and when, and when it stops."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import tiny
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.objectives import PPOLoss

from fpo_torchrl import Euler, FlowActor, FPOLoss, ObservationNormalizer, ValueMLP, VelocityMLP, ZeroNoise
from fpo_torchrl.advantage import GAE
from fpo_torchrl.collecting import check_finite
from fpo_torchrl.envs.base import NonFiniteError
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.optim import AgentOptimizer
from fpo_torchrl.trainer import Trainer

NUM_ENVS, STEPS = 4, 6
BATCH = NUM_ENVS * STEPS


class Watched(FPOLoss):
    """FPO's loss that remembers the minibatches it was given."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[TensorDict] = []

    def forward(self, tensordict):
        self.seen.append(tensordict.clone())
        return super().forward(tensordict)


def trainer_on(env, *, actor: FlowActor | None = None, lr: float = 1e-3, **kwargs) -> Trainer:
    """A trainer with small networks, put together by hand."""
    obs_dim = env.observation_spec["observation"].shape[-1]
    action_dim = env.action_spec.shape[-1]
    if actor is None:
        net = VelocityMLP(obs_dim, action_dim, hidden_sizes=(8,), output_scale=1.0)
        actor = FlowActor(net, Euler(2), num_mc_samples=2)
    critic = TensorDictModule(ValueMLP(obs_dim, hidden_sizes=(8,)), in_keys=["observation"], out_keys=["state_value"])
    settings = {"total_frames": 2 * BATCH, "frames_per_batch": BATCH, "num_epochs": 2, "minibatch_size": BATCH}
    optimizer = AgentOptimizer(actor.parameters(), critic.parameters(), lr=lr)
    return Trainer(env, actor, Watched(actor, critic), GAE(critic), optimizer, **{**settings, **kwargs})


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for group in trainer.optimizer.param_groups for p in group["params"]]


def unchanged(trainer: Trainer, before: list[Tensor]) -> bool:
    return all(new.equal(old) for new, old in zip(weights(trainer), before, strict=True))


@pytest.fixture
def probe():
    return ProbeEnv("both", num_envs=NUM_ENVS)


class TestRatioIsOneBeforeTheFirstStep:
    """The whole pipeline agrees with itself: env, collector, normaliser, actor, loss."""

    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param(tiny.CARTPOLE, id="control"),
            pytest.param((*tiny.GRIDWORLD, "normalizer=running"), id="gridworld"),
            pytest.param((*tiny.CARTPOLE, "loss=ppo"), id="TorchRL's own PPO loss"),
            pytest.param((*tiny.CARTPOLE, "loss.ratio=per_sample", "actor.action_noise_std=0.1"), id="per sample"),
        ],
    )
    def test_at_every_iteration(self, overrides):
        trainer = tiny.make_trainer(*overrides, "optim.lr=0.01")
        means = []
        for metrics in trainer:
            assert metrics["first_ratio_error"] < 1e-5
            assert metrics["first_clip_fraction"] == 0.0
            means.append(trainer.normalizer.mean.clone() if trainer.normalizer is not None else None)
        assert len(means) == 4
        assert metrics["ratio_max"] > 1.001  # it did learn
        if trainer.normalizer is not None:
            assert all(not a.equal(b) for a, b in pairwise(means))

    def test_a_normaliser_that_moves_during_the_update_breaks_it(self):
        errors = [m["first_ratio_error"] for m in tiny.make_trainer(*tiny.CARTPOLE, "normalizer=as_released")]
        assert min(errors) > 1e-5


class TestWhatTheLossSees:
    @pytest.fixture
    def batch(self):
        """A batch ``[num_envs, time]`` whose observations are all different."""

        def collect(trainer: Trainer) -> TensorDict:
            observation = torch.arange(BATCH, dtype=torch.float32).reshape(NUM_ENVS, STEPS, 1)
            batch = TensorDict(observation=observation, batch_size=(NUM_ENVS, STEPS))
            with torch.no_grad():
                trainer.actor(batch)
            flag = torch.zeros(NUM_ENVS, STEPS, 1, dtype=torch.bool)
            batch["next"] = TensorDict(
                observation=observation + 1, reward=torch.randn(NUM_ENVS, STEPS, 1), done=flag, terminated=flag
            )
            return batch

        return collect

    def test_every_transition_once_per_epoch_in_another_order(self, probe, batch):
        trainer = trainer_on(probe, num_epochs=3, minibatch_size=10)
        trainer.learn(batch(trainer))
        sizes = [len(minibatch) for minibatch in trainer.loss.seen]
        assert sizes == [10, 10, 4] * 3
        epochs = torch.cat([m["observation"].flatten() for m in trainer.loss.seen]).split(BATCH)
        assert all(sorted(epoch.tolist()) == list(range(BATCH)) for epoch in epochs)
        assert not epochs[0].equal(epochs[1])

    def test_one_gradient_step_for_each_minibatch(self, probe, batch):
        trainer = trainer_on(probe, num_epochs=3, minibatch_size=10)
        trainer.learn(batch(trainer))
        assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {9}

    def test_keys_stay_with_their_transition(self, probe, batch):
        trainer = trainer_on(probe, minibatch_size=5)
        collected = batch(trainer)
        trainer.learn(collected)
        flat = collected.reshape(-1)
        for minibatch in trainer.loss.seen:
            original = flat[minibatch["observation"].flatten().long()]
            for key in ("flow_action", "flow_noise", "flow_time", "cfm_loss", "advantage", "value_target"):
                assert minibatch[key].equal(original[key]), key

    def test_the_advantage_of_a_batch_is_computed_once(self, probe, batch):
        assert self.targets_by_epoch(trainer_on(probe, lr=0.1, num_epochs=3), batch) == [True, True]

    def test_the_advantage_of_an_epoch_follows_the_critic(self, probe, batch):
        trainer = trainer_on(probe, lr=0.1, num_epochs=3, advantage_every="epoch")
        assert self.targets_by_epoch(trainer, batch) == [False, False]

    @staticmethod
    def targets_by_epoch(trainer: Trainer, batch) -> list[bool]:
        """Whether each epoch's value targets are those of the first."""
        trainer.learn(batch(trainer))
        first, *rest = [m["value_target"][m["observation"].flatten().argsort()] for m in trainer.loss.seen]
        return [targets.equal(first) for targets in rest]

    def test_pairs_last_for_the_whole_batch(self, probe, batch):
        first, *rest = self.noise_by_epoch(trainer_on(probe, lr=0.1, num_epochs=3), batch)
        assert all(noise.equal(first) for noise in rest)

    def test_redrawn_pairs_are_others_in_each_epoch(self, probe, batch):
        epochs = self.noise_by_epoch(trainer_on(probe, lr=0.1, num_epochs=3, redraw_pairs=True), batch)
        assert not torch.isin(epochs[1], epochs[0]).any()
        assert not torch.isin(epochs[2], torch.stack(epochs[:2])).any()

    def test_redrawn_pairs_hold_the_losses_of_the_policy_that_collected(self, probe, batch):
        trainer = trainer_on(probe, lr=0.1, num_epochs=3, redraw_pairs=True)
        collected = batch(trainer)
        behaviour = copy.deepcopy(trainer.actor)
        trainer.learn(collected)
        for minibatch in trainer.loss.seen:
            torch.testing.assert_close(minibatch["cfm_loss"], behaviour.cfm_loss(minibatch).detach())
            assert not minibatch["cfm_loss"].allclose(trainer.actor.cfm_loss(minibatch))

    def test_redrawing_takes_no_more_transitions_at_a_time_than_the_update(self, probe, batch, monkeypatch):
        trainer = trainer_on(probe, num_epochs=2, minibatch_size=14, redraw_pairs=True)  # 4 environments, 6 steps
        collected, pair_loss, sizes = batch(trainer), FlowActor.pair_loss, []

        def measured(actor: FlowActor, observations, flow_action, *args, **kwargs):
            if not torch.is_grad_enabled():
                sizes.append(flow_action[..., 0].numel())
            return pair_loss(actor, observations, flow_action, *args, **kwargs)

        monkeypatch.setattr(FlowActor, "pair_loss", measured)
        trainer.learn(collected)
        assert sizes == [12, 12]

    def test_also_where_the_normaliser_moves_before_the_update(self, probe, batch):
        normalizer = ObservationNormalizer(1, as_released=True)
        actor = FlowActor(VelocityMLP(1, 1, hidden_sizes=(8,), output_scale=1.0), Euler(2), 2, normalizer=normalizer)
        trainer = trainer_on(probe, actor=actor, normalizer=normalizer, redraw_pairs=True)
        collected = batch(trainer)
        behaviour = copy.deepcopy(actor)
        trainer.learn(collected)
        for minibatch in trainer.loss.seen:
            torch.testing.assert_close(minibatch["cfm_loss"], behaviour.cfm_loss(minibatch).detach())

    @staticmethod
    def noise_by_epoch(trainer: Trainer, batch) -> list[Tensor]:
        """The noise of every transition's pairs in each epoch, in the order of the transitions."""
        trainer.learn(batch(trainer))
        return [m["flow_noise"][m["observation"].flatten().argsort()] for m in trainer.loss.seen]

    def test_windows_of_consecutive_steps_with_an_advantage_of_their_own(self, probe, batch):
        settings = {"advantage_every": "minibatch", "unroll_length": 3, "minibatch_size": 6}
        trainer = trainer_on(probe, lr=0.1, num_epochs=1, **settings)
        trainer.learn(batch(trainer))
        minibatches = trainer.loss.seen
        assert [tuple(m.shape) for m in minibatches] == [(2, 3)] * 4
        starts = torch.cat([m["observation"][:, 0, 0] for m in minibatches])
        assert sorted(starts.tolist()) == list(range(0, BATCH, 3))
        for m in minibatches:
            assert (m["observation"].diff(dim=1) == 1).all()
        values = torch.cat([m["state_value"].flatten() for m in minibatches])
        with torch.no_grad():
            final = trainer.advantage.critic(TensorDict(observation=minibatches[0]["observation"]))["state_value"]
        assert not torch.isin(final, values).any()  # the critic moved after each minibatch

    def test_a_short_last_window_batch_loses_nothing(self, probe, batch):
        settings = {"advantage_every": "minibatch", "unroll_length": 3, "minibatch_size": 15}
        trainer = trainer_on(probe, num_epochs=1, **settings)
        trainer.learn(batch(trainer))
        assert [m.numel() for m in trainer.loss.seen] == [15, 9]


class TestTraining:
    def test_the_collector_acts_with_the_weights_that_are_trained(self):
        net = VelocityMLP(1, 1, hidden_sizes=(8,), output_scale=1.0)
        actor = FlowActor(net, Euler(2), num_mc_samples=2, start_noise=ZeroNoise())
        trainer = trainer_on(ProbeEnv("constant", num_envs=NUM_ENVS), actor=actor)
        iterations = iter(trainer)
        next(iterations)
        with torch.no_grad():
            net.layers[-1].weight.zero_()
            net.layers[-1].bias.fill_(1.5)  # a constant velocity, from 0 to 1.5
        next(iterations)
        assert trainer.loss.seen[-1]["flow_action"].unique().tolist() == [1.5]

    def test_frames_are_rounded_up_to_whole_batches(self, probe):
        trainer = trainer_on(probe, total_frames=2 * BATCH + 1)
        assert [metrics["frames"] for metrics in trainer] == [BATCH, 2 * BATCH, 3 * BATCH]

    def test_step_sizes_fall_linearly_to_zero(self, probe):
        trainer = trainer_on(probe, lr=0.04, total_frames=4 * BATCH, anneal_lr=True)
        rates = [[group["lr"] for group in trainer.optimizer.param_groups] for _ in trainer]
        torch.testing.assert_close(torch.tensor(rates), torch.tensor([0.04, 0.03, 0.02, 0.01]).expand(2, -1).T)
        before = weights(trainer)
        trainer.learn(next(iter(trainer.start())))  # at total_frames the step size is 0
        assert unchanged(trainer, before)

    def test_metrics_are_means_over_the_gradient_steps_and_extremes_of_the_ratio(self, probe):
        trainer = trainer_on(probe, lr=0.05, num_epochs=4)
        metrics = next(iter(trainer))
        with torch.no_grad():
            ratios = [(m["cfm_loss"] - trainer.actor.cfm_loss(m)).mean(-1).exp() for m in trainer.loss.seen[:1]]
        assert metrics["ratio_min"] < 1 < metrics["ratio_max"]
        assert metrics["ratio_min"] <= metrics["ratio"] <= metrics["ratio_max"]
        assert ratios[0].numel() == BATCH
        seen = torch.stack([m["cfm_loss"].mean() for m in trainer.loss.seen]).mean()
        assert metrics["cfm_loss_old"] == pytest.approx(seen.item(), rel=1e-5)

    def test_a_loss_without_ratio_statistics_trains_too(self, probe):
        trainer = trainer_on(probe)
        trainer.loss = PPOLoss(trainer.actor, trainer.loss.critic_network, entropy_bonus=False)
        before = weights(trainer)
        metrics = next(iter(trainer))
        assert not {"ratio", "ratio_max", "first_ratio_error"} & metrics.keys()
        assert not unchanged(trainer, before)

    def test_a_state_is_not_loaded_into_a_running_trainer(self, probe):
        trainer = trainer_on(probe)
        next(iter(trainer))
        with pytest.raises(RuntimeError, match="before training starts"):
            trainer.load_state_dict(trainer.state_dict())

    def test_returns_are_those_of_the_environment(self):
        # "delayed" pays 0 and then 1: every episode returns 1, and half of the steps pay
        metrics = list(trainer_on(ProbeEnv("delayed", num_envs=NUM_ENVS)))[-1]
        assert metrics["return"] == 1.0
        assert metrics["reward"] == 0.5
        assert metrics["episodes"] == 2 * BATCH / 2

    def test_the_normaliser_learns_after_the_update(self, probe):
        normalizer = ObservationNormalizer(1)
        trainer = trainer_on(probe, normalizer=normalizer)
        batch = next(iter(trainer.start()))
        trainer.learn(batch)
        assert normalizer.count == BATCH
        torch.testing.assert_close(normalizer.mean, batch["observation"].mean((0, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames_per_batch": BATCH + 1}, "frames_per_batch must be a multiple of num_envs=4, got 25; for example 24"),
        ({"frames_per_batch": 3}, "frames_per_batch must be a multiple of num_envs=4, got 3; for example 4"),
        ({"unroll_length": 4}, "unroll_length must divide the 6 steps per batch, got 4"),
        (
            {"advantage_every": "minibatch", "unroll_length": 3, "minibatch_size": 7},
            "minibatch_size must be a multiple of unroll_length=3",
        ),
        ({"advantage_every": "often"}, 'advantage_every must be "batch", "epoch" or "minibatch", got \'often\''),
        *[
            ({name: 0}, f"{name} must be at least 1, got 0")
            for name in ("total_frames", "frames_per_batch", "num_epochs", "minibatch_size", "unroll_length")
        ],
    ],
)
def test_sizes_that_do_not_fit_are_refused(probe, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_on(probe, **settings)


class Broken(ProbeEnv):
    """A probe whose copy 2 goes wrong at one step, counted from the start."""

    def __init__(self, entry: str, value: float, *, at_step: int) -> None:
        self.entry, self.value, self.at_step, self.steps = entry, value, at_step, 0
        super().__init__("delayed", num_envs=NUM_ENVS)

    def advance(self, action):
        self.steps += 1
        reward, terminated = super().advance(action)
        if self.steps == self.at_step:
            wrong = {"reward": reward, "observation": self.current}[self.entry]
            wrong[2] = self.value
        return reward, terminated


class TestNumbersThatAreNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize(
        # the batch counts from 0; the observation ends an episode, so only "next" has it
        ("entry", "name"),
        [("reward", "reward"), ("observation", "next observation")],
    )
    def test_from_the_environment_stop_training_before_anything_is_learnt(self, entry, name, value):
        trainer = trainer_on(Broken(entry, value, at_step=STEPS + 4), total_frames=4 * BATCH)
        iterations = iter(trainer)
        next(iterations)
        before, steps = weights(trainer), len(trainer.loss.seen)
        with pytest.raises(
            NonFiniteError, match=f"^{name} of environment 2 at step 3 of the batch after frame {BATCH} "
        ):
            next(iterations)
        assert unchanged(trainer, before)
        assert len(trainer.loss.seen) == steps
        assert trainer.frames == BATCH

    def test_an_observation_that_is_acted_on(self):
        trainer = trainer_on(Broken("observation", float("nan"), at_step=3))
        # after step 3 the copy is in the middle of an episode: the policy sees the observation at step 3 of the batch
        with pytest.raises(NonFiniteError, match=r"^observation of environment 2 at step 3 .*nan.* last checkpoint"):
            next(iter(trainer))

    def test_an_action_of_the_policy(self):
        class Sick(VelocityMLP):
            def forward(self, observation, x_t, time):
                velocity = super().forward(observation, x_t, time)
                return velocity.where(observation < 0.5, torch.nan)  # the second step of an episode

        trainer = trainer_on(
            ProbeEnv("delayed", num_envs=NUM_ENVS), actor=FlowActor(Sick(1, 1, hidden_sizes=(8,)), num_mc_samples=2)
        )
        before = weights(trainer)
        with pytest.raises(NonFiniteError, match=r"^action of environment 0 at step 1 of the batch after frame 0 "):
            next(iter(trainer))
        assert unchanged(trainer, before)

    def test_finite_batches_pass(self, probe):
        check_finite(next(iter(trainer_on(probe).start())))

    def test_a_loss(self, probe):
        trainer = trainer_on(probe, lr=1e30)
        with pytest.raises(
            NonFiniteError, match=r"loss_objective.* became NaN or infinite in the update after frame 0"
        ):
            next(iter(trainer))
        assert trainer.frames == 0

    def test_a_gradient_of_a_finite_loss(self, probe):
        class Sqrt(nn.Module):
            """Finite at zero, where its slope is not."""

            action_dim = 1

            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, observation, x_t, time):
                return self.weight.sqrt() + 0 * x_t + 0 * observation

        trainer = trainer_on(probe, actor=FlowActor(Sqrt(), num_mc_samples=2), num_epochs=1)
        with pytest.raises(NonFiniteError, match="grad_norm_actor became NaN or infinite"):
            next(iter(trainer))
