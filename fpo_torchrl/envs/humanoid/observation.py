"""What a humanoid observes: itself and the goal, both as seen from its own heading."""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_torchrl.checks import check_choice
from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.goal import goal_mask
from fpo_torchrl.envs.humanoid.kinematics import BodyStates
from fpo_torchrl.envs.humanoid.skeleton import Skeleton


def self_dim(skeleton: Skeleton) -> int:
    """Numbers that describe the body itself."""
    return 1 + 15 * len(skeleton.bodies) - 3


def observation_masks(skeleton: Skeleton, conditioning: str, critic_goal: str) -> dict[str, Tensor]:
    """What ``"actor"`` and ``"critic"`` may see of the observation, bool ``[self_dim + goal_dim]`` each.

    Args:
        skeleton: the body.
        conditioning: the goal that the actor sees, of :data:`~fpo_torchrl.envs.humanoid.goal.CONDITIONINGS`.
        critic_goal: the goal that the critic sees, ``"full"``, or ``"masked"`` as the actor's.

    Raises:
        ValueError: for an unknown conditioning or critic goal.
    """
    check_choice("critic_goal", critic_goal, ("full", "masked"))
    own = torch.ones(self_dim(skeleton), dtype=torch.bool)
    seen = {"actor": conditioning, "critic": "full" if critic_goal == "full" else conditioning}
    return {role: torch.cat([own, goal_mask(skeleton, goal)]) for role, goal in seen.items()}


def observe(own: BodyStates, goal: BodyStates, *, in_plane: bool = False) -> Tensor:
    """Observation ``[n, self_dim + goal_dim]`` of bodies that ought to get to ``goal`` in the next control step.

    The first part is the root's height, all bodies' positions from the root (without the root's own), rotations,
    velocities and angular velocities. The second has the parts of :data:`~fpo_torchrl.envs.humanoid.goal.GOAL_BLOCKS`:
    errors are goal minus own, and positions are seen from the own root. Rotations are two columns of their matrix.
    Nothing changes if both are moved or turned about the vertical together.
    (akanazawa/fpo, phc/puffer_phc/humanoid_phc.py:1717-1870; the heading is there the direction of the root's x axis.)

    Args:
        own: the bodies.
        goal: where they ought to be.
        in_plane (bool): whether the roots stay in the x-z plane: the same numbers sooner, since all have one heading.
    """
    return observation_rows(own, goal, in_plane=in_plane).T.contiguous()


def observation_rows(own: BodyStates, goal: BodyStates, *, in_plane: bool) -> Tensor:
    """What :func:`observe` returns with a row for each number, ``[self_dim + goal_dim, n]``."""
    num_bodies, num_envs = own.pos.shape[1:]
    root, error = own.pos[:, :1], rotations.between(own.quat, goal.quat)
    # One row for each number, written in place: what is copied least is fastest.
    seen = own.pos.new_empty(1 + 3 * (num_bodies - 1) + 36 * num_bodies, num_envs)
    places = seen[1 : 1 + 3 * (num_bodies - 1)].view(3, num_bodies - 1, num_envs)
    vectors = seen[1 + 3 * (num_bodies - 1) :].view(12, 3, num_bodies, num_envs)
    seen[0] = root[2]
    torch.sub(own.pos[:, 1:], root, out=places)
    vectors[0:2] = rotations.columns(own.quat)
    vectors[2], vectors[3] = own.vel, own.angvel
    torch.sub(goal.pos, own.pos, out=vectors[4])
    torch.sub(goal.vel, own.vel, out=vectors[7])
    torch.sub(goal.angvel, own.angvel, out=vectors[8])
    torch.sub(goal.pos, root, out=vectors[9])
    vectors[10:12] = rotations.columns(goal.quat)
    if not in_plane:
        heading = rotations.heading(own.quat[:, 0])
        for part in (places, error[1:], vectors.transpose(0, 1)):  # of which two are still to be written
            rotations.turn_back_(heading, part)
    vectors[5:7] = rotations.columns(error)
    return seen
