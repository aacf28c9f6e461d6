"""What a flow actor is asked in tests: observations, exploring or not."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type


class ConstantVelocity(nn.Module):
    """The same velocity everywhere, so that the flow is ``action = noise + velocity`` for every solver."""

    def __init__(self, *velocity: float) -> None:
        super().__init__()
        self.velocity = nn.Parameter(torch.tensor(velocity))
        self.action_dim = len(velocity)
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def forward(self, observation, x_t, time):
        self.calls.append({"observation": observation.shape, "x_t": x_t.shape, "time": time.shape})
        return self.velocity + 0 * (x_t + observation[..., :1] + time)


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=torch.randn(*batch, 3), batch_size=batch)


def exploring() -> set_exploration_type:
    return set_exploration_type(ExplorationType.RANDOM)


def deterministic() -> set_exploration_type:
    return set_exploration_type(ExplorationType.DETERMINISTIC)
