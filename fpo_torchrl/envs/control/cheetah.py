"""CheetahRun: a planar two-legged runner is to reach 10 m/s."""

from __future__ import annotations

import math

import mujoco
import torch
from mujoco import mjtCamLight, mjtGeom, mjtJoint, mjtObj, mjtSensor
from torch import Tensor

from fpo_torchrl.envs.control.rewards import linear, tolerance
from fpo_torchrl.envs.control.scene import add_lamp, add_motor, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState

_RUN_SPEED = 10.0  # m/s

# Each leg from thigh to foot: name, position in its parent (m, x and z), capsule centre (m, x and z),
# capsule angle about y (degrees), capsule half-length (m), joint range (degrees), stiffness, damping, gear.
_LEGS = (
    (
        ("bthigh", (-0.5, 0), (0.1, -0.13), -218, 0.145, (-30, 60), 240, 6, 120),
        ("bshin", (0.16, -0.25), (-0.14, -0.07), -116, 0.15, (-50, 50), 180, 4.5, 90),
        ("bfoot", (-0.28, -0.14), (0.03, -0.097), -15, 0.094, (-230, 50), 120, 3, 60),
    ),
    (
        ("fthigh", (0.5, 0), (-0.07, -0.12), 30, 0.133, (-57, 0.4), 180, 4.5, 90),
        ("fshin", (-0.14, -0.24), (0.065, -0.09), -34, 0.106, (-70, 50), 120, 3, 60),
        ("ffoot", (0.13, -0.18), (0.045, -0.07), -34, 0.07, (-28, 28), 60, 1.5, 30),
    ),
)
_JOINTS = [joint for leg in _LEGS for joint in leg]


def build_spec() -> mujoco.MjSpec:
    """A 14 kg runner in the x-z plane: three free root joints, six sprung joints with motors."""
    spec = new_spec("cheetah", timestep=0.01, iterations=4, ls_iterations=8)
    spec.compiler.settotalmass = 14
    spec.stat.center, spec.stat.extent = [0, 0, 0.7], 2
    # How many contacts the MJX back end keeps; the others keep them all.
    spec.add_numeric(name="max_contact_points", data=[6], size=1)
    spec.add_numeric(name="max_geom_pairs", data=[4], size=1)
    skin = {"condim": 3, "friction": [0.4, 0.1, 0.1], "material": "body"}
    spec.worldbody.add_geom(
        name="ground", type=mjtGeom.mjGEOM_PLANE, pos=[98, 0, 0], size=[100, 0.8, 0.5], material="floor"
    )

    torso = spec.worldbody.add_body(name="torso", pos=[0, 0, 0.7])
    add_lamp(torso, height=3, mode=mjtCamLight.mjCAMLIGHT_TRACKCOM)
    torso.add_camera(
        name="view", pos=[0, -2.8, 0.35], xyaxes=[1, 0, 0, 0, 0.15, 1], mode=mjtCamLight.mjCAMLIGHT_TRACKCOM
    )
    slide, hinge = mjtJoint.mjJNT_SLIDE, mjtJoint.mjJNT_HINGE
    for name, kind, axis in (("rootx", slide, [1, 0, 0]), ("rootz", slide, [0, 0, 1]), ("rooty", hinge, [0, 1, 0])):
        torso.add_joint(name=name, type=kind, axis=axis)
    torso.add_geom(
        name="torso", type=mjtGeom.mjGEOM_CAPSULE, fromto=[-0.5, 0, 0, 0.5, 0, 0], size=[0.046, 0, 0], **skin
    )
    torso.add_geom(
        name="head", type=mjtGeom.mjGEOM_CAPSULE, pos=[0.6, 0, 0.1], euler=[0, 50, 0], size=[0.046, 0.15, 0], **skin
    )
    for leg in _LEGS:
        parent = torso
        for name, place, centre, angle, half_length, limits, stiffness, damping, _ in leg:
            parent = parent.add_body(name=name, pos=[place[0], 0, place[1]])
            parent.add_joint(
                name=name,
                type=hinge,
                axis=[0, 1, 0],
                range=limits,
                stiffness=stiffness,
                damping=damping,
                armature=0.1,
            )
            parent.add_geom(
                name=name,
                type=mjtGeom.mjGEOM_CAPSULE,
                pos=[centre[0], 0, centre[1]],
                euler=[0, angle, 0],
                size=[0.046, half_length, 0],
                **skin,
            )

    for name, *_, gear in _JOINTS:
        add_motor(spec, name, joint=name, gear=gear)
    spec.add_sensor(
        name="torso_subtreelinvel", type=mjtSensor.mjSENS_SUBTREELINVEL, objtype=mjtObj.mjOBJ_BODY, objname="torso"
    )
    return spec


def reset(generator: torch.Generator, count: int) -> Start:
    """The joints anywhere in their ranges; the runner then falls to the ground and settles for 2 s."""
    limits = torch.tensor([joint[5] for joint in _JOINTS], dtype=torch.float64).deg2rad()
    joints = uniform(generator, count, limits[:, 0], limits[:, 1])
    qpos = torch.cat([zeros(generator, count, 3), joints], dim=-1)
    return Start(qpos, zeros(generator, count, 9), zeros(generator, count, 0, 3))


def observe(state: PhysicsState) -> Tensor:
    """All positions but the distance run, then all velocities (m, rad, s): ``[num_envs, 17]``."""
    return torch.cat([state.qpos[:, 1:], state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor) -> Tensor:
    """Forward speed of the centre of mass over 10 m/s, between 0 and 1: ``[num_envs]``."""
    speed = state.sensor("torso_subtreelinvel")[:, 0]
    return tolerance(speed, lower=_RUN_SPEED, upper=math.inf, margin=_RUN_SPEED, shape=linear, value_at_margin=0)


CHEETAH_RUN = ControlTask("CheetahRun", 0.01, build_spec, reset, observe, reward, settle_steps=200)
