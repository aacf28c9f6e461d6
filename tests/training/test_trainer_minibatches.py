"""What the loss of a trainer is given: a ratio of 1 where nothing has been learnt yet, and who sees what and when."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import tiny
import torch
from small_trainer import BATCH, NUM_ENVS, STEPS, trainer_on
from tensordict import TensorDict
from torch import Tensor

from fpo_torchrl import Euler, FlowActor, ObservationNormalizer, VelocityMLP
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.trainer import Trainer


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

    def test_a_normaliser_as_released_takes_a_batch_into_account_once(self, probe, batch):
        """Of 0, 1, ..., 23 the variance is (24^2 - 1) / 12; that the mean began at 0 adds nothing to it."""
        normalizer = ObservationNormalizer(1, as_released=True)
        trainer = trainer_on(probe, normalizer=normalizer)
        trainer.learn(batch(trainer))
        assert normalizer.count == BATCH
        assert normalizer.std.item() ** 2 == pytest.approx((24**2 - 1) / 12, rel=1e-5)

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

    def test_windows_come_in_another_order_in_each_epoch(self, probe, batch):
        settings = {"advantage_every": "minibatch", "unroll_length": 3, "minibatch_size": 3}
        trainer = trainer_on(probe, num_epochs=3, **settings)
        trainer.learn(batch(trainer))
        starts = torch.stack([m["observation"][0, 0, 0] for m in trainer.loss.seen]).tolist()
        epochs, in_order = [starts[i : i + 8] for i in (0, 8, 16)], list(range(0, BATCH, 3))
        assert all(sorted(epoch) == in_order for epoch in epochs)
        assert len({*map(tuple, epochs), tuple(in_order)}) == 4

    def test_a_short_last_window_batch_loses_nothing(self, probe, batch):
        settings = {"advantage_every": "minibatch", "unroll_length": 3, "minibatch_size": 15}
        trainer = trainer_on(probe, num_epochs=1, **settings)
        trainer.learn(batch(trainer))
        assert [m.numel() for m in trainer.loss.seen] == [15, 9]


def test_marks_of_what_does_not_count_stay_with_the_transitions():
    """TorchRL's GAE(shifted=True) and its collectors write them, and the loss leaves out what they mark."""
    trainer = trainer_on(ProbeEnv("both", num_envs=NUM_ENVS), num_epochs=1)
    batch = next(iter(trainer.start()))
    valid = torch.rand(*batch.shape, 1) > 0.3
    batch["shifted_valid"], batch["collector", "mask"] = valid, valid.squeeze(-1)
    seen = torch.cat([*trainer.minibatches(batch)])
    assert seen["shifted_valid"].sum() == seen["collector", "mask"].sum() == valid.sum()
