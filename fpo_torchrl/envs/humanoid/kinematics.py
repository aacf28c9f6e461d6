"""Where the bodies of a skeleton are and how they move, from joint positions and velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fpo_torchrl.envs.humanoid import rotations
from fpo_torchrl.envs.humanoid.skeleton import PLANAR_HINGE, Skeleton


@dataclass(frozen=True)
class BodyStates:
    """All bodies in the world's axes.

    Shapes: ``pos`` (m), ``vel`` (m/s) and ``angvel`` (rad/s) ``[3, num_bodies, *batch]``, ``quat``
    ``[4, num_bodies, *batch]``. Positions and velocities are those of the joint that holds the body.
    """

    pos: Tensor
    quat: Tensor
    vel: Tensor
    angvel: Tensor

    def __getitem__(self, index: Any) -> BodyStates:
        """A part of the batch."""
        return BodyStates(*(tensor[:, :, index] for tensor in (self.pos, self.quat, self.vel, self.angvel)))


class Kinematics:
    """Forward kinematics of a skeleton, for a batch at once.

    Args:
        skeleton: the bodies.
        device: of the tensors that it computes with.
        dtype: of these tensors.
    """

    def __init__(
        self, skeleton: Skeleton, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> None:
        self.skeleton, self.device, self.dtype = skeleton, device, dtype
        places, rates = skeleton.position_columns, skeleton.velocity_columns
        joints = list(enumerate(skeleton.bodies))[1:]
        balls = [(number, body.name) for number, body in joints if body.joint == "ball"]
        hinges = [(number, body.name) for number, body in joints if body.joint == "hinge"]
        self._balls, self._hinges = self._index([n for n, _ in balls]), self._index([n for n, _ in hinges])
        # In the order of components first, as in all that follows.
        self._ball_quats = self._index([places[name].start + i for i in range(4) for _, name in balls])
        self._ball_rates = self._index([rates[name].start + i for i in range(3) for _, name in balls])
        self._hinge_angles = self._index([places[name].start for _, name in hinges])
        self._hinge_rates = self._index([rates[name].start for _, name in hinges])
        self._parents = self._index([max(parent, 0) for parent in skeleton.parents])
        self._offsets = self._vectors([(0, 0, 0), *(body.offset for _, body in joints)])
        self._levels, self._chains = self._tree()

        solids = [(number, body.shape) for number, body in enumerate(skeleton.bodies)]
        self._corner_bodies = self._index([number for number, shape in solids for _ in shape.corners])
        self._corners = self._vectors([corner for _, shape in solids for corner in shape.corners])
        self._margins = self._tensor([shape.margin for _, shape in solids for _ in shape.corners]).unsqueeze(-1)

    def _index(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _vectors(self, values: list) -> Tensor:
        """A constant vector for each body of some: ``[3, n, 1]``."""
        return self._tensor(values).T.unsqueeze(-1).contiguous()

    def _tree(self) -> tuple[list[Tensor], Tensor]:
        """The bodies of each level below the root, and a matrix with a 1 for each body and what it hangs on."""
        parents, depth, chains = self.skeleton.parents, [0], torch.eye(len(self.skeleton.bodies))
        for number, parent in enumerate(parents[1:], start=1):
            depth.append(depth[parent] + 1)
            chains[number] += chains[parent]
        levels = [self._index([n for n, at in enumerate(depth) if at == level]) for level in range(1, max(depth) + 1)]
        return levels, chains.to(self.device, self.dtype)

    def __call__(self, qpos: Tensor, qvel: Tensor) -> BodyStates:
        """All bodies for ``qpos`` ``[n, nq]`` and ``qvel`` ``[n, nv]``; the batch is ``[n]``."""
        qpos, qvel = (it.to(self.device, self.dtype).T.contiguous() for it in (qpos, qvel))
        quat, rates = self._joints(qpos, qvel)
        pos, vel = self._root(qpos, qvel, quat, rates)
        for level in self._levels:
            quat[:, level] = rotations.multiply(quat[:, self._parents[level]], quat[:, level])
        angvel = self._chains @ rotations.rotate(quat, rates)
        reach = rotations.rotate(quat[:, self._parents], self._offsets)
        sway = rotations.cross(angvel[:, self._parents], reach)
        return BodyStates(pos + self._chains @ reach, quat, vel + self._chains @ sway, angvel)

    def _root(self, qpos: Tensor, qvel: Tensor, quat: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Position and velocity of the root, ``[3, 1, n]``; its rotation and rate go where the other bodies' are."""
        if not self.skeleton.is_planar:
            quat[:, 0], rates[:, 0] = qpos[3:7], qvel[3:6]
            return qpos[:3, None], qvel[:3, None]
        quat[:, 0], rates[PLANAR_HINGE, 0] = rotations.about(PLANAR_HINGE, qpos[2]), qvel[2]
        pos, vel = (qpos.new_zeros(3, 1, qpos.shape[-1]) for _ in range(2))
        pos[::2, 0], vel[::2, 0] = qpos[:2], qvel[:2]
        return pos, vel

    def _joints(self, qpos: Tensor, qvel: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation of each body in its parent, ``[4, num_bodies, n]``, and its rate in its own axes, ``[3, ...]``."""
        size = len(self.skeleton.bodies), qpos.shape[-1]
        quat, rates = qpos.new_zeros(4, *size), qpos.new_zeros(3, *size)
        quat[0] = 1
        quat[:, self._balls] = qpos[self._ball_quats].unflatten(0, (4, -1))
        quat[:, self._hinges] = rotations.about(PLANAR_HINGE, qpos[self._hinge_angles])
        rates[:, self._balls] = qvel[self._ball_rates].unflatten(0, (3, -1))
        rates[PLANAR_HINGE, self._hinges] = qvel[self._hinge_rates]
        return quat, rates

    def servo_angles(self, qpos: Tensor) -> Tensor:
        """What the servos measure (rad), ``[n, action_dim]``: angles of hinges, rotation vectors of ball joints."""
        qpos = qpos.to(self.device, self.dtype).T
        angles = qpos.new_zeros(self.skeleton.num_velocities, qpos.shape[-1])
        quats = qpos[self._ball_quats].unflatten(0, (4, -1))
        angles[self._ball_rates] = rotations.to_rotvec(quats).flatten(0, 1)
        angles[self._hinge_rates] = qpos[self._hinge_angles]
        return angles[self.skeleton.num_root_velocities :].T

    def lowest_point(self, bodies: BodyStates) -> Tensor:
        """Height (m) of the lowest point of any body: ``[*batch]``."""
        at = self._corner_bodies
        height = bodies.pos[2, at] + rotations.rotate(bodies.quat[:, at], self._corners)[2]
        return (height - self._margins).amin(0)
