"""How the flow actor comes from noise to an action within its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from observing import ConstantVelocity, deterministic, exploring, observations
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl import (
    Euler,
    EulerMaruyama,
    FixedNoise,
    FlowActor,
    RandomNoise,
    ZeroNoise,
)


class TestStartNoise:
    """With no velocity and no squashing the action is the start noise."""

    @pytest.fixture
    def still(self):
        return lambda **kwargs: FlowActor(ConstantVelocity(0.0, 0.0), squash="none", **kwargs)

    @pytest.mark.parametrize("kind", [kind for kind in ExplorationType if kind != ExplorationType.RANDOM])
    def test_without_exploration_the_flow_starts_at_zero(self, still, kind):
        with set_exploration_type(kind):
            assert not still()(observations(4))["action"].any()

    def test_exploring_it_starts_at_a_standard_normal(self, still):
        with exploring():
            action = still()(observations(20_000))["action"]
        torch.testing.assert_close(action.std(0), torch.ones(2), atol=0.03, rtol=0)

    def test_outside_of_any_exploration_context_it_explores(self, still):
        assert still()(observations(4))["action"].all()

    def test_a_chosen_noise_overrides_the_exploration_type(self, still):
        with deterministic():
            assert still(start_noise=RandomNoise())(observations(4))["action"].all()
        with exploring():
            assert not still(start_noise=ZeroNoise())(observations(4))["action"].any()

    def test_fixed_noise_gives_one_action_for_all_equal_observations_every_time(self, make_actor):
        actor = make_actor(start_noise=FixedNoise(seed=7))
        td = TensorDict(observation=torch.ones(4, 3), batch_size=4)
        with exploring():
            first, second = actor(td.clone())["action"], actor(td.clone())["action"]
        assert torch.equal(first, second)
        assert torch.equal(first, first[:1].expand(4, 2))

    def test_a_stochastic_solver_makes_no_noise_without_exploration(self, make_actor):
        actor, ode = make_actor(solver=EulerMaruyama(4, noise_scale=0.5)), make_actor(solver=Euler(4))
        ode.load_state_dict(actor.state_dict())
        td = observations(5)
        with deterministic():
            assert torch.equal(actor(td.clone())["action"], ode(td.clone())["action"])
        with exploring():
            assert not torch.equal(actor(td.clone())["action"], actor(td.clone())["action"])

    def test_action_noise_is_added_only_when_exploring(self, still):
        actor = still(start_noise=ZeroNoise(), action_noise_std=0.5)
        with deterministic():
            assert not actor(observations(100))["action"].any()
        with exploring():
            td = actor(observations(20_000))
        assert td["action"].std().item() == pytest.approx(0.5, rel=0.03)
        assert torch.equal(td["flow_action"], td["action"])  # the CFM target is the action that was taken
        torch.testing.assert_close(actor.cfm_loss(td), td["cfm_loss"])


def test_the_points_of_the_flow_lead_from_the_noise_to_the_action():
    actor = FlowActor(ConstantVelocity(1.0, -2.0), Euler(4), start_noise=ZeroNoise(), squash="tanh")
    points = torch.stack(actor.flow_points(observations(3)))
    expected = torch.linspace(0, 1, 5)[:, None, None] * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(points, expected.expand(5, 3, 2))
    torch.testing.assert_close(actor(observations(3))["flow_action"], points[-1])


class TestSquash:
    """A strong constant velocity pushes the flow far out on one side or the other."""

    LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 10.0])

    def actor(self, squash: str, velocity: float) -> FlowActor:
        return FlowActor(
            ConstantVelocity(velocity, velocity), squash=squash, action_low=self.LOW, action_high=self.HIGH
        )

    @pytest.mark.parametrize("squash", ["tanh", "clip"])
    def test_actions_fill_asymmetric_bounds_and_never_leave_them(self, squash):
        td = observations(500)
        far_up = self.actor(squash, 50.0)(td.clone())["action"]
        far_down = self.actor(squash, -50.0)(td.clone())["action"]
        between = self.actor(squash, 0.0)(td.clone())["action"]
        torch.testing.assert_close(far_up, self.HIGH.expand(500, 2))
        torch.testing.assert_close(far_down, self.LOW.expand(500, 2), atol=1e-6, rtol=0)
        assert ((between >= self.LOW) & (between <= self.HIGH)).all()
        torch.testing.assert_close(between.mean(0), torch.tensor([1.0, 5.0]), atol=0.5, rtol=0)

    @pytest.mark.parametrize("squash", ["tanh", "clip"])
    def test_zero_flow_gives_the_centre_of_the_bounds(self, squash):
        with deterministic():
            assert torch.equal(self.actor(squash, 0.0)(observations(1))["action"], torch.tensor([[1.0, 5.0]]))

    def test_none_leaves_the_flow_alone_whatever_the_bounds(self):
        td = FlowActor(ConstantVelocity(50.0), squash="none", action_low=-math.inf, action_high=math.inf)(
            observations(5)
        )
        assert (td["action"] > 40).all()
        assert torch.equal(td["action"], td["flow_action"])

    def test_tanh_reaches_the_bounds_at_the_rate_of_tanh(self):
        actor = FlowActor(ConstantVelocity(0.5), start_noise=ZeroNoise(), action_low=-2.0, action_high=2.0)
        assert actor(observations(1))["action"].item() == pytest.approx(2 * math.tanh(0.5))

    @pytest.mark.parametrize("squash", ["tanh", "clip", "none"])
    def test_unsquash_recovers_the_flow_action_inside_the_bounds(self, squash):
        actor = self.actor(squash, 0.0)
        td = actor(observations(500))
        inside = (td["flow_action"].abs() < (1 if squash == "clip" else 3)).all(-1)
        recovered = actor.unsquash(td["action"])
        assert inside.sum() > 200
        torch.testing.assert_close(recovered[inside], td["flow_action"][inside], atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize(("squash", "action"), [("tanh", math.tanh(0.6)), ("clip", 0.6)])
    def test_a_gain_widens_what_is_squashed(self, squash, action):
        settings = {"squash": squash, "squash_gain": 1.5, "start_noise": ZeroNoise()}
        actor = FlowActor(ConstantVelocity(0.4), Euler(4), **settings)
        td = actor(observations(1))
        assert td["flow_action"].item() == pytest.approx(0.4)
        assert td["action"].item() == pytest.approx(action)
        assert actor.unsquash(td["action"]).item() == pytest.approx(0.4)
        assert actor.act([torch.zeros(1, 3)], torch.zeros(1, 1)).item() == pytest.approx(action)
        assert "squash_gain=1.5" in repr(actor)

    def test_unsquash_of_an_action_on_the_bound_is_that_of_0_999_of_it(self):
        """artanh 0.999 = ln(1.999 / 0.001) / 2."""
        flow_action = self.actor("tanh", 0.0).unsquash(torch.stack([self.LOW, self.HIGH]))
        expected = torch.tensor([[-3.80020, -3.80020], [3.80020, 3.80020]])
        torch.testing.assert_close(flow_action, expected, atol=1e-3, rtol=0)

    @pytest.mark.parametrize(("low", "high"), [(-math.inf, math.inf), (1.0, 1.0), (0.0, torch.tensor([1.0, -1.0]))])
    def test_bounds_that_cannot_be_squashed_into_are_refused(self, low, high):
        with pytest.raises(ValueError, match=r"squash='tanh' needs finite bounds with low < high"):
            FlowActor(ConstantVelocity(0.0, 0.0), action_low=low, action_high=high)


@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_saturated_actions_do_not_pass_their_bounds_by_rounding(squash):
    """Centre and half range are rounded: 0.2 would come out as 0.2000000477, which no Box of Gymnasium contains."""
    generator = torch.Generator().manual_seed(0)
    low = -torch.rand(200, generator=generator)
    high = torch.rand(200, generator=generator)
    actor = FlowActor(ConstantVelocity(*[50.0] * 200), squash=squash, action_low=low, action_high=high)
    action = actor(observations(3))["action"]
    assert (action <= high).all()
    torch.testing.assert_close(action, high.expand(3, 200))
    actor.velocity_net.velocity.data.neg_()
    action = actor(observations(3))["action"]
    assert (action >= low).all()
    torch.testing.assert_close(action, low.expand(3, 200))
