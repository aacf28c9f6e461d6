"""What a loss reads from a batch, and the checks that it is what it should be."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from fpo_torchrl.checks import entries


def stored(tensordict: TensorDictBase, key: NestedKey, like: Tensor, meaning: str) -> Tensor:
    """What the actor wrote under ``key`` at collection; refused if missing, of another shape or with a gradient."""
    advice = f"{meaning} that the actor writes at collection; keep it when you select from the batch"
    [value] = entries(tensordict, [key], reader="the loss", advice=advice)
    if value.shape != like.shape:
        raise ValueError(f"{key!r} should hold {meaning}, shape {tuple(like.shape)}, got {tuple(value.shape)}")
    if value.requires_grad:
        raise RuntimeError(f"{key!r} in the batch requires grad: collect under torch.no_grad()")
    return value


def check_advantage(advantage: Tensor, batch: torch.Size) -> None:
    """Refuse an advantage that is not one of each action or of each team of actions, and would broadcast silently."""
    if advantage.shape != (*batch[: max(1, advantage.ndim - 1)], 1):
        raise ValueError(
            f"the advantage should have shape {(*batch, 1)}, one value per action, or of a team of actions fewer "
            f"dimensions of that batch and a 1, got {tuple(advantage.shape)}, which would broadcast or become an outer "
            "product; a missing last dimension (advantage.unsqueeze(-1)) is the usual cause"
        )


def of_each_action(advantage: Tensor, batch: torch.Size) -> Tensor:
    """The advantage ``[*batch, 1]`` of each action, which may be its team's."""
    of_team = advantage.shape[:-1]
    return advantage.view(*of_team, *[1] * (len(batch) - len(of_team)), 1).expand(*batch, 1)


def by_either_name(actor_network: Any, critic_network: Any, actor: Any, critic: Any) -> tuple[Any, Any]:
    """Actor and critic, each of which may be given by the long or the short name that TorchRL's losses know."""
    for name, (network, short) in {"actor": (actor_network, actor), "critic": (critic_network, critic)}.items():
        if network is not None and short is not None:
            raise ValueError(f"{name} and {name}_network are two names of one argument: give one of them")
    return actor if actor is not None else actor_network, critic if critic is not None else critic_network
