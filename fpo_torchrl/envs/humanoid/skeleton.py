"""The body that tracks motions: bodies, joints and gains, and a planar version of it.

Offsets, shapes, masses, gains and limits are those of DeepMimic's ``humanoid3d`` (xbpeng/DeepMimic at 1f915c52,
data/characters/humanoid3d.txt and data/controllers/humanoid3d_ctrl.txt, MIT licence; diameters there are radii here),
with its axes turned so that x is forward, y left and z up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Vector = tuple[float, float, float]
PLANAR_HINGE = 1
"""Hinges turn about y, the axis that points left."""


@dataclass(frozen=True)
class Shape:
    """A solid: a sphere (radius), an upright capsule (radius, half length) or a box (three half widths), in metres."""

    kind: Literal["sphere", "capsule", "box"]
    size: tuple[float, ...]
    centre: Vector

    @property
    def corners(self) -> list[Vector]:
        """Points whose distance to the ground, less :attr:`margin`, is that of the whole shape."""
        x, y, z = self.centre
        if self.kind == "sphere":
            return [self.centre]
        if self.kind == "capsule":
            return [(x, y, z + sign * self.size[1]) for sign in (-1, 1)]
        dx, dy, dz = self.size
        return [(x + i * dx, y + j * dy, z + k * dz) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]

    @property
    def margin(self) -> float:
        """What the shape reaches beyond its corners."""
        return 0.0 if self.kind == "box" else self.size[0]


@dataclass(frozen=True)
class Body:
    """A rigid body and the joint that holds it in its parent.

    Args:
        name: of the body, and of its joint.
        parent: name of the body it hangs on; None for the root.
        offset: of the joint in the parent, in metres.
        joint: ``"ball"`` (three degrees of freedom), ``"hinge"`` (one, about y), ``"fixed"`` or, for the root,
            ``"free"`` or ``"planar"`` (x, z and a turn about y).
        mass: in kilogrammes.
        shape: what it touches the world with.
        stiffness: kp of its servo in Nm/rad.
        damping: kd in Nms/rad.
        limit: largest angle (rad) of the joint.
        flexion: lowest and highest angle (rad) of a hinge that has a stop.
    """

    name: str
    parent: str | None
    offset: Vector
    joint: Literal["free", "planar", "ball", "hinge", "fixed"]
    mass: float
    shape: Shape
    stiffness: float = 0.0
    damping: float = 0.0
    limit: float = 0.0
    flexion: tuple[float, float] | None = None

    @property
    def target_scale(self) -> float:
        """The servo's target angle (rad) at action 1, as the reference has it: 1.2 times the limit, at most pi."""
        return min(1.2 * self.limit, math.pi)


_POSITIONS = {"free": 7, "planar": 3, "ball": 4, "hinge": 1, "fixed": 0}
_VELOCITIES = {"free": 6, "planar": 3, "ball": 3, "hinge": 1, "fixed": 0}
Columns = dict[str, slice]


@dataclass(frozen=True)
class Skeleton:
    """Bodies in MuJoCo's order, each after its parent and depth first; the first one is the root.

    Positions and velocities of all joints are laid out as MuJoCo lays out ``qpos`` and ``qvel``.
    """

    bodies: tuple[Body, ...]

    @cached_property
    def names(self) -> list[str]:
        """Names of the bodies."""
        return [body.name for body in self.bodies]

    @cached_property
    def parents(self) -> list[int]:
        """Index of each body's parent; -1 for the root."""
        return [-1 if body.parent is None else self.names.index(body.parent) for body in self.bodies]

    def index(self, names: Sequence[str]) -> list[int]:
        """Indices of the bodies of these names."""
        return [self.names.index(name) for name in names]

    @cached_property
    def position_columns(self) -> Columns:
        """By body, its joint's columns of ``qpos``."""
        return self._columns(_POSITIONS)

    @cached_property
    def velocity_columns(self) -> Columns:
        """By body, its joint's columns of ``qvel``."""
        return self._columns(_VELOCITIES)

    def _columns(self, widths: dict[str, int]) -> Columns:
        columns, begin = {}, 0
        for body in self.bodies:
            columns[body.name] = slice(begin, begin + widths[body.joint])
            begin += widths[body.joint]
        return columns

    @property
    def num_positions(self) -> int:
        """MuJoCo's ``nq``."""
        return self.position_columns[self.names[-1]].stop

    @property
    def num_velocities(self) -> int:
        """MuJoCo's ``nv``."""
        return self.velocity_columns[self.names[-1]].stop

    @property
    def num_root_velocities(self) -> int:
        """Degrees of freedom of the root, which come first and have no servo."""
        return _VELOCITIES[self.bodies[0].joint]

    @property
    def action_dim(self) -> int:
        """Servos: one for each degree of freedom but the root's."""
        return self.num_velocities - self.num_root_velocities

    @property
    def is_planar(self) -> bool:
        """Whether the body moves in the x-z plane only."""
        return self.bodies[0].joint == "planar"

    def per_servo(self, field: str) -> Tensor:
        """A field of :class:`Body`, once for each servo: float64 ``[action_dim]``."""
        values = [getattr(body, field) for body in self.bodies[1:] for _ in range(_VELOCITIES[body.joint])]
        return torch.tensor(values, dtype=torch.float64)

    def planar(self) -> Skeleton:
        """The same bodies in the x-z plane: hinges in the place of ball joints, a root without sideways motion."""
        instead = {"free": "planar", "ball": "hinge"}
        return Skeleton(tuple(replace(body, joint=instead.get(body.joint, body.joint)) for body in self.bodies))


def _side(side: str, sign: int) -> tuple[list[Body], list[Body]]:
    """Arm and leg of one side; left is y > 0, ``sign`` 1."""
    arm, leg = f"{side}_upper_arm", f"{side}_thigh"
    upper = Shape("capsule", (0.045, 0.09), (0, 0, -0.14))
    lower = Shape("capsule", (0.04, 0.0675), (0, 0, -0.12))
    thigh = Shape("capsule", (0.055, 0.15), (0, 0, -0.21))
    shin = Shape("capsule", (0.05, 0.155), (0, 0, -0.2))
    foot = Shape("box", (0.0885, 0.045, 0.0275), (0.045, 0, -0.0225))
    arms = [
        Body(arm, "torso", (-0.02405, sign * 0.18311, 0.2435), "ball", 1.5, upper, 400, 40, 3.14),
        Body(f"{side}_lower_arm", arm, (0, 0, -0.274788), "hinge", 1.0, lower, 300, 30, 3.14, (-3.14, 0)),
        Body(f"{side}_hand", f"{side}_lower_arm", (0, 0, -0.258947), "fixed", 0.5, Shape("sphere", (0.04,), (0, 0, 0))),
    ]
    legs = [
        Body(leg, "pelvis", (0, sign * 0.084887, 0), "ball", 4.5, thigh, 500, 50, 2.57),
        Body(f"{side}_shin", leg, (0, 0, -0.421546), "hinge", 3.0, shin, 500, 50, 3.14, (0, 3.14)),
        Body(f"{side}_foot", f"{side}_shin", (0, 0, -0.40987), "ball", 1.0, foot, 400, 40, 1.57),
    ]
    return arms, legs


def _humanoid() -> Skeleton:
    pelvis = Body("pelvis", None, (0, 0, 0), "free", 6.0, Shape("sphere", (0.09,), (0, 0, 0.07)))
    chest, skull = Shape("sphere", (0.11,), (0, 0, 0.12)), Shape("sphere", (0.1025,), (0, 0, 0.175))
    torso = Body("torso", "pelvis", (0, 0, 0.236151), "ball", 14.0, chest, 1000, 100, 1.2)
    head = Body("head", "torso", (0, 0, 0.223894), "ball", 2.0, skull, 100, 10, 1.0)
    (right_arm, right_leg), (left_arm, left_leg) = _side("right", -1), _side("left", 1)
    return Skeleton((pelvis, torso, head, *right_arm, *left_arm, *right_leg, *left_leg))


HUMANOID = _humanoid()
"""15 bodies, 45 kg, 28 servos."""
SKELETONS = {"full": HUMANOID, "planar": HUMANOID.planar()}
"""The bodies by the last part of their tasks' names."""
