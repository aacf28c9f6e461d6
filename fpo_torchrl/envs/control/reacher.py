"""ReacherEasy and ReacherHard: touch a target on a table with the fingertip of a two-link arm."""

from __future__ import annotations

import math
from functools import partial

import mujoco
import torch
from mujoco import mjtGeom, mjtJoint, mjtObj, mjtSensor
from torch import Tensor

from fpo_torchrl.envs.control.rewards import tolerance
from fpo_torchrl.envs.control.scene import add_motor, add_walls, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState

_FINGER_RADIUS = 0.01  # m
_WRIST_RANGE_DEG = 160
_HEIGHT = 0.01  # m, of arm and target above the table


def build_spec(target_radius: float) -> mujoco.MjSpec:
    """Two links of 0.12 m with motors in shoulder and wrist; the target is a mocap body; nothing collides."""
    spec = new_spec("reacher", timestep=0.005, iterations=1, ls_iterations=6)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    world = spec.worldbody
    add_walls(spec)
    spec.geom("ground").size = [0.3, 0.3, 10]

    arm = world.add_body(name="arm", pos=[0, 0, _HEIGHT])
    hand = arm.add_body(name="hand", pos=[0.12, 0, 0])
    finger = hand.add_body(name="finger", pos=[0.12, 0, 0])
    arm.add_joint(name="shoulder", type=mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], damping=0.01)
    hand.add_joint(
        name="wrist",
        type=mjtJoint.mjJNT_HINGE,
        axis=[0, 0, 1],
        range=[-_WRIST_RANGE_DEG, _WRIST_RANGE_DEG],
        damping=0.01,
    )
    for body, name, length in ((arm, "arm", 0.12), (hand, "hand", 0.1)):
        body.add_geom(
            name=name,
            type=mjtGeom.mjGEOM_CAPSULE,
            fromto=[0, 0, 0, length, 0, 0],
            size=[0.01, 0, 0],
            material="body",
        )
    finger.add_geom(name="finger", type=mjtGeom.mjGEOM_SPHERE, size=[_FINGER_RADIUS, 0, 0], material="effector")
    target = world.add_body(name="target", pos=[0, 0, _HEIGHT], mocap=True)
    target.add_geom(name="target", type=mjtGeom.mjGEOM_SPHERE, size=[target_radius, 0, 0], material="target")

    for joint in ("shoulder", "wrist"):
        add_motor(spec, joint, joint=joint, gear=0.05)
    # The target never turns, so its frame is the world's, moved.
    spec.add_sensor(
        name="finger_from_target",
        type=mjtSensor.mjSENS_FRAMEPOS,
        objtype=mjtObj.mjOBJ_GEOM,
        objname="finger",
        reftype=mjtObj.mjOBJ_GEOM,
        refname="target",
    )
    return spec


def reset(generator: torch.Generator, count: int) -> Start:
    """The arm at rest at any angles, the target 0.05 to 0.2 m from the shoulder in any direction.

    The first observation shows this target. (Playground's shows the target of the model file,
    at the shoulder, because it moves the target only after it has computed the positions.)
    """
    wrist = math.radians(_WRIST_RANGE_DEG)
    qpos = uniform(generator, count, [-math.pi, -wrist], [math.pi, wrist])
    angle, radius = uniform(generator, count, [0, 0.05], [2 * math.pi, 0.2]).unbind(-1)
    target = torch.stack([radius * angle.sin(), radius * angle.cos(), torch.full_like(angle, _HEIGHT)], dim=-1)
    return Start(qpos, zeros(generator, count, 2), target.unsqueeze(1))


def observe(state: PhysicsState) -> Tensor:
    """Joint angles (rad), vector from finger to target (m), joint velocities (rad/s): ``[num_envs, 6]``."""
    return torch.cat([state.qpos, -state.sensor("finger_from_target")[:, :2], state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor, *, target_radius: float) -> Tensor:
    """1 while finger and target overlap, else 0: ``[num_envs]``."""
    distance = torch.linalg.vector_norm(state.sensor("finger_from_target")[:, :2], dim=-1)
    return tolerance(distance, upper=target_radius + _FINGER_RADIUS)


def reacher(name: str, target_radius: float) -> ControlTask:
    """The reacher task with a target of ``target_radius`` metres."""
    return ControlTask(
        name, 0.02, partial(build_spec, target_radius), reset, observe, partial(reward, target_radius=target_radius)
    )


REACHER_EASY = reacher("ReacherEasy", target_radius=0.05)
REACHER_HARD = reacher("ReacherHard", target_radius=0.015)
