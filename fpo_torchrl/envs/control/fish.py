"""FishSwim: swim to a target, mouth first and upright."""

from __future__ import annotations

import mujoco
import torch
from mujoco import mjtDisableBit, mjtGeom, mjtJoint, mjtObj, mjtSensor, mjtTrn
from torch import Tensor

from fpo_torchrl.envs.control.rewards import tolerance
from fpo_torchrl.envs.control.scene import add_lamp, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState

_MOUTH_RADIUS, _TARGET_RADIUS = 0.005, 0.04  # m
_REACH = _MOUTH_RADIUS + _TARGET_RADIUS
_TARGET_LOW, _TARGET_HIGH = [-0.4, -0.4, 0.1], [0.4, 0.4, 0.3]  # m
# Limits of the joints, in the numbers of Playground's model, where they are switched off.
_LIMITS = {
    "limited": mujoco.mjtLimited.mjLIMITED_FALSE,
    "solref_limit": [0.1, 1],
    "solimp_limit": [0, 0.8, 0.1, 0.5, 2],
}
_WIDE, _NARROW = [-60, 60], [-30, 30]
_NUM_JOINTS = 7
_ROOT_SIZE = 7  # positions of the free joint that come before those of the others
# Position servos: name, joint or tendon, gain (N m/rad).
_SERVOS = (
    ("tail", "tail1", 5e-4),
    ("tail_twist", "tail_twist", 1e-4),
    ("fins_flap", "fins_flap", 3e-4),
    ("finleft_pitch", "finleft_pitch", 1e-4),
    ("finright_pitch", "finright_pitch", 1e-4),
)


def build_spec() -> mujoco.MjSpec:
    """A fish with a tail of two parts and two fins on position servos, in a fluid; no gravity, nothing collides."""
    spec = new_spec("fish", timestep=0.002, iterations=2, ls_iterations=6)
    spec.option.density = 5000
    for bit in (mjtDisableBit.mjDSBL_GRAVITY, mjtDisableBit.mjDSBL_CONSTRAINT, mjtDisableBit.mjDSBL_CONTACT):
        spec.option.disableflags |= bit
    world = spec.worldbody
    add_lamp(world, height=1.5)
    world.add_camera(name="view", pos=[0, -0.95, 0.95], xyaxes=[1, 0, 0, 0, 0.86, 0.94], fovy=44)
    # The fish starts in the middle of the ground and swims through it, so one can see through it.
    world.add_geom(
        name="ground",
        type=mjtGeom.mjGEOM_PLANE,
        size=[0.5, 0.5, 0.1],
        material="fine_floor",
        rgba=[1, 1, 1, 0.3],
    )
    target = world.add_body(name="target", pos=[0, 0.4, 0.1], mocap=True)
    target.add_geom(name="target", type=mjtGeom.mjGEOM_SPHERE, size=[_TARGET_RADIUS, 0, 0], material="target")
    _add_tail_and_fins(_add_torso(world))

    # The fins flap against each other; together they are held by a weak spring.
    for name, left, stiffness in (("fins_flap", -0.5, 0), ("fins_sym", 0.5, 1e-4)):
        tendon = spec.add_tendon(name=name, stiffness=[stiffness, 0, 0])
        tendon.wrap_joint("finleft_roll", left)
        tendon.wrap_joint("finright_roll", 0.5)
    for name, target_name, gain in _SERVOS:
        kind = mjtTrn.mjTRN_TENDON if target_name == "fins_flap" else mjtTrn.mjTRN_JOINT
        servo = spec.add_actuator(name=name, trntype=kind, target=target_name, ctrlrange=[-1, 1])
        servo.set_to_position(kp=gain)
    for name, kind in (("velocimeter", mjtSensor.mjSENS_VELOCIMETER), ("gyro", mjtSensor.mjSENS_GYRO)):
        spec.add_sensor(name=name, type=kind, objtype=mjtObj.mjOBJ_SITE, objname="torso")
    spec.add_sensor(name="torso_up", type=mjtSensor.mjSENS_FRAMEZAXIS, objtype=mjtObj.mjOBJ_XBODY, objname="torso")
    spec.add_sensor(
        name="target_from_mouth",
        type=mjtSensor.mjSENS_FRAMEPOS,
        objtype=mjtObj.mjOBJ_GEOM,
        objname="target",
        reftype=mjtObj.mjOBJ_GEOM,
        refname="mouth",
    )
    return spec


def _add_torso(world: mujoco.MjsBody) -> mujoco.MjsBody:
    """The body, drawn as a flat ellipsoid, whose mass is that of a sphere inside it."""
    torso = world.add_body(name="torso", pos=[0, 0, 0.1])
    torso.add_joint(name="root", type=mjtJoint.mjJNT_FREE, range=_WIDE, **_LIMITS)
    torso.add_site(name="torso", size=[0.01, 0.005, 0.005], rgba=[0, 0, 0, 0])
    ellipsoid = {"type": mjtGeom.mjGEOM_ELLIPSOID, "mass": 0}
    lip = {"type": mjtGeom.mjGEOM_CAPSULE, "material": "effector", "mass": 0}
    torso.add_geom(
        name="eye",
        pos=[0, 0.055, 0.015],
        size=[0.008, 0.012, 0.008],
        euler=[-10, 0, 0],
        material="decoration",
        **ellipsoid,
    )
    torso.add_geom(name="mouth", fromto=[0, 0.079, 0, 0, 0.07, 0], size=[_MOUTH_RADIUS, 0, 0], **lip)
    torso.add_geom(name="lower_mouth", fromto=[0, 0.079, -0.004, 0, 0.07, -0.003], size=[0.0045, 0, 0], **lip)
    torso.add_geom(name="torso", size=[0.01, 0.08, 0.04], material="body", **ellipsoid)
    torso.add_geom(name="back_fin", pos=[0, -0.03, 0.03], size=[0.001, 0.03, 0.015], material="effector", **ellipsoid)
    torso.add_geom(name="torso_massive", type=mjtGeom.mjGEOM_SPHERE, size=[0.03, 0, 0], group=4)
    return torso


def _add_tail_and_fins(torso: mujoco.MjsBody) -> None:
    """Thin plates on hinges; the fluid pushes on them."""
    hinge = {"type": mjtJoint.mjJNT_HINGE, "damping": 2e-5, **_LIMITS}
    plate = {"type": mjtGeom.mjGEOM_ELLIPSOID, "material": "body"}

    base = torso.add_body(name="tail1", pos=[0, -0.09, 0])
    base.add_joint(name="tail1", axis=[0, 0, 1], pos=[0, 0.01, 0], range=_WIDE, **hinge)
    base.add_joint(name="tail_twist", axis=[0, 1, 0], pos=[0, 0.01, 0], range=_NARROW, **hinge)
    base.add_geom(name="tail1", size=[0.001, 0.008, 0.016], **plate)
    end = base.add_body(name="tail2", pos=[0, -0.028, 0])
    end.add_joint(name="tail2", axis=[0, 0, 1], pos=[0, 0.02, 0], range=_WIDE, stiffness=8e-5, **hinge)
    end.add_geom(name="tail2", size=[0.001, 0.018, 0.035], **plate)

    for name, side in (("finright", 1), ("finleft", -1)):
        fin = torso.add_body(name=name, pos=[0.01 * side, 0, 0])
        fin.add_joint(name=f"{name}_roll", axis=[0, 1, 0], range=_WIDE, **hinge)
        fin.add_joint(name=f"{name}_pitch", axis=[1, 0, 0], pos=[0, 0.005, 0], range=_WIDE, **hinge)
        fin.add_geom(name=name, pos=[0.015 * side, 0, 0], size=[0.02, 0.015, 0.001], **plate)


def reset(generator: torch.Generator, count: int) -> Start:
    """The fish at rest at the origin, turned any way, joints within 0.2 rad; the target within 0.4 m, 0.1 to 0.3 m up.

    The first observation shows this target. (Playground's shows the target of the model file,
    because it moves the target only after it has computed the positions.)
    """
    turn = torch.randn(count, 4, dtype=torch.float64, device=generator.device, generator=generator)
    turn = turn / torch.linalg.vector_norm(turn, dim=-1, keepdim=True)
    joints = uniform(generator, count, [-0.2] * _NUM_JOINTS, [0.2] * _NUM_JOINTS)
    target = uniform(generator, count, _TARGET_LOW, _TARGET_HIGH)
    qpos = torch.cat([zeros(generator, count, 3), turn, joints], dim=-1)
    return Start(qpos, zeros(generator, count, 6 + _NUM_JOINTS), target.unsqueeze(1))


def observe(state: PhysicsState) -> Tensor:
    """Upright (-1 to 1), joint angles, target in the mouth's frame, velocities (m, rad, s): ``[num_envs, 24]``."""
    upright = state.sensor("torso_up")[:, 2:]
    return torch.cat([upright, state.qpos[:, _ROOT_SIZE:], state.sensor("target_from_mouth"), state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor) -> Tensor:
    """Up to 7/8 for the mouth at the target, falling off with their radii, 1/8 for being upright: ``[num_envs]``."""
    distance = torch.linalg.vector_norm(state.sensor("target_from_mouth"), dim=-1)
    at_target = tolerance(distance, upper=_REACH, margin=2 * _REACH)
    upright = (state.sensor("torso_up")[:, 2] + 1) / 2
    return (7 * at_target + upright) / 8


FISH_SWIM = ControlTask("FishSwim", 0.04, build_spec, reset, observe, reward)
