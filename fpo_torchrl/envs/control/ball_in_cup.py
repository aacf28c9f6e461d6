"""BallInCup: swing a ball on a string into the cup it hangs from."""

from __future__ import annotations

from itertools import pairwise

import mujoco
import torch
from mujoco import mjtGeom, mjtJoint, mjtObj, mjtSensor
from torch import Tensor

from fpo_torchrl.envs.control.scene import add_lamp, add_motor, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, zeros
from fpo_torchrl.envs.physics import PhysicsState

_BALL_RADIUS = 0.025  # m
_TARGET_HALF_SIZE = 0.05  # m, of the square inside the cup
# The cup's profile in the x-z plane (m): its wall, from the left rim round to the right one.
_CUP = [(-0.05, 0.0), (-0.05, -0.075), (-0.025, -0.1), (0.025, -0.1), (0.05, -0.075), (0.05, 0.0)]


def build_spec() -> mujoco.MjSpec:
    """A cup on two sprung slides and a ball on two free ones, tied together by a 0.3 m string."""
    spec = new_spec("ball in cup", timestep=0.002, iterations=1, ls_iterations=4)
    world = spec.worldbody
    add_lamp(world, height=2)
    world.add_camera(name="view", pos=[0, -1.2, 0.5], xyaxes=[1, 0, 0, 0, 0.12, 1])
    world.add_geom(name="ground", type=mjtGeom.mjGEOM_PLANE, size=[0.6, 0.2, 10], material="fine_floor")

    cup = world.add_body(name="cup", pos=[0, 0, 0.6])
    for name, axis in (("cup_x", [1, 0, 0]), ("cup_z", [0, 0, 1])):
        cup.add_joint(name=name, type=mjtJoint.mjJNT_SLIDE, axis=axis, damping=3, stiffness=20)
    for i, ((x0, z0), (x1, z1)) in enumerate(pairwise(_CUP)):
        cup.add_geom(
            name=f"cup_part_{i}",
            type=mjtGeom.mjGEOM_CAPSULE,
            fromto=[x0, 0, z0, x1, 0, z1],
            size=[0.008, 0, 0],
            material="effector",
        )
    cup.add_site(name="cup", pos=[0, 0, -0.108])
    cup.add_site(
        name="target",
        type=mjtGeom.mjGEOM_BOX,
        pos=[0, 0, -0.05],
        size=[_TARGET_HALF_SIZE, 0.006, _TARGET_HALF_SIZE],
        group=4,
    )

    ball = world.add_body(name="ball", pos=[0, 0, 0.2])
    for name, axis in (("ball_x", [1, 0, 0]), ("ball_z", [0, 0, 1])):
        ball.add_joint(name=name, type=mjtJoint.mjJNT_SLIDE, axis=axis)
    ball.add_geom(name="ball", type=mjtGeom.mjGEOM_SPHERE, size=[_BALL_RADIUS, 0, 0], material="body")
    ball.add_site(name="ball")

    string = spec.add_tendon(name="string", range=[0, 0.3], material="decoration")
    string.wrap_site("ball")
    string.wrap_site("cup")
    for name in ("x", "z"):
        add_motor(spec, name, joint=f"cup_{name}", gear=5)
    spec.add_sensor(
        name="ball_from_target",
        type=mjtSensor.mjSENS_FRAMEPOS,
        objtype=mjtObj.mjOBJ_XBODY,
        objname="ball",
        reftype=mjtObj.mjOBJ_SITE,
        refname="target",
    )
    return spec


def reset(generator: torch.Generator, count: int) -> Start:
    """Always the same state, as in Playground: all at rest, the ball hanging below the cup."""
    return Start(zeros(generator, count, 4), zeros(generator, count, 4), zeros(generator, count, 0, 3))


def observe(state: PhysicsState) -> Tensor:
    """Positions (m) and velocities (m/s) of cup and ball, x and z: ``[num_envs, 8]``."""
    return torch.cat([state.qpos, state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor) -> Tensor:
    """1 while the whole ball is within the cup's square, else 0: ``[num_envs]``."""
    offset = state.sensor("ball_from_target")[:, ::2].abs()
    return (offset < _TARGET_HALF_SIZE - _BALL_RADIUS).all(-1).to(offset.dtype)


BALL_IN_CUP = ControlTask("BallInCup", 0.02, build_spec, reset, observe, reward)
