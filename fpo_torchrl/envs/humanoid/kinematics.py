"""Where the bodies of a skeleton are and how they move, from joint positions and velocities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        self._parents = self._index([max(parent, 0) for parent in skeleton.parents])
        self._offsets = self._vectors([(0, 0, 0), *(body.offset for body in skeleton.bodies[1:])])
        self._ancestors, chains = self._tree()
        self._choose_rows(chains)
        self._chains = chains.to(self.device).expand(3, -1, -1)

        solids = [(number, body.shape) for number, body in enumerate(skeleton.bodies)]
        self._corner_bodies = self._index([number for number, shape in solids for _ in shape.corners])
        self._corners = self._vectors([corner for _, shape in solids for corner in shape.corners])
        self._margins = self._tensor([shape.margin for _, shape in solids for _ in shape.corners]).unsqueeze(-1)

    def _index(self, values: Iterable[int]) -> Tensor:
        return torch.tensor([*values], dtype=torch.int64, device=self.device)

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _vectors(self, values: list) -> Tensor:
        """A constant vector for each body of some: ``[3, n, 1]``."""
        return self._tensor(values).T.unsqueeze(-1).contiguous()

    def _tree(self) -> tuple[list[Tensor], Tensor]:
        """Every body's ancestor 1, 2, 4 and so on steps above, and a matrix with a 1 for each that a body hangs on.

        A body hangs on itself too. Above the root, and above itself, is one more body, which does not move.
        """
        nowhere = len(self.skeleton.bodies)
        above = [*(parent if parent >= 0 else nowhere for parent in self.skeleton.parents), nowhere]
        chains, ancestors = torch.eye(nowhere, dtype=self.dtype), []
        for number, parent in enumerate(above[1:-1], start=1):
            chains[number] += chains[parent]
        while any(ancestor != nowhere for ancestor in above):
            ancestors.append(self._index(above))
            above = [above[ancestor] for ancestor in above]
        return ancestors, chains

    def _choose_rows(self, chains: Tensor) -> None:
        """Find the rows of rotations, rates and servo angles in what is lined up for them.

        For rotations, and the root's position, that is ``qpos`` and then cosines and sines of half the hinges' angles;
        for rates, and the root's velocity, ``qvel``; for servo angles ``qpos`` and the balls' rotation vectors.
        """
        skeleton, slides = self.skeleton, {"planar": 2, "free": 3}  # columns of a joint before its rotation
        places, speeds = (
            {body.name: columns[body.name].start + slides.get(body.joint, 0) for body in skeleton.bodies}
            for columns in (skeleton.position_columns, skeleton.velocity_columns)
        )
        balls = [body.name for body in skeleton.bodies if body.joint == "ball"]
        half_turns = torch.zeros(len(chains), skeleton.num_positions, dtype=self.dtype)
        quats, rates, servos = [], [], []
        for number, body in enumerate(skeleton.bodies):
            place, rate = places[body.name], speeds[body.name]
            if body.joint in ("ball", "free"):
                quats.append(range(place, place + 4))
                rates.append(range(rate, rate + 3))
                servos.append([(axis, body.name) for axis in range(3)])
                continue
            if body.joint == "fixed":
                rate = "zero"
            else:
                half_turns[number, place] = 0.5
                servos.append([place])
            sine = ("sin", number)
            quats.append([("cos", number), *(sine if axis == PLANAR_HINGE else "zero" for axis in range(3))])
            rates.append([rate if axis == PLANAR_HINGE else "zero" for axis in range(3)])
        if all(body.joint in ("planar", "hinge", "fixed") for body in skeleton.bodies):  # turns about one axis add up
            half_turns, self._ancestors = chains @ half_turns, []
        else:
            quats.append(["one", "zero", "zero", "zero"])  # of what the root hangs on
        # cos(x) is sin(x + pi / 2), and the last angle of each half is 0, for the constants 1 and 0.
        nothing = torch.zeros_like(half_turns[:1])
        self._half_turns = torch.cat([half_turns, nothing] * 2).to(self.device)
        self._phases = self._tensor([[0.5 * torch.pi], [0.0]]).repeat_interleave(len(chains) + 1, dim=0)
        positions, bodies = range(skeleton.num_positions), range(len(chains))
        circles = [*(("cos", number) for number in bodies), "one", *(("sin", number) for number in bodies), "zero"]
        root = [0, "zero", 1] if skeleton.is_planar else [0, 1, 2]
        self._quat_rows = self._find([*_across(quats), *root], [*positions, *circles])
        rate_rows = self._find([*_across(rates), *root], [*range(skeleton.num_velocities), "zero"])
        self._pick_rates = torch.eye(skeleton.num_velocities + 1, dtype=self.dtype, device=self.device)[rate_rows, :-1]
        self._balls = self._index(places[name] + component for component in range(4) for name in balls)
        rotvecs = [(axis, name) for axis in range(3) for name in balls]
        self._servo_rows = self._find([angle for servo in servos[1:] for angle in servo], [*positions, *rotvecs])

    def _find(self, wanted: Iterable[Any], lined_up: list[Any]) -> Tensor:
        return self._index(lined_up.index(it) for it in wanted)

    def __call__(self, qpos: Tensor, qvel: Tensor) -> BodyStates:
        """All bodies for ``qpos`` ``[n, nq]`` and ``qvel`` ``[n, nv]``; the batch is ``[n]``."""
        quat, pos, rates, vel = self._joints(qpos, qvel)
        for ancestors in self._ancestors:  # after each, of twice as many bodies of the chain
            quat = rotations.multiply(quat.index_select(1, ancestors), quat)
        quat = quat[:, : len(self._parents)]
        turn = rotations.matrix(quat)
        angvel = torch.bmm(self._chains, rotations.apply(turn, rates))
        reach = rotations.apply(turn.index_select(2, self._parents), self._offsets)
        sway = rotations.cross(angvel.index_select(1, self._parents), reach)
        pos, vel = (torch.baddbmm(root, self._chains, way) for root, way in ((pos, reach), (vel, sway)))
        return BodyStates(pos, quat, vel, angvel)

    def _joints(self, qpos: Tensor, qvel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotation of each body in its parent, root's position, rate of each body in its own axes, root's velocity.

        Shapes are ``[4, num_bodies, n]``, ``[3, 1, n]``, ``[3, num_bodies, n]`` and ``[3, 1, n]``. If all joints turn
        about one axis, rotations are those in the world; else one more, of what the root hangs on, comes last.
        """
        qpos, qvel = (it.to(self.device, self.dtype).T for it in (qpos, qvel))
        circles = torch.addmm(self._phases, self._half_turns, qpos).sin_()
        found = torch.cat([qpos, circles]).index_select(0, self._quat_rows)
        quat, pos = found[:-3].unflatten(0, (4, -1)), found[-3:].unsqueeze(1)
        found = self._pick_rates @ qvel
        return quat, pos, found[:-3].unflatten(0, (3, -1)), found[-3:].unsqueeze(1)

    def servo_angles(self, qpos: Tensor) -> Tensor:
        """What the servos measure (rad), ``[n, action_dim]``: angles of hinges, rotation vectors of ball joints."""
        found = qpos = qpos.to(self.device, self.dtype).T
        if len(self._balls):
            balls = rotations.to_rotvec(qpos.index_select(0, self._balls).unflatten(0, (4, -1)))
            found = torch.cat([qpos, balls.flatten(0, 1)])
        return found.index_select(0, self._servo_rows).T

    def lowest_point(self, bodies: BodyStates) -> Tensor:
        """Height (m) of the lowest point of any body: ``[*batch]``."""
        at = self._corner_bodies
        height = bodies.pos[2, at] + rotations.rotate(bodies.quat[:, at], self._corners)[2]
        return (height - self._margins).amin(0)


def _across(rows: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """The first entry of each row, then the second of each, and so on."""
    return (number for column in zip(*rows, strict=True) for number in column)
