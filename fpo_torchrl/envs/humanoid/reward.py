"""How well a body tracks the reference, and when it has lost it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.kinematics import BodyStates

WEIGHTS = {"position": (0.5, 100.0), "rotation": (0.3, 10.0), "velocity": (0.1, 0.1), "angular_velocity": (0.1, 0.1)}
"""By term, its share of the reward and how fast it falls off (phc/puffer_phc/humanoid_phc.py:503-515)."""


def tracking_terms(own: BodyStates, reference: BodyStates) -> Tensor:
    """The terms of the reward in the order of :data:`WEIGHTS`, ``[4, n]``: at most 0.5, 0.3, 0.1 and 0.1.

    Each is ``weight * exp(-scale * error)``; the error is the mean square over bodies, and over axes where there
    are any, of the difference in position (m), rotation (rad), velocity (m/s) or angular velocity (rad/s).
    """
    squares = [
        (reference.pos - own.pos).square().mean((0, 1)),
        rotations.distance(own.quat, reference.quat).square().mean(0),
        (reference.vel - own.vel).square().mean((0, 1)),
        (reference.angvel - own.angvel).square().mean((0, 1)),
    ]
    weights, scales = _constants(own.pos.dtype, own.pos.device)
    return weights * torch.exp(-scales * torch.stack(squares))


@functools.cache
def _constants(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers of :data:`WEIGHTS`: ``[2, 4, 1]``."""
    with torch.inference_mode(False):  # wherever it is called first
        return torch.tensor([*WEIGHTS.values()], dtype=dtype, device=device).T.unsqueeze(-1).contiguous()


def servo_torque(
    angles: Tensor, rates: Tensor, targets: Tensor, stiffness: Tensor, damping: Tensor, limit: float
) -> Tensor:
    """Torque ``[n, action_dim]`` (Nm) of servos at these angles (rad), rates (rad/s) and targets (rad)."""
    return (stiffness * (targets - angles) - damping * rates).clamp(-limit, limit)


def power(torque: Tensor, rates: Tensor) -> Tensor:
    """Sum over servos of the power (W) that each takes or gives: ``[n]``."""
    return (torque * rates).abs().sum(-1)


def farthest(own: BodyStates, reference: BodyStates) -> Tensor:
    """Distance (m) of the body that is farthest from its place in the reference: ``[n]``."""
    return rotations.length(reference.pos - own.pos).amax(0)


def mean_distance(own: BodyStates, reference: BodyStates) -> Tensor:
    """Mean distance (m) of the bodies from their places in the reference: ``[n]``."""
    return rotations.length(reference.pos - own.pos).mean(0)


DISTANCES: dict[str, Callable[[BodyStates, BodyStates], Tensor]] = {"farthest": farthest, "mean": mean_distance}
"""What may not exceed a limit, lest the episode end."""
