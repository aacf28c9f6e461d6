"""PointMass: bring a ball on a table to rest at the middle by pushing it along two axes."""

from __future__ import annotations

import math

import mujoco
import torch
from mujoco import mjtGeom, mjtJoint, mjtObj, mjtSensor, mjtTrn
from torch import Tensor

from fpo_torchrl.envs.control.rewards import quadratic, tolerance
from fpo_torchrl.envs.control.scene import add_walls, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState

_HALF_WIDTH = 0.29  # m, how far the ball may go from the middle
_TARGET_RADIUS = 0.015  # m


def build_spec() -> mujoco.MjSpec:
    """A 0.3 kg ball on two damped slides, each pulled by one motor through a tendon; nothing collides."""
    spec = new_spec("point mass", timestep=0.02, iterations=1, ls_iterations=4)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    world = spec.worldbody
    add_walls(spec)

    ball = world.add_body(name="pointmass", pos=[0, 0, 0.01])
    for name, axis in (("root_x", [1, 0, 0]), ("root_y", [0, 1, 0])):
        ball.add_joint(name=name, type=mjtJoint.mjJNT_SLIDE, axis=axis, range=[-_HALF_WIDTH, _HALF_WIDTH], damping=1)
    ball.add_geom(name="pointmass", type=mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], mass=0.3, material="body")
    world.add_geom(
        name="target",
        type=mjtGeom.mjGEOM_SPHERE,
        pos=[0, 0, 0.01],
        size=[_TARGET_RADIUS, 0, 0],
        material="target",
    )

    for name, x, y in (("t1", 1, 0), ("t2", 0, 1)):
        tendon = spec.add_tendon(name=name)
        tendon.wrap_joint("root_x", x)
        tendon.wrap_joint("root_y", y)
        spec.add_actuator(
            name=name, trntype=mjtTrn.mjTRN_TENDON, target=name, gear=[0.1, 0, 0, 0, 0, 0], ctrlrange=[-1, 1]
        )
    spec.add_sensor(
        name="from_target",
        type=mjtSensor.mjSENS_FRAMEPOS,
        objtype=mjtObj.mjOBJ_GEOM,
        objname="pointmass",
        reftype=mjtObj.mjOBJ_GEOM,
        refname="target",
    )
    return spec


def reset(generator: torch.Generator, count: int) -> Start:
    """The ball at rest, anywhere on the table."""
    qpos = uniform(generator, count, [-_HALF_WIDTH] * 2, [_HALF_WIDTH] * 2)
    return Start(qpos, zeros(generator, count, 2), zeros(generator, count, 0, 3))


def observe(state: PhysicsState) -> Tensor:
    """Position (m) and velocity (m/s) of the ball: ``[num_envs, 4]``."""
    return torch.cat([state.qpos, state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor) -> Tensor:
    """1 inside the target, falling off with its radius; up to a fifth less for large actions: ``[num_envs]``."""
    distance = torch.linalg.vector_norm(state.sensor("from_target"), dim=-1)
    near = tolerance(distance, lower=-math.inf, upper=_TARGET_RADIUS, margin=_TARGET_RADIUS)
    gentle = (tolerance(action, margin=1, shape=quadratic, value_at_margin=0).mean(-1) + 4) / 5
    return near * gentle


POINT_MASS = ControlTask("PointMass", 0.02, build_spec, reset, observe, reward)
