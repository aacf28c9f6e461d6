"""TorchRL's own flow policy, ``torchrl.modules.FlowMatchingPolicy``, as a :class:`FlowActor` and back.

TorchRL has that class since the release after 0.14. Its time runs as ours does, from noise at 0 to the action at 1, its
solver is Euler's, and it cuts the action at its bounds, where a FlowActor maps [-1, 1] to them. So the two are the same
function where the bounds are -1 and 1 (``squash="clip"``) or infinite (``"none"``), and others are refused. Weights are
shared, not copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from fpo_torchrl.flow import Euler
from fpo_torchrl.modules.actor import FlowActor

BOUNDS = {"clip": (-1.0, 1.0), "none": (-math.inf, math.inf)}
"""Where TorchRL's policy cuts the action, by the squashing that does the same."""


class ConcatenatedInputs(nn.Module):
    """Velocity network made of one that takes observation, point and time as one vector, as TorchRL's policy calls it.

    Args:
        network: module from ``[*batch, obs + act + 1]`` to ``[*batch, act]``.
        action_dim (int): size of the action.
    """

    def __init__(self, network: nn.Module, action_dim: int) -> None:
        super().__init__()
        self.network, self.action_dim = network, action_dim

    def forward(self, observation: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        """Velocity ``[*batch, act]``; leading dimensions broadcast."""
        batch = torch.broadcast_shapes(observation.shape[:-1], x_t.shape[:-1], time.shape[:-1])
        return self.network(torch.cat([value.expand(*batch, -1) for value in (observation, x_t, time)], -1))


class SplitInput(nn.Module):
    """The velocity network of an actor, with its normaliser, as a network of one vector."""

    def __init__(self, actor: FlowActor) -> None:
        super().__init__()
        self.velocity_net, self.normalizer, self.action_dim = actor.velocity_net, actor.normalizer, actor.action_dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Velocity ``[*batch, act]`` of ``[*batch, obs + act + 1]``."""
        sizes = [inputs.shape[-1] - self.action_dim - 1, self.action_dim, 1]
        observation, x_t, time = inputs.split(sizes, -1)
        observation = observation if self.normalizer is None else self.normalizer(observation)
        return self.velocity_net(observation, x_t=x_t, time=time)


def from_flow_matching_policy(policy: TensorDictModuleBase, **settings: Any) -> FlowActor:
    """A FlowActor on the weights of TorchRL's ``FlowMatchingPolicy``, which takes the same actions from the same noise.

    Args:
        policy: TorchRL's.
        settings: of :class:`FlowActor`, such as ``num_mc_samples``.

    Raises:
        ValueError: for bounds that a FlowActor does not cut at.
    """
    model: Any = policy.module
    network = model.velocity_network

    def cuts_at(low: float, high: float) -> bool:
        return bool((model.low == low).all() and (model.high == high).all())

    squash = next((name for name, bounds in BOUNDS.items() if cuts_at(*bounds)), None)
    if squash is None:
        raise ValueError(
            f"the policy cuts its actions at {model.low.tolist()} and {model.high.tolist()}; only bounds of -1 and 1, "
            "or none, are the same for a FlowActor. Scale the actions in the environment"
        )
    own = {"normalizer": network.normalizer} if isinstance(network, SplitInput) else {}
    net = network.velocity_net if own else ConcatenatedInputs(network, model.action_dim)
    keys = {"in_keys": [policy.in_keys[0]], "action_key": policy.out_keys[0]}
    return FlowActor(net, Euler(model.num_steps), squash=squash, action_dim=model.action_dim, **keys, **own, **settings)


def to_flow_matching_policy(actor: FlowActor) -> TensorDictModuleBase:
    """TorchRL's ``FlowMatchingPolicy`` on the weights of ``actor``, which takes the same actions from the same noise.

    Raises:
        ImportError: for a TorchRL without that class.
        ValueError: for an actor with several observations, another solver than Euler's, or another squashing or bounds
            than TorchRL's policy has.
    """
    try:
        from torchrl.modules import FlowMatchingPolicy
    except ImportError as error:
        raise ImportError("FlowMatchingPolicy needs a TorchRL newer than 0.14") from error
    if len(actor.in_keys) != 1 or type(actor.solver) is not Euler:
        raise ValueError(
            f"FlowMatchingPolicy has one observation and Euler's method, the actor has {actor.in_keys} and "
            f"{actor.solver}"
        )
    low, high = BOUNDS.get(actor.squash, (math.nan, math.nan))
    fits = actor.squash == "none" or bool((actor.action_low == low).all() and (actor.action_high == high).all())
    if not fits or actor.squash_gain != 1:
        raise ValueError(
            f'FlowMatchingPolicy needs squash="clip" with bounds of -1 and 1 and a squash_gain of 1, or squash="none"; '
            f"the actor has squash={actor.squash!r} and {actor.squash_gain} with {actor.action_low.tolist()} and "
            f"{actor.action_high.tolist()}"
        )
    net = actor.velocity_net
    network = net.network if isinstance(net, ConcatenatedInputs) and actor.normalizer is None else SplitInput(actor)
    keys = {"in_keys": [actor.in_keys[0], "noise"], "out_keys": [actor.action_key]}
    return FlowMatchingPolicy(network, actor.action_dim, actor.solver.num_steps, low=low, high=high, **keys)
