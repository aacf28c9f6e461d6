"""Which part of the goal a policy sees: the conditioning of the paper's experiment."""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_torchrl.checks import check_choice
from fpo_torchrl.envs.humanoid.skeleton import Skeleton

GOAL_BLOCKS = {
    "position_error": 3,
    "rotation_error": 6,
    "velocity_error": 3,
    "angular_velocity_error": 3,
    "position": 3,
    "rotation": 6,
}
"""Parts of the goal in their order, with the numbers that each has for a body."""
VISIBLE_BLOCKS = ("position_error", "position")
"""What a policy sees of the bodies that it is conditioned on (akanazawa/fpo, phc/puffer_phc/policy.py:76-126)."""
CONDITIONINGS: dict[str, tuple[str, ...] | None] = {
    "full": None,
    "root_hands": ("pelvis", "right_hand", "left_hand"),
    "root": ("pelvis",),
}
"""The bodies whose goal a policy sees; None for everything about all of them."""


def goal_dim(skeleton: Skeleton) -> int:
    """Numbers in the goal."""
    return sum(GOAL_BLOCKS.values()) * len(skeleton.bodies)


def conditioned_bodies(skeleton: Skeleton, conditioning: str) -> list[int]:
    """Indices of the bodies whose goal a policy sees.

    Raises:
        ValueError: for an unknown conditioning.
    """
    check_choice("conditioning", conditioning, CONDITIONINGS)
    names = CONDITIONINGS[conditioning]
    return list(range(len(skeleton.bodies))) if names is None else skeleton.index(names)


def goal_mask(skeleton: Skeleton, conditioning: str) -> Tensor:
    """True where a policy sees the goal, bool ``[goal_dim]``: 360, 18 or 6 entries of 360.

    A block holds its first number for all bodies, then the second and so on.
    """
    bodies = conditioned_bodies(skeleton, conditioning)
    if CONDITIONINGS[conditioning] is None:
        return torch.ones(goal_dim(skeleton), dtype=torch.bool)
    parts = []
    for name, width in GOAL_BLOCKS.items():
        part = torch.zeros(width, len(skeleton.bodies), dtype=torch.bool)
        part[:, bodies] = name in VISIBLE_BLOCKS
        parts.append(part.flatten())
    return torch.cat(parts)
