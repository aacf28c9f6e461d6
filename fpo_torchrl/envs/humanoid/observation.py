"""What a humanoid observes: itself and the goal, both as seen from its own heading."""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.kinematics import BodyStates
from fpo_torchrl.envs.humanoid.skeleton import Skeleton


def self_dim(skeleton: Skeleton) -> int:
    """Numbers that describe the body itself."""
    return 1 + 15 * len(skeleton.bodies) - 3


def observe(own: BodyStates, goal: BodyStates) -> Tensor:
    """Observation ``[n, self_dim + goal_dim]`` of bodies that ought to get to ``goal`` in the next control step.

    The first part is the root's height, all bodies' positions from the root (without the root's own), rotations,
    velocities and angular velocities. The second has the parts of :data:`~fpo_torchrl.envs.humanoid.goal.GOAL_BLOCKS`:
    errors are goal minus own, and positions are seen from the own root. Rotations are two columns of their matrix.
    Nothing changes if both are moved or turned about the vertical together.
    (akanazawa/fpo, phc/puffer_phc/humanoid_phc.py:1717-1870; the heading is there the direction of the root's x axis.)
    """
    view, root = rotations.heading(own.quat[:, 0]), own.pos[:, :1]
    error = rotations.multiply(goal.quat, rotations.inverse(own.quat))
    vectors = [
        own.pos - root,
        *rotations.to_6d(own.quat).split(3),
        own.vel,
        own.angvel,
        goal.pos - own.pos,
        error[1:],
        goal.vel - own.vel,
        goal.angvel - own.angvel,
        goal.pos - root,
        *rotations.to_6d(goal.quat).split(3),
    ]
    places, *mine, shift, axis, push, spin, aim, first, third = rotations.turn_back(
        view, torch.stack(vectors, dim=1)
    ).unbind(1)
    parts = [places[:, 1:], *mine, shift, rotations.to_6d(torch.cat([error[:1], axis])), push, spin, aim, first, third]
    return torch.cat([root[2], *(part.flatten(0, 1) for part in parts)]).T.contiguous()
