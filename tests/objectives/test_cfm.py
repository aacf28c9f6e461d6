"""Supervised flow matching learns distributions, and its value at the optimum is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from fpo_torchrl import CFMLoss, Euler, FlowActor, NoiseTarget, UniformTime, VelocityMLP
from fpo_torchrl.flow import PairSampler


def test_it_learns_both_modes_of_a_mixture():
    """Actions are -0.7 or 0.7 at random: a mean, or a Gaussian around it, would be wrong."""
    modes, spread = torch.tensor([-0.7, 0.7]), 0.05
    net = VelocityMLP(1, 1, hidden_sizes=(64, 64), output_scale=1.0)
    actor = FlowActor(net, Euler(num_steps=20), num_mc_samples=0, squash="none")
    loss = CFMLoss(actor)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(400):
        action = modes[torch.randint(2, (256, 1))] + spread * torch.randn(256, 1)
        loss_cfm = loss(TensorDict(observation=torch.zeros(256, 1), action=action, batch_size=256))["loss_cfm"]
        optimizer.zero_grad()
        loss_cfm.backward()
        optimizer.step()
    with torch.no_grad():
        samples = actor(TensorDict(observation=torch.zeros(2000, 1), batch_size=2000))["action"]
    distance = (samples - modes).abs().min(-1).values
    assert (distance < 0.25).float().mean() > 0.9
    assert 0.35 < (samples > 0).float().mean() < 0.65


class GaussianVelocity(nn.Module):
    """The optimal velocity for actions drawn from N(0, std^2): the regression of action - noise on x_t."""

    action_dim = 1

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, observation, x_t, time):
        variance = (1 - time) ** 2 + (time * self.std) ** 2
        return (time * self.std**2 - (1 - time)) / variance * x_t


def test_whole_numbers_as_actions_are_refused():
    data = TensorDict(observation=torch.zeros(4, 3), action=torch.zeros(4, 2, dtype=torch.int64), batch_size=4)
    with pytest.raises(TypeError, match=r"'action' should be floating-point numbers, got torch\.int64"):
        CFMLoss(FlowActor(VelocityMLP(3, 2)))(data)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_loss_of_the_optimal_velocity_is_the_variance_that_no_network_can_explain(std):
    """``Var(action - noise | x_t) = std^2 / ((1 - t)^2 + t^2 std^2)``, whose mean over uniform t is ``pi std / 2``."""
    actor = FlowActor(GaussianVelocity(std), squash="none")
    data = TensorDict(observation=torch.zeros(50_000, 1), action=std * torch.randn(50_000, 1), batch_size=50_000)
    assert CFMLoss(actor, num_mc_samples=4)(data)["loss_cfm"].item() == pytest.approx(math.pi * std / 2, rel=0.02)
    worse = CFMLoss(FlowActor(GaussianVelocity(1.5 * std), squash="none"), num_mc_samples=4)
    assert worse(data)["loss_cfm"] > 1.03 * math.pi * std / 2


@pytest.mark.parametrize(("squash", "undo"), [("tanh", torch.atanh), ("clip", lambda unit: unit)])
def test_the_target_is_the_action_before_squashing(make_actor, squash, undo):
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 10.0])
    squashed = make_actor(squash=squash, action_low=low, action_high=high)
    plain = make_actor(velocity_net=squashed.velocity_net, squash="none")
    unit = 1.8 * torch.rand(50, 2) - 0.9
    action = low + (high - low) * (unit + 1) / 2
    data = TensorDict(observation=torch.randn(50, 3), action=action, batch_size=50)
    torch.manual_seed(1)
    loss = CFMLoss(squashed)(data)["loss_cfm"]
    torch.manual_seed(1)
    expected = CFMLoss(plain)(data.clone().set("action", undo(unit)))["loss_cfm"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_actor_and_only_its_network(make_actor):
    actor = make_actor()
    loss = CFMLoss(actor)
    loss(TensorDict(observation=torch.randn(5, 3), action=torch.rand(5, 2), batch_size=5))["loss_cfm"].backward()
    assert all(parameter.grad.any() for parameter in actor.parameters())


def test_more_pairs_lower_the_spread_of_the_loss_and_not_its_mean(make_actor):
    actor = make_actor()
    data = TensorDict(observation=torch.randn(4, 3), action=torch.rand(4, 2), batch_size=4)
    few, many = (
        torch.stack([CFMLoss(actor, num_mc_samples=n)(data)["loss_cfm"].detach() for _ in range(100)]) for n in (1, 64)
    )
    assert many.std() < few.std() / 4
    assert abs(many.mean() - few.mean()) < 4 * few.std() / math.sqrt(100)


def test_every_pair_of_an_action_has_its_own_noise_and_time():
    """For action 0 the path is at ``(1 - t) noise``."""
    seen = []

    class Watching(nn.Module):
        action_dim = 1

        def forward(self, observation, x_t, time):
            seen.append((x_t / (1 - time), time))
            return torch.zeros_like(x_t)

    data = TensorDict(observation=torch.zeros(5, 3), action=torch.zeros(5, 1), batch_size=5)
    CFMLoss(FlowActor(Watching()), num_mc_samples=8)(data)
    assert [len(numbers.unique()) for numbers in seen[-1]] == [5 * 8, 5 * 8]


def test_target_and_times_are_those_of_the_loss_and_not_of_the_actor(make_actor):
    """With times close to 0 the noise target's error all but vanishes."""
    actor = make_actor()
    data = TensorDict(observation=torch.randn(50, 3), action=torch.rand(50, 2), batch_size=50)
    early = UniformTime(0.0, 0.01)
    assert CFMLoss(actor, target=NoiseTarget(), time_sampler=early)(data)["loss_cfm"] < 1e-3
    assert CFMLoss(actor, time_sampler=early)(data)["loss_cfm"] > 0.1


def test_keys_may_be_renamed_and_passed_by_keyword(make_actor):
    actor = make_actor()
    loss = CFMLoss(actor)
    loss.set_keys(action="expert")
    assert set(loss.in_keys) == {"observation", "expert"}
    observation, expert = torch.randn(5, 3), torch.rand(5, 2)
    torch.manual_seed(1)
    by_keyword = loss(observation=observation, expert=expert)
    torch.manual_seed(1)
    by_tensordict = loss(TensorDict(observation=observation, expert=expert, batch_size=5))["loss_cfm"]
    torch.testing.assert_close(by_keyword, by_tensordict)


def test_an_action_of_another_size_is_refused(make_actor):
    loss = CFMLoss(make_actor())
    for shape in ((5, 1), (5,)):
        batch = TensorDict(observation=torch.zeros(5, 3), action=torch.zeros(shape), batch_size=5)
        with pytest.raises(ValueError, match=r"'action' should have shape \[\*batch, 2\], got .*unsqueeze"):
            loss(batch)


def test_it_looks_for_the_action_where_the_actor_has_it(make_actor):
    data = TensorDict(observation=torch.randn(5, 3), agent=TensorDict(action=torch.rand(5, 2)), batch_size=5)
    assert CFMLoss(make_actor(action_key=("agent", "action")))(data)["loss_cfm"] > 0
    with pytest.raises(KeyError, match=r"the action to imitate; .*set_keys.*It has .*agent"):
        CFMLoss(make_actor())(data)


def test_the_batch_is_reduced_as_in_any_loss_module(make_actor):
    actor = make_actor()
    data = TensorDict(observation=torch.randn(6, 3), action=torch.rand(6, 2), batch_size=6)

    def reduced(data, how):
        torch.manual_seed(1)
        return CFMLoss(actor, reduction=how)(data)["loss_cfm"]

    each = reduced(data, "none")
    assert each.shape == (6,)
    torch.testing.assert_close(reduced(data, "sum"), each.sum())
    torch.testing.assert_close(reduced(data, "mean"), each.mean())
    padded = data.clone().set(("collector", "mask"), torch.tensor([True] * 4 + [False] * 2))
    torch.testing.assert_close(reduced(padded, "mean"), each[:4].mean())


@pytest.mark.filterwarnings("error")
def test_building_it_warns_of_nothing(make_actor):
    CFMLoss(make_actor())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_mc_samples": 0}, "num_mc_samples must be at least 1, got 0"),
        ({"action_reduction": "max"}, "action_reduction must be one of mean, sum, sqrt, got 'max'"),
    ],
)
def test_a_setting_out_of_range_is_refused(make_actor, kwargs, message):
    with pytest.raises(ValueError, match=message):
        CFMLoss(make_actor(), **kwargs)


def test_a_number_of_pairs_that_is_no_whole_number_is_refused(make_actor):
    with pytest.raises(TypeError, match=r"num_mc_samples must be a whole number, got 2.5"):
        CFMLoss(make_actor(), num_mc_samples=2.5)


@pytest.mark.parametrize(("name", "wrong"), [("target", "velocity"), ("time_sampler", "uniform")])
def test_names_in_the_place_of_parts_are_refused(make_actor, name, wrong):
    with pytest.raises(TypeError, match=rf"{name} must be a .* got '{wrong}'"):
        CFMLoss(make_actor(), **{name: wrong})


def test_pairs_are_drawn_by_the_sampler_it_is_given():
    """At noise 1 and -1 the velocity to the action 0.5 is -0.5 and 1.5, and a network that says 0 errs by those."""

    class TwoPairs(PairSampler):
        def sample(self, shape, times, like, draws=None):
            return torch.tensor([1.0, -1.0]).view(2, 1).expand(shape), torch.full((*shape[:-1], 1), 0.5)

    still = VelocityMLP(1, 1, hidden_sizes=(4,), output_scale=0.0)
    loss = CFMLoss(FlowActor(still, squash="none"), num_mc_samples=2, pairs=TwoPairs())
    batch = TensorDict(observation=torch.zeros(3, 1), action=torch.full((3, 1), 0.5), batch_size=3)
    assert loss(batch)["loss_cfm"].item() == pytest.approx((0.5**2 + 1.5**2) / 2)
