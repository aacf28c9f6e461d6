"""Each probe's stated optimum is its optimum, and the bandit is one that a Gaussian cannot solve with both modes."""

from __future__ import annotations

import pytest
import torch
from torchrl.envs import check_env_specs

from fpo_torchrl.envs import PROBES, BimodalBandit, ProbeEnv, bimodal_reward, modes_found

GAMMA = 0.9


def discounted_return(env: ProbeEnv, act) -> tuple[torch.Tensor, torch.Tensor]:
    """First observation and discounted return of one episode of each copy."""
    td = env.reset()
    first, total, discount = td["observation"], torch.zeros(env.num_envs, 1), 1.0
    while True:
        td = env.step(td.set("action", act(td["observation"])))["next"]
        total, discount = total + discount * td["reward"], discount * GAMMA
        if td["terminated"].all():
            return first, total
        assert not td["done"].any()


@pytest.mark.parametrize("name", [*PROBES, "bimodal"])
def test_specs(name):
    check_env_specs(BimodalBandit(num_envs=3) if name == "bimodal" else ProbeEnv(name, num_envs=3))


@pytest.mark.parametrize("name", PROBES)
def test_the_best_action_earns_the_optimal_value(name):
    env = ProbeEnv(name, num_envs=32)
    best = env.probe.optimal_action
    act = best if best is not None else (lambda observation: torch.empty_like(observation).uniform_(-1, 1))
    first, total = discounted_return(env, act)
    torch.testing.assert_close(total, env.probe.optimal_value(first, GAMMA))


@pytest.mark.parametrize("name", PROBES)
def test_no_action_earns_more(name):
    env = ProbeEnv(name, num_envs=201)
    grid = torch.linspace(-1, 1, 201).unsqueeze(-1)
    first, total = discounted_return(env, lambda observation: grid)
    assert (total <= env.probe.optimal_value(first, GAMMA) + 1e-6).all()
    if env.probe.optimal_action is not None:
        assert (total < env.probe.optimal_value(first, GAMMA) - 0.1).float().mean() > 0.5


@pytest.mark.parametrize(
    ("name", "observation", "action", "reward"),
    [
        ("constant", 0.0, 0.3, 1.0),
        ("observation", 1.0, 0.3, 1.0),
        ("observation", -1.0, 0.3, -1.0),
        ("delayed", 0.0, 0.3, 0.0),
        ("delayed", 1.0, 0.3, 1.0),
        ("action", 0.0, 0.5, 1.0),
        ("action", 0.0, -0.5, 0.0),
        ("both", 1.0, 0.5, 1.0),
        ("both", -1.0, 0.5, 0.0),
        ("both", -1.0, -0.5, 1.0),
    ],
)
def test_rewards_by_hand(name, observation, action, reward):
    paid = PROBES[name].reward(torch.tensor([[observation]]), torch.tensor([[action]]))
    assert paid.tolist() == pytest.approx([reward])


def test_delayed_takes_two_steps_and_the_others_one():
    for name, probe in PROBES.items():
        assert probe.num_steps == (2 if name == "delayed" else 1)
        rollout = ProbeEnv(name, num_envs=1).rollout(5)
        assert rollout.shape == (1, probe.num_steps)
        assert rollout["next", "terminated"].flatten().tolist() == [False] * (probe.num_steps - 1) + [True]
        assert not rollout["next", "truncated"].any()


def test_start_observations_come_up_equally_often():
    observation = ProbeEnv("both", num_envs=4000).reset()["observation"]
    assert sorted(observation.unique().tolist()) == [-1.0, 1.0]
    assert observation.mean().abs() < 0.08  # five standard deviations


def test_actions_are_clipped():
    env = ProbeEnv("action", num_envs=1)
    assert env.step(env.reset().set("action", torch.tensor([[7.0]])))["next", "reward"].item() == 0.75


def test_unknown_probe():
    with pytest.raises(ValueError, match=r"probe must be one of constant, .*got 'hard'"):
        ProbeEnv("hard")


def test_the_bandit_pays_at_two_modes_and_not_between():
    action = torch.linspace(-1, 1, 2001).unsqueeze(-1)
    reward = bimodal_reward(action)
    best = action[reward > 0.9999].abs()
    torch.testing.assert_close(best, torch.full_like(best, 0.7), atol=3e-3, rtol=0)
    assert reward[1000] < 1e-4  # the mean of the modes
    torch.testing.assert_close(reward, reward.flip(0))


def test_the_bandit_in_more_dimensions():
    same_sign, mixed = torch.tensor([[0.7, 0.7], [-0.7, -0.7]]), torch.tensor([[0.7, -0.7]])
    assert bimodal_reward(same_sign).tolist() == pytest.approx([1.0, 1.0])
    assert bimodal_reward(mixed).item() < 1e-4
    env = BimodalBandit(num_envs=2, action_dim=2)
    assert env.step(env.reset().set("action", same_sign))["next", "reward"].flatten().tolist() == pytest.approx([1, 1])


def test_modes_found_counts_near_both_modes():
    actions = torch.tensor([[-0.7], [-0.5], [-0.9], [0.7], [0.0], [0.44], [0.96], [2.0]])
    assert modes_found(actions).tolist() == [3 / 8, 1 / 8]
    assert modes_found(torch.tensor([[0.7, 0.7], [0.7, -0.7]])).tolist() == [0.0, 0.5]


def test_no_gaussian_finds_both_modes_and_is_paid_well():
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    for mean in torch.linspace(0, 1, 11):
        for std in torch.linspace(0.02, 2, 34):
            actions = mean + std * noise
            reward = bimodal_reward(actions.clamp(-1, 1)).mean()
            assert modes_found(actions).min() < 0.1 or reward < 0.45
    two_modes = torch.where(torch.arange(4000) % 2 == 0, 0.7, -0.7).unsqueeze(-1) + 0.05 * noise
    assert modes_found(two_modes).min() > 0.49
    assert bimodal_reward(two_modes).mean() > 0.9
