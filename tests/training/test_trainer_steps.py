"""A trainer's steps: what they change, which sizes fit, and that numbers which are not finite stop it."""

from __future__ import annotations

import pytest
import torch
from small_trainer import BATCH, NUM_ENVS, STEPS, trainer_on, unchanged, weights
from tensordict import NonTensorData, TensorDict
from torch import nn
from torchrl.objectives import PPOLoss

from fpo_torchrl import (
    Euler,
    FlowActor,
    ObservationNormalizer,
    RandomSteps,
    RandomStepsPerRollout,
    VelocityMLP,
    ZeroNoise,
)
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.training.annealing import Annealing
from fpo_torchrl.training.collecting import check_finite


@pytest.fixture
def probe():
    return ProbeEnv("both", num_envs=NUM_ENVS)


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

    def test_a_number_of_steps_for_each_rollout(self):
        """Of dx/dt = t, n Euler steps lead from 0 to (1 - 1/n) / 2; one of a batch is told from the others by it."""

        class Clock(nn.Module):
            action_dim = 1

            def __init__(self):
                super().__init__()
                self.rate = nn.Parameter(torch.ones(1))

            def forward(self, observation, x_t, time):
                return self.rate * time + 0 * x_t

        actions = {}
        for kind in (RandomSteps, RandomStepsPerRollout):
            actor = FlowActor(Clock(), kind(9), num_mc_samples=2, start_noise=ZeroNoise())
            trainer = trainer_on(ProbeEnv("constant", num_envs=NUM_ENVS), actor=actor, lr=1e-12, total_frames=8 * BATCH)
            batches = iter(trainer.start())
            actions[kind] = [next(batches)["flow_action"].unique() for _ in range(8)]
        assert all(len(unique) == 1 for unique in actions[RandomStepsPerRollout])
        assert len(torch.cat(actions[RandomStepsPerRollout]).unique()) > 2
        assert any(len(unique) > 1 for unique in actions[RandomSteps])

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

    def test_step_sizes_that_do_not_fall_are_left_to_a_scheduler(self, probe):
        trainer = trainer_on(probe, lr=0.04, total_frames=3 * BATCH)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
        used = []
        trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
        for _ in trainer:
            scheduler.step()
        assert used == [0.04, 0.04, 0.02, 0.02, 0.01, 0.01]  # two epochs of one minibatch each

    def test_a_scaled_step_size_comes_back(self, probe):
        trainer = trainer_on(probe, lr=0.04, total_frames=3 * BATCH)
        used = []
        for scale in (1.0, 0.5, 1.0):
            trainer.lr_scale = scale
            next(iter(trainer))
            used.append(trainer.optimizer.param_groups[0]["lr"])
        assert used == [0.04, 0.02, 0.04]

    def test_the_pull_of_the_prior_falls_linearly_to_zero_and_stays_there(self, probe):
        trainer = trainer_on(probe, lr=1e-9, total_frames=4 * BATCH, prior_coeff=0.3, anneal_prior=0.75)
        pulls = [(trainer.loss.prior_coeff.item(), metrics["loss_prior"]) for metrics in trainer]
        assert [coeff for coeff, _ in pulls] == pytest.approx([0.3, 0.2, 0.1, 0.0])
        assert pulls[-1][1] == 0
        assert pulls[1][1] == pytest.approx(2 / 3 * pulls[0][1], rel=0.2)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"anneal_prior": 0.0, "prior_coeff": 0.1}, "anneal_prior must be above 0 and at most 1, got 0"),
            ({"anneal_prior": 1.5, "prior_coeff": 0.1}, "anneal_prior must be above 0 and at most 1, got 1.5"),
        ],
    )
    def test_a_pull_that_cannot_fall_is_refused(self, probe, settings, message):
        with pytest.raises(ValueError, match=message):
            trainer_on(probe, **settings)

    def test_a_pull_of_zero_stays_zero_and_a_loss_without_one_is_refused(self, probe):
        trainer = trainer_on(probe, anneal_prior=0.5)
        assert "loss_prior" not in next(iter(trainer))
        other = PPOLoss(trainer.actor, trainer.loss.critic_network, entropy_bonus=False)
        with pytest.raises(ValueError, match=r"anneal_prior=0\.5 needs a loss with a prior_coeff.*PPOLoss has none"):
            Annealing(trainer.optimizer, other, 100, lr=False, prior=0.5)

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
        ({"advantage_every": "often"}, "advantage_every must be one of batch, epoch, minibatch, got 'often'"),
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

    def test_an_observation_under_another_key(self):
        batch = TensorDict(
            {("agents", "pose"): torch.zeros(4, 3, 2), "text": NonTensorData("go", batch_size=[4, 3])},
            batch_size=[4, 3],
        )
        keys = [("agents", "pose"), "text"]
        check_finite(batch, keys)
        batch["agents", "pose"][2, 1, 0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"^agents.pose of environment 2 at step 1 "):
            check_finite(batch, keys)

    def test_an_entry_of_a_single_number(self):
        height = torch.zeros(4, 3)
        height[2, 1] = torch.inf
        with pytest.raises(NonFiniteError, match=r"^height of environment 2 at step 1 .*\(inf\)"):
            check_finite(TensorDict(height=height, batch_size=[4, 3]), ["height"])

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
        with pytest.raises(NonFiniteError, match="grad_norm_actor, weight_max became NaN or infinite"):
            next(iter(trainer))

    def test_weights_that_the_last_step_of_an_iteration_loses(self, probe):
        trainer = trainer_on(probe, num_epochs=1, lr=1e39)  # infinite in single precision
        with pytest.raises(NonFiniteError, match=r"^weight_max became NaN or infinite in the update after frame 0"):
            next(iter(trainer))
