"""The terms beside FPO's objective: pulls toward the policy's own actions and toward the prior."""

from __future__ import annotations

import pytest
import torch
from by_hand import by_hand, gradients
from tensordict import TensorDict
from torch import nn

from fpo_torchrl import (
    FlowActor,
    FPOLoss,
    Heun,
    UniformTime,
    VelocityMLP,
    VelocityTarget,
)
from fpo_torchrl.flow import LinearPath
from fpo_torchrl.functional import cfm_error


class TestPullOfTheCFMLoss:
    def test_it_is_the_mean_cfm_loss_and_leaves_the_objective_alone(self):
        """Losses of 2 for every pair, whatever they were at collection, weighted by 0.3."""
        loss, batch = by_hand([[0.2, 0.0], [-0.2, 0.0]], [1.0, -2.0], new=2.0, cfm_coeff=0.3)
        plain, _ = by_hand([[0.2, 0.0], [-0.2, 0.0]], [1.0, -2.0], new=2.0)
        out = loss(batch)
        assert out["loss_cfm"].item() == pytest.approx(0.6)
        assert out["loss_objective"] == plain(batch)["loss_objective"]
        assert "loss_cfm" not in plain(batch)

    def test_at_theta_old_it_acts_as_advantages_that_are_larger_by_the_coefficient(self, make_actor, collect):
        actor = make_actor()
        batch = collect(actor)
        out = FPOLoss(actor, cfm_coeff=0.3, normalize_advantage=False)(batch)
        shifted = FPOLoss(actor, normalize_advantage=False)(batch.clone().set("advantage", batch["advantage"] + 0.3))
        torch.testing.assert_close(
            gradients(out["loss_objective"] + out["loss_cfm"], actor), gradients(shifted["loss_objective"], actor)
        )

    def test_a_flow_that_is_not_its_own_mean_is_pushed_by_a_constant_advantage_and_one_that_is_is_not(self):
        """Without velocity, actions are N(0, 1) like the noise. The mean velocity of the paths between the two is
        (2 t - 1) x / (t^2 + (1 - t)^2), which leads to the same actions: only there the mean gradient is zero."""

        class Scaled(nn.Module):
            action_dim = 1

            def __init__(self, scale: float) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(scale))

            def forward(self, observation, x_t, time):
                return self.scale * (2 * time - 1) * x_t / (time**2 + (1 - time) ** 2)

        def push(scale: float) -> float:
            actor = FlowActor(Scaled(scale), squash="none", target=VelocityTarget(), time_sampler=UniformTime())
            td = TensorDict(observation=torch.zeros(20_000, 1), batch_size=20_000)
            with torch.no_grad():
                actor(td).set("flow_action", torch.randn(20_000, 1)).set("cfm_loss", actor.cfm_loss(td))
            td["advantage"] = torch.ones(20_000, 1)
            (gradient,) = gradients(FPOLoss(actor, normalize_advantage=False)(td)["loss_objective"], actor)
            return gradient.item()

        assert abs(push(1.0)) < 0.03
        assert push(0.0) < -0.3  # more of the mean velocity raises the objective
        assert push(2.0) > 0.3

    @pytest.mark.parametrize("name", ["cfm", "prior"])
    def test_a_schedule_may_assign_a_coefficient(self, make_actor, collect, name):
        actor = make_actor()
        loss, batch = FPOLoss(actor, **{f"{name}_coeff": 0.4}), collect(actor)
        torch.manual_seed(0)  # of the prior's draws
        before = loss(batch)[f"loss_{name}"]
        setattr(loss, f"{name}_coeff", 0.1)
        torch.manual_seed(0)
        torch.testing.assert_close(loss(batch)[f"loss_{name}"], before / 4)

    def test_what_a_schedule_made_of_a_coefficient_is_saved_with_the_loss(self, make_actor):
        loss, restored = FPOLoss(make_actor(), prior_coeff=0.4), FPOLoss(make_actor(), prior_coeff=0.4)
        loss.prior_coeff = 0.1
        restored.load_state_dict(loss.state_dict())
        assert restored.prior_coeff.item() == pytest.approx(0.1)

    @pytest.mark.parametrize("name", ["cfm_coeff", "prior_coeff"])
    def test_a_negative_coefficient_is_refused(self, make_actor, name):
        with pytest.raises(ValueError, match=rf"{name} must not be negative, got -0\.1"):
            FPOLoss(make_actor(), **{name: -0.1})


class TestAlongTheFlow:
    """What pairs tell of the mean of Gaussian actions, by their time on the flow (docs/robust_fpo.md)."""

    @pytest.mark.parametrize(("std", "time"), [(1.0, 0.0), (1.0, 0.5), (0.5, 0.5), (0.2, 0.8)])
    def test_most_at_its_start_and_nothing_at_its_end(self, std, time):
        """The gradient of each pair's loss by the mean, in the flow to N(mean, std^2), and each action's advantage."""
        torch.manual_seed(0)
        advantage, noise = torch.randn(2, 200_000, 1, dtype=torch.float64)
        action, path, mean = std * advantage, LinearPath(), torch.zeros_like(noise, requires_grad=True)
        at = torch.full_like(noise, time)
        x_t = path.interpolate(noise, action, at)
        known = time * std**2 / (time**2 * std**2 + (1 - time) ** 2)  # of the action, from x_t
        velocity = (mean + known * (x_t - time * mean) - x_t) / (1 - time)
        (gradient,) = torch.autograd.grad(-cfm_error(velocity, path.velocity(noise, action), 1.0).sum(), mean)
        correlation = (advantage * gradient).mean() / gradient.square().mean().sqrt()
        best_weight = (advantage * gradient).mean() / gradient.square().mean()
        spread = (1 - time) ** 2 + std**2 * time**2
        assert correlation.item() == pytest.approx((1 - time) / spread**0.5, abs=0.01)
        assert best_weight.item() == pytest.approx(spread / (2 * std), rel=0.02)


class TestPullOfThePrior:
    def test_it_is_the_error_of_the_velocity_for_standard_normal_actions(self):
        """Without velocity the error is (action - noise)^2 of two standard normals, 2 in the mean; weighted by 0.3."""
        loss, batch = by_hand([[0.0, 0.0]] * 20_000, [1.0] * 20_000, prior_coeff=0.3)
        plain, _ = by_hand([[0.0, 0.0]] * 20_000, [1.0] * 20_000)
        out = loss(batch)
        assert out["loss_prior"].item() == pytest.approx(0.6, rel=0.05)
        assert out["loss_objective"] == plain(batch)["loss_objective"]
        assert "loss_prior" not in plain(batch)

    def test_alone_it_makes_a_narrow_policy_standard_normal(self):
        """The network starts at the flow to actions of almost no spread, v = -x / (1 - t)."""

        class Narrow(nn.Module):
            action_dim = 1

            def __init__(self) -> None:
                super().__init__()
                self.net = VelocityMLP(1, 1, hidden_sizes=(32, 32), output_scale=1.0)
                self.start = nn.Parameter(torch.ones(1))

            def forward(self, observation, x_t, time):
                return self.net(observation, x_t, time) - self.start * x_t / (1 - 0.9 * time)

        actor = FlowActor(Narrow(), Heun(10), squash="none")
        loss = FPOLoss(actor, prior_coeff=1.0, normalize_advantage=False, functional=False)
        optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
        with torch.no_grad():
            batch = actor(TensorDict(observation=torch.zeros(1000, 1), batch_size=1000))
        batch["advantage"] = torch.zeros(1000, 1)
        assert batch["flow_action"].std() < 0.3
        for _ in range(200):
            optimizer.zero_grad()
            loss(batch)["loss_prior"].backward()
            optimizer.step()
        action = actor(batch)["flow_action"]
        assert action.mean().abs() < 0.15
        assert action.std().item() == pytest.approx(1, abs=0.15)
