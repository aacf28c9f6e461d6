"""Gradient norms limited by hand, and steps against plain Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fpo_torchrl.optim import AgentOptimizer


def parameters(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value)) for value in values]


def descend(optimizer: AgentOptimizer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    optimizer.backward(loss)
    return optimizer.limited_step()


def test_the_norms_of_actor_and_critic_are_limited_apart():
    actor, critic = parameters(0.0, 0.0), parameters(0.0)
    optimizer = AgentOptimizer(actor, critic, max_grad_norm=1.0, critic_max_grad_norm=100.0)
    norms = descend(optimizer, 3 * actor[0] + 4 * actor[1] + 1000 * critic[0])
    assert {name: norm.item() for name, norm in norms.items()} == {"grad_norm_actor": 5.0, "grad_norm_critic": 1000.0}
    assert [p.grad.item() for p in actor] == pytest.approx([3 / 5, 4 / 5], rel=1e-5)
    assert critic[0].grad.item() == pytest.approx(100, rel=1e-5)


def test_without_limits_gradients_stay_as_they_are():
    actor, critic = parameters(0.0), parameters(0.0)
    descend(AgentOptimizer(actor, critic), 3e5 * actor[0] + 4e6 * critic[0])
    assert (actor[0].grad.item(), critic[0].grad.item()) == (3e5, 4e6)


def test_two_steps_are_those_of_two_plain_adams():
    nets = {"actor": nn.Linear(3, 2), "critic": nn.Linear(3, 1)}
    twins = copy.deepcopy(nets)
    settings = {"betas": (0.8, 0.95), "eps": 1e-5}
    optimizer = AgentOptimizer(
        nets["actor"].parameters(), nets["critic"].parameters(), lr=0.1, critic_lr=0.02, **settings
    )
    plain = [
        torch.optim.Adam(twins[name].parameters(), lr=lr, **settings) for name, lr in (("actor", 0.1), ("critic", 0.02))
    ]
    for _ in range(2):
        x = torch.randn(5, 3)
        descend(optimizer, nets["actor"](x).square().mean() + nets["critic"](x).square().mean())
        for adam in plain:
            adam.zero_grad()
        (twins["actor"](x).square().mean() + twins["critic"](x).square().mean()).backward()
        for adam in plain:
            adam.step()
    for name in nets:
        for ours, theirs in zip(nets[name].parameters(), twins[name].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_gradients_do_not_add_up_over_steps():
    actor, critic = parameters(0.0), parameters(0.0)
    optimizer = AgentOptimizer(actor, critic)
    for _ in range(2):
        norms = descend(optimizer, 2 * actor[0] + critic[0])
    assert norms["grad_norm_actor"].item() == 2.0


def test_the_critic_takes_the_actors_step_size_unless_told():
    assert [group["lr"] for group in AgentOptimizer(parameters(0.0), parameters(0.0), lr=0.5).param_groups] == [
        0.5,
        0.5,
    ]


def test_frozen_actor_parameters_are_left_out():
    frozen, free = parameters(1.0, 1.0)
    frozen.requires_grad_(False)
    optimizer = AgentOptimizer([frozen, free], parameters(0.0))
    assert [p is free for p in optimizer.param_groups[0]["params"]] == [True]


def test_a_frozen_actor_leaves_the_critic_to_learn():
    frozen = [p.requires_grad_(False) for p in parameters(1.0)]
    critic = parameters(3.0)
    optimizer = AgentOptimizer(frozen, critic, lr=0.1)
    optimizer.backward(critic[0].square())
    assert optimizer.limited_step()["grad_norm_actor"] == 0
    assert critic[0].item() == pytest.approx(2.9)


def test_restoring_keeps_moments_and_takes_the_new_settings():
    old_net, new_net = parameters(1.0, 1.0), parameters(1.0, 1.0)
    old = AgentOptimizer(old_net[:1], old_net[1:], lr=0.1)
    descend(old, 2 * old_net[0] + old_net[1])
    new = AgentOptimizer(new_net[:1], new_net[1:], lr=0.01, eps=0.5)
    new.load_state_dict(old.state_dict())
    assert new.state[new_net[0]]["exp_avg"].item() == pytest.approx(0.2)  # (1 - 0.9) times the gradient 2
    assert [(group["lr"], group["eps"]) for group in new.param_groups] == [(0.01, 0.5)] * 2


def test_a_schedulers_step_size_goes_on_where_it_was():
    def scheduled():
        optimizer = AgentOptimizer(parameters(1.0), parameters(1.0), lr=0.8, critic_lr=0.4)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    def step(optimizer, schedule):
        descend(optimizer, sum(p for group in optimizer.param_groups for p in group["params"]))
        schedule.step()
        return [group["lr"] for group in optimizer.param_groups]

    old, resumed = scheduled(), scheduled()
    assert step(*old) == [0.4, 0.2]
    for new, saved in zip(resumed, old, strict=True):
        new.load_state_dict(saved.state_dict())
    assert step(*resumed) == step(*old) == [0.2, 0.1]
    alone = AgentOptimizer(parameters(1.0), parameters(1.0), lr=0.7)
    alone.load_state_dict(old[0].state_dict())
    assert [group["lr"] for group in alone.param_groups] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"critic_lr": -1.0}, "critic_lr must be positive and finite, got -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive and finite, got 0.0"),
        ({"critic_max_grad_norm": -2.0}, "critic_max_grad_norm must be positive and finite, got -2.0"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        AgentOptimizer(parameters(0.0), parameters(0.0), **setting)


def test_without_a_gradient_the_actor_stays_and_its_norm_is_0():
    actor, critic = parameters(1.0, 2.0), parameters(3.0)
    optimizer = AgentOptimizer(actor, critic, max_grad_norm=1.0, lr=0.1)
    optimizer.backward(actor[0] * critic[0])
    optimizer.keep_actor()
    norms = optimizer.limited_step()
    assert [p.item() for p in actor] == [1.0, 2.0]
    assert critic[0].item() == pytest.approx(2.9)
    assert norms["grad_norm_actor"] == 0
    assert norms["grad_norm_actor"].dtype == actor[0].dtype


def test_what_actor_and_critic_share_is_the_actors():
    trunk, head, value = (nn.Linear(2, 2) for _ in range(3))
    optimizer = AgentOptimizer(
        [*trunk.parameters(), *head.parameters()], [*trunk.parameters(), *value.parameters()], lr=0.1
    )
    of_actor, of_critic = ([id(p) for p in group["params"]] for group in optimizer.param_groups)
    assert of_actor == [id(p) for module in (trunk, head) for p in module.parameters()]
    assert of_critic == [id(p) for p in value.parameters()]


@pytest.mark.parametrize(("weight", "largest"), [(-7.0, "7.0"), (float("nan"), "nan"), (float("-inf"), "inf")])
def test_the_largest_weight_is_of_actor_and_critic_and_its_sign_does_not_count(weight, largest):
    actor, critic = [nn.Parameter(torch.tensor([1.0, 2.0]))], [nn.Parameter(torch.tensor([3.0, weight]))]
    assert str(AgentOptimizer(actor, critic).largest_weight().item()) == largest
