"""The flow actor's CFM losses, by hand and as stored."""

from __future__ import annotations

import math

import pytest
import torch
from observing import ConstantVelocity, observations
from tensordict import TensorDict
from torch import nn

from fpo_torchrl import (
    ActionTarget,
    FlowActor,
    GridTime,
    NoiseTarget,
    ObservationNormalizer,
    VelocityTarget,
)


class TestCfmLoss:
    """Velocity (2, 0), action (1, 2), noise (0, 1), time 0.8: the velocity error is (2, 0) - (1, 1) = (1, -1)."""

    def loss(self, **kwargs) -> float:
        actor = FlowActor(ConstantVelocity(2.0, 0.0), **kwargs)
        noise, time = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.8]])
        td = TensorDict(observation=torch.randn(3))
        loss = actor.pair_loss([td["observation"]], torch.tensor([1.0, 2.0]), noise, time)
        assert loss.shape == (1,)
        return loss.item()

    @pytest.mark.parametrize(
        ("target", "expected"), [(VelocityTarget(), 1.0), (NoiseTarget(), 0.64), (ActionTarget(), 0.04), (None, 0.64)]
    )
    def test_by_hand_for_each_target(self, target, expected):
        assert self.loss(target=target) == pytest.approx(expected)

    @pytest.mark.parametrize(("action_reduction", "expected"), [("mean", 1.0), ("sum", 2.0), ("sqrt", math.sqrt(2))])
    def test_by_hand_for_each_reduction(self, action_reduction, expected):
        assert self.loss(target=VelocityTarget(), action_reduction=action_reduction) == pytest.approx(expected)

    @pytest.mark.parametrize("num_mc_samples", [1, 4])
    def test_an_observation_with_a_dimension_too_many_is_no_outer_product(self, make_actor, num_mc_samples):
        actor = make_actor(num_mc_samples=num_mc_samples)
        td = actor(observations(4))
        td["observation"] = td["observation"].unsqueeze(1)
        with pytest.raises(ValueError, match=r"a velocity for each of the points \(4, \d, 2\).*observation has shape"):
            actor.redraw_pairs(td)

    @pytest.mark.parametrize("num_mc_samples", [1, 4])
    def test_a_network_that_forgets_the_pairs(self, num_mc_samples):
        class Forgetful(nn.Module):
            action_dim = 2

            def forward(self, observation, x_t, time):
                return x_t.mean(1) if x_t.ndim > 2 else x_t

        actor = FlowActor(Forgetful(), num_mc_samples=num_mc_samples)
        with pytest.raises(ValueError, match=r"a velocity for each of the points .* got \(4, 2\)"):
            actor(observations(4))

    def test_a_weight_that_would_broadcast(self):
        class Flat(VelocityTarget):
            def weight(self, time):
                return time.squeeze(-1)

        actor = FlowActor(ConstantVelocity(2.0, 0.0), target=Flat(), num_mc_samples=2)
        with pytest.raises(ValueError, match=r"the weights of the target should have shape \(2, 2, 1\).*got \(2, 2\)"):
            actor(observations(2))

    def test_what_is_stored_is_the_loss_at_the_stored_pairs(self):
        """For a constant velocity c the noise target's error is time * (c - action + noise)."""
        td = FlowActor(ConstantVelocity(0.5, -0.5), num_mc_samples=8)(observations(20))
        error = td["flow_time"] * (torch.tensor([0.5, -0.5]) - td["flow_action"].unsqueeze(1) + td["flow_noise"])
        torch.testing.assert_close(td["cfm_loss"], error.square().mean(-1))

    def test_a_zero_network_scores_a_zero_action_by_the_noise_alone(self):
        noise, time = torch.randn(50_000, 2), torch.rand(50_000, 1)
        td, action = TensorDict(observation=torch.zeros(3)), torch.zeros(2)
        observations = [td["observation"]]

        def loss(target):
            return FlowActor(ConstantVelocity(0.0, 0.0), target=target).pair_loss(observations, action, noise, time)

        assert loss(VelocityTarget()).mean().item() == pytest.approx(1, rel=0.02)
        assert loss(NoiseTarget()).mean().item() == pytest.approx(1 / 3, rel=0.02)
        torch.testing.assert_close(loss(NoiseTarget()), time.squeeze(-1) ** 2 * loss(VelocityTarget()))

    def test_the_noise_target_has_no_loss_and_no_gradient_at_time_zero(self, make_actor):
        actor = make_actor(target=NoiseTarget(), time_sampler=GridTime(num_steps=1))  # whose only value is 0
        td = actor(observations(5))
        assert not td["flow_time"].any()
        assert not td["cfm_loss"].any()
        actor.cfm_loss(td.detach()).sum().backward()
        assert not any(p.grad.any() for p in actor.parameters() if p.grad is not None)

    @pytest.mark.parametrize("batch", [(), (5,), (5, 4)])
    def test_the_stored_action_scores_the_same_again(self, make_actor, collect, batch):
        actor = make_actor(normalizer=ObservationNormalizer(3), action_noise_std=0.1)
        actor.normalizer.update(3 * torch.randn(100, 3))
        td = actor(observations(*batch))
        assert torch.equal(actor.cfm_loss(td), td["cfm_loss"])
        assert torch.equal(actor.get_dist(td).log_prob(td["action"]), td["action_log_prob"])

    def test_pairs_are_not_redrawn_for_an_action_that_is_not_there(self, make_actor):
        with pytest.raises(KeyError, match=r"reads \['flow_action'\], which the tensordict lacks"):
            make_actor().redraw_pairs(observations(4))
        with pytest.raises(KeyError, match=r"reads \['flow_action'\], which the tensordict lacks"):
            make_actor().prior_loss(observations(4))

    @pytest.mark.parametrize("missing", ["flow_action", "flow_noise", "flow_time"])
    def test_a_batch_without_a_flow_key_is_refused_by_its_name(self, make_actor, missing):
        actor = make_actor()
        td = actor(observations(4)).exclude(missing)
        with pytest.raises(KeyError, match=rf"reads \['{missing}'\], which .*num_mc_samples of at least 1"):
            actor.get_dist(td)
