"""Batches whose losses are known without a network, for tests of FPO's loss."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict
from torch import nn

from fpo_torchrl import (
    ASPO,
    SPO,
    Clip,
    FlowActor,
    FPOLoss,
    VelocityTarget,
)

RATIOS = ["per_action", "per_sample", 2]
REGIONS = [Clip(0.1), Clip((0.1, 0.3)), SPO(0.1), ASPO(0.1)]


def gradients(loss: torch.Tensor, *modules: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for module in modules for p in module.parameters()]))


class Offset(nn.Module):
    """A velocity that is one trained number everywhere, 0 at first."""

    action_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, observation, x_t, time):
        return self.offset + 0 * x_t


def by_hand(log_ratios: list[list[float]], advantages: list[float], new: float = 1.0, **kwargs):
    """A loss and a batch whose CFM losses are ``new`` for every pair, and ``new`` plus the log-ratio at collection.

    With velocity 0, action 0 and noise of size n, the velocity target's loss is n^2.
    """
    num_pairs = len(log_ratios[0])
    actor = FlowActor(Offset(), num_mc_samples=num_pairs, target=VelocityTarget(), squash="none")
    shape = (len(advantages), num_pairs, 1)
    batch = TensorDict(
        observation=torch.zeros(len(advantages), 3),
        action=torch.zeros(len(advantages), 1),
        flow_action=torch.zeros(len(advantages), 1),
        flow_noise=torch.full(shape, math.sqrt(new)),
        flow_time=torch.full(shape, 0.5),
        cfm_loss=new + torch.tensor(log_ratios),
        advantage=torch.tensor(advantages).unsqueeze(-1),
        batch_size=len(advantages),
    )
    return FPOLoss(actor, normalize_advantage=False, **kwargs), batch
