"""TorchRL's FlowMatchingPolicy and FlowActor on one set of weights take the same actions.

Where TorchRL has no such class yet, a stand-in that follows its documentation takes its place.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch
import torchrl.modules
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import MLP

from fpo_torchrl import Euler, FlowActor, FPOLoss, Heun, ObservationNormalizer, VelocityMLP
from fpo_torchrl.modules.interop import from_flow_matching_policy, to_flow_matching_policy

OBS, ACT = 3, 2


class DocumentedModel(nn.Module):
    def __init__(self, velocity_network, action_dim, num_steps, low, high) -> None:
        super().__init__()
        self.velocity_network, self.action_dim, self.num_steps = velocity_network, action_dim, num_steps
        self.register_buffer("low", torch.as_tensor(low))
        self.register_buffer("high", torch.as_tensor(high))

    def forward(self, observation, noise):
        action = noise
        for step in range(self.num_steps):
            time = torch.full((*action.shape[:-1], 1), step / self.num_steps)
            action = action + self.velocity_network(torch.cat([observation, action, time], -1)) / self.num_steps
        return torch.minimum(torch.maximum(action, self.low), self.high)


class DocumentedPolicy(TensorDictModule):
    def __init__(
        self,
        velocity_network,
        action_dim,
        num_steps=10,
        *,
        low=-1.0,
        high=1.0,
        in_keys=("observation", "noise"),
        out_keys=("action",),
    ) -> None:
        model = DocumentedModel(velocity_network, action_dim, num_steps, low, high)
        super().__init__(model, list(in_keys), list(out_keys))


FlowMatchingPolicy = getattr(torchrl.modules, "FlowMatchingPolicy", DocumentedPolicy)


@pytest.fixture
def newer_torchrl(monkeypatch):
    monkeypatch.setattr(torchrl.modules, "FlowMatchingPolicy", FlowMatchingPolicy, raising=False)


class Given:
    """Start noise that is given."""

    def __init__(self, noise) -> None:
        self.noise = noise

    def sample(self, shape, like):
        return self.noise


def actions(actor: FlowActor, policy, *batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both actions for the same observations and noise."""
    observation, noise = 2 * torch.randn(*batch, OBS), torch.randn(*batch, ACT)
    key, out = actor.in_keys[0], actor.action_key
    ours = actor.for_inference(start_noise=Given(noise))(TensorDict({key: observation}, batch))
    theirs = policy(TensorDict({key: observation, "noise": noise}, batch))
    return ours[out], theirs[out]


@pytest.mark.parametrize("bounds", [{}, {"low": -math.inf, "high": math.inf}])
def test_their_policy_as_ours(bounds):
    keys = {"in_keys": [("robot", "state"), "noise"], "out_keys": [("robot", "action")]}
    policy = FlowMatchingPolicy(MLP(OBS + ACT + 1, ACT, num_cells=[16]), ACT, 4, **bounds, **keys)
    actor = from_flow_matching_policy(policy, num_mc_samples=3)
    ours, theirs = actions(actor, policy, 50, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (theirs.abs() >= 1).any()
    assert {id(p) for p in actor.parameters()} == {id(p) for p in policy.parameters()}
    batch = actor(TensorDict({("robot", "state"): torch.randn(5, OBS), "advantage": torch.randn(5, 1)}, 5).detach())
    FPOLoss(actor, functional=False)(batch.detach())["loss_objective"].backward()
    assert all(p.grad is not None for p in policy.parameters())


@pytest.mark.parametrize("squash", ["clip", "none"])
def test_our_actor_as_theirs(newer_torchrl, squash):
    normalizer = ObservationNormalizer(OBS)
    normalizer.update(torch.randn(50, OBS) * 3 + 1)
    actor = FlowActor(VelocityMLP(OBS, ACT, output_scale=3.0), Euler(4), squash=squash, normalizer=normalizer)
    policy = to_flow_matching_policy(actor)
    assert isinstance(policy, FlowMatchingPolicy)
    ours, theirs = actions(actor, policy, 50)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert {id(p) for p in actor.parameters()} == {id(p) for p in policy.parameters()}


def test_there_and_back_is_the_same_network(newer_torchrl):
    normalizer = ObservationNormalizer(OBS)
    actor = FlowActor(VelocityMLP(OBS, ACT), Euler(4), squash="clip", normalizer=normalizer)
    again = from_flow_matching_policy(to_flow_matching_policy(actor))
    assert again.velocity_net is actor.velocity_net
    assert again.normalizer is normalizer
    network = MLP(OBS + ACT + 1, ACT, num_cells=[16])
    policy = to_flow_matching_policy(from_flow_matching_policy(FlowMatchingPolicy(network, ACT)))
    assert policy.module.velocity_network is network


def test_other_bounds_are_refused():
    policy = FlowMatchingPolicy(MLP(OBS + ACT + 1, ACT), ACT, low=torch.tensor([-1.0, -2.0]), high=1.0)
    with pytest.raises(ValueError, match=r"cuts its actions at \[-1.0, -2.0\] and 1.0; only bounds of -1 and 1"):
        from_flow_matching_policy(policy)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"squash": "tanh"}, "the actor has squash='tanh'"),
        ({"squash": "clip", "action_high": 2.0}, r"with \[-1.0, -1.0\] and \[2.0, 2.0\]"),
        ({"squash": "clip", "solver": Heun(2)}, r"one observation and Euler's method, the actor has .*Heun"),
        ({"squash": "clip", "in_keys": ["a", "b"]}, r"one observation and Euler's method, the actor has \['a', 'b'\]"),
    ],
)
def test_an_actor_that_theirs_cannot_be(newer_torchrl, settings, words):
    with pytest.raises(ValueError, match=words):
        to_flow_matching_policy(FlowActor(VelocityMLP(OBS, ACT), **settings))


@pytest.mark.skipif(hasattr(torchrl.modules, "FlowMatchingPolicy"), reason="this TorchRL has the class")
def test_an_older_torchrl_is_named():
    with pytest.raises(ImportError, match=r"needs a TorchRL newer than 0\.14"):
        to_flow_matching_policy(FlowActor(VelocityMLP(OBS, ACT), squash="clip"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example_fine_tunes_theirs(newer_torchrl):
    train = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "torchrl_flow_policy.py"))["train"]
    rewards, policy = train(num_batches=15)
    assert rewards[-1] > rewards[0] + 0.1
    assert isinstance(policy, FlowMatchingPolicy)
