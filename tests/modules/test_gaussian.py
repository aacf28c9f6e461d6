"""The Gaussian baseline against closed-form densities."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl.modules import ObservationNormalizer
from fpo_torchrl.modules.gaussian import GaussianMLP, gaussian_actor


def observations(n: int) -> TensorDict:
    return TensorDict(observation=torch.randn(n, 3), batch_size=n)


@torch.no_grad()
def sampled(actor, n: int) -> TensorDict:
    with set_exploration_type(ExplorationType.RANDOM):
        return actor(observations(n))


@torch.no_grad()
def pinned(actor, loc: float):
    """Let the network say ``loc`` for every observation."""
    last = actor[0].module.layers[-1]
    last.weight.zero_()
    last.bias.fill_(loc)
    return actor


def test_tanh_actions_stay_inside_the_bounds_and_reach_both_ends():
    actor = gaussian_actor(
        3, 2, squash="tanh", action_low=torch.tensor([-1.0, 0.0]), action_high=torch.tensor([1.0, 5.0])
    )
    action = sampled(actor, 5000)["action"]
    for column, (low, high) in zip(action.T, [(-1.0, 1.0), (0.0, 5.0)], strict=True):
        assert low <= column.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < column.max() <= high


def test_the_log_probability_is_the_normal_density():
    actor = pinned(gaussian_actor(3, 2, std=0.5, squash="none"), 1.0)
    td = sampled(actor, 200)
    z = (td["action"] - 1.0) / 0.5
    expected = (-0.5 * z**2 - math.log(0.5 * math.sqrt(2 * math.pi))).sum(-1)
    torch.testing.assert_close(td["action_log_prob"], expected)


def test_the_log_probability_under_tanh_has_the_change_of_variables():
    actor = pinned(gaussian_actor(3, 1, std=0.5, action_low=-2.0, action_high=2.0), 0.0)
    td = sampled(actor, 200)
    unit = td["action"] / 2
    z = torch.atanh(unit) / 0.5
    density = -0.5 * z**2 - math.log(0.5 * math.sqrt(2 * math.pi)) - torch.log(2 * (1 - unit**2))
    torch.testing.assert_close(td["action_log_prob"], density.squeeze(-1), rtol=1e-3, atol=1e-3)


def test_the_deterministic_action_is_the_squashed_location():
    actor = pinned(gaussian_actor(3, 2, action_low=-2.0, action_high=2.0), 0.5)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = actor(observations(4))["action"]
    torch.testing.assert_close(action, torch.full((4, 2), 2 * math.tanh(0.5)))


@pytest.mark.parametrize(("std", "trained"), [("learned", True), (0.3, False)])
def test_a_standard_deviation_of_its_own(std, trained):
    net = GaussianMLP(3, 2, std=std, init_std=0.7)
    _, scale = net(torch.randn(5, 3))
    torch.testing.assert_close(scale, torch.full((5, 2), 0.7 if trained else 0.3))
    assert net.log_std.requires_grad is trained


def test_the_predicted_standard_deviation_depends_on_the_observation_and_is_positive():
    _, scale = GaussianMLP(3, 2)(100 * torch.randn(50, 3))
    assert scale.min() >= 1e-3
    assert scale.std(0).min() > 0.1


def test_the_observation_is_normalised_first():
    normalizer = ObservationNormalizer(3)
    normalizer.update(5 + 2 * torch.randn(1000, 3))
    net = GaussianMLP(3, 2, normalizer=normalizer)
    plain = GaussianMLP(3, 2)
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if "normalizer" not in key})
    observation = torch.randn(4, 3)
    expected = plain((observation - normalizer.mean) / normalizer.std)
    torch.testing.assert_close(net(observation), expected)


@pytest.mark.parametrize("std", ["observed", 0.0, -1.0])
def test_other_standard_deviations_are_refused(std):
    with pytest.raises(ValueError, match="std must be one of observation, learned or a positive number"):
        GaussianMLP(3, 2, std=std)


def test_it_reads_and_writes_where_it_is_told():
    actor = gaussian_actor(3, 2, in_keys=[("arm", "seen")], action_key=("arm", "action"))
    td = actor(TensorDict(arm=TensorDict(seen=torch.zeros(4, 3), batch_size=4), batch_size=4))
    assert td["arm", "action"].shape == (4, 2)
    assert "observation" not in td
    assert gaussian_actor(3, 2, in_keys="pose").in_keys == ["pose"]


@pytest.mark.parametrize("init_std", [0.0, -1.0, float("inf"), float("nan")])
def test_a_first_standard_deviation_that_is_none_is_refused(init_std):
    with pytest.raises(ValueError, match="init_std must be positive and finite"):
        GaussianMLP(3, 2, std="learned", init_std=init_std)


def test_other_squashes_are_refused():
    with pytest.raises(ValueError, match=r"squash must be .* got 'clip'"):
        gaussian_actor(3, 2, squash="clip")
