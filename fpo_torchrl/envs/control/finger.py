"""FingerSpin and FingerTurn: push a body on a hinge with a two-link finger, to spin it or to turn it to a target."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import mujoco
import torch
from mujoco import mjtDisableBit, mjtGeom, mjtJoint, mjtObj, mjtSensor
from torch import Tensor

from fpo_torchrl.envs.control.scene import add_lamp, add_motor, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState

_SPIN_SPEED = 15.0  # rad/s
_FINGER_RANGE_DEG = 110
_HINGE = (0.2, 0.4)  # m, x and z of the spinner's hinge
_TIP_DISTANCE = 0.13  # m, of the spinner's tip and of the target from the hinge

_SENSORS = (
    ("proximal", mjtSensor.mjSENS_JOINTPOS, mjtObj.mjOBJ_JOINT, "proximal"),
    ("distal", mjtSensor.mjSENS_JOINTPOS, mjtObj.mjOBJ_JOINT, "distal"),
    ("proximal_velocity", mjtSensor.mjSENS_JOINTVEL, mjtObj.mjOBJ_JOINT, "proximal"),
    ("distal_velocity", mjtSensor.mjSENS_JOINTVEL, mjtObj.mjOBJ_JOINT, "distal"),
    ("hinge_velocity", mjtSensor.mjSENS_JOINTVEL, mjtObj.mjOBJ_JOINT, "hinge"),
    ("tip", mjtSensor.mjSENS_FRAMEPOS, mjtObj.mjOBJ_SITE, "tip"),
    ("target", mjtSensor.mjSENS_FRAMEPOS, mjtObj.mjOBJ_SITE, "target"),
    ("spinner", mjtSensor.mjSENS_FRAMEPOS, mjtObj.mjOBJ_XBODY, "spinner"),
    ("touchtop", mjtSensor.mjSENS_TOUCH, mjtObj.mjOBJ_SITE, "touchtop"),
    ("touchbottom", mjtSensor.mjSENS_TOUCH, mjtObj.mjOBJ_SITE, "touchbottom"),
    ("touchtop_pos", mjtSensor.mjSENS_FRAMEPOS, mjtObj.mjOBJ_SITE, "touchtop"),
    ("touchbottom_pos", mjtSensor.mjSENS_FRAMEPOS, mjtObj.mjOBJ_SITE, "touchbottom"),
    # These three are not Playground's. They tell the physics its own acceleration; see CPhysics.
    ("proximal_acceleration", mjtSensor.mjSENS_FRAMEANGACC, mjtObj.mjOBJ_XBODY, "proximal"),
    ("distal_acceleration", mjtSensor.mjSENS_FRAMEANGACC, mjtObj.mjOBJ_XBODY, "distal"),
    ("spinner_acceleration", mjtSensor.mjSENS_FRAMEANGACC, mjtObj.mjOBJ_XBODY, "spinner"),
)


def build_spec(*, spinner_damping: float, target_radius: float) -> mujoco.MjSpec:
    """A finger of two links with motors, and a spinner on a hinge; no gravity, the target is a mocap body.

    Args:
        spinner_damping (float): of the spinner's hinge, in N m s/rad.
        target_radius (float): of the target in metres.
    """
    spec = new_spec("finger", timestep=0.005, iterations=2, ls_iterations=8)
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.disableflags |= mjtDisableBit.mjDSBL_GRAVITY
    # How many contacts the MJX back end keeps; the others keep them all.
    spec.add_numeric(name="max_contact_points", data=[4], size=1)
    spec.add_numeric(name="max_geom_pairs", data=[2], size=1)
    world = spec.worldbody
    add_lamp(world, height=2)
    world.add_camera(name="view", pos=[0, -1.1, 0.37], xyaxes=[1, 0, 0, 0, 0, 1])

    soft = {"solimp": [0, 0.9, 0.01, 0.5, 2]}
    untouchable = {"contype": 0, "conaffinity": 0}
    capsule = {"type": mjtGeom.mjGEOM_CAPSULE, **soft}
    axle = {"type": mjtGeom.mjGEOM_CYLINDER, "material": "decoration", **soft, **untouchable}
    hinge = {"type": mjtJoint.mjJNT_HINGE, "axis": [0, -1, 0]}
    bent = {**hinge, "range": [-_FINGER_RANGE_DEG, _FINGER_RANGE_DEG], "damping": 2.5}
    world.add_geom(name="ground", type=mjtGeom.mjGEOM_PLANE, size=[0.6, 0.2, 10], material="fine_floor", **soft)

    proximal = world.add_body(name="proximal", pos=[-0.2, 0, 0.4])
    proximal.add_joint(name="proximal", ref=-90, **bent)
    proximal.add_geom(name="proximal_decoration", fromto=[0, -0.033, 0, 0, 0.033, 0], size=[0.034, 0, 0], **axle)
    proximal.add_geom(name="proximal", fromto=[0, 0, 0, 0, 0, -0.17], size=[0.03, 0, 0], material="body", **capsule)
    distal = proximal.add_body(name="distal", pos=[0, 0, -0.18])
    distal.add_joint(name="distal", **bent)
    distal.add_geom(
        name="distal",
        fromto=[0, 0, 0, 0, 0, -0.16],
        size=[0.028, 0, 0],
        material="body",
        **capsule,
        **untouchable,
    )
    distal.add_geom(
        name="fingertip", fromto=[0, 0, -0.13, 0, 0, -0.161], size=[0.03, 0, 0], material="effector", **capsule
    )
    for name, x in (("touchtop", 0.01), ("touchbottom", -0.01)):
        distal.add_site(name=name, type=mjtGeom.mjGEOM_ELLIPSOID, pos=[x, 0, -0.17], size=[0.025, 0.03, 0.025], group=3)

    spinner = world.add_body(name="spinner", pos=[_HINGE[0], 0, _HINGE[1]])
    spinner.add_joint(name="hinge", frictionloss=0.1, damping=spinner_damping, **hinge)
    for name, x in (("cap1", 0.02), ("cap2", -0.02)):
        spinner.add_geom(name=name, pos=[x, 0, 0], size=[0.04, 0.09, 0], material="body", **capsule)
    spinner.add_geom(name="spinner_decoration", fromto=[0, -0.045, 0, 0, 0.045, 0], size=[0.02, 0, 0], **axle)
    spinner.add_site(
        name="tip", type=mjtGeom.mjGEOM_SPHERE, pos=[0, 0, _TIP_DISTANCE], size=[0.02, 0.005, 0.005], material="target"
    )
    target = world.add_body(name="target", pos=[0, 0, _HINGE[1]], mocap=True)
    target.add_site(name="target", type=mjtGeom.mjGEOM_SPHERE, size=[target_radius, 0.005, 0.005], material="target")

    for name, gear in (("proximal", 30), ("distal", 15)):
        add_motor(spec, name, joint=name, gear=gear)
    for name, kind, objtype, objname in _SENSORS:
        spec.add_sensor(name=name, type=kind, objtype=objtype, objname=objname)
    return spec


def build_spin_spec() -> mujoco.MjSpec:
    """A spinner that turns easily; tip and target are there, but not to be seen."""
    spec = build_spec(spinner_damping=0.03, target_radius=0.03)
    for name in ("tip", "target"):
        spec.site(name).rgba = [0, 0, 0, 0]
    return spec


def reset_spin(generator: torch.Generator, count: int) -> Start:
    """All at rest, finger and spinner at any angles, each drawn on its own.

    They may overlap at first, as in Playground; the contact then pushes them apart. (Playground 0.2.0 uses one
    random key twice, so there the spinner's angle is always that of the finger's first joint times 180/110.)
    """
    finger = math.radians(_FINGER_RANGE_DEG)
    qpos = uniform(generator, count, [-finger, -finger, -math.pi], [finger, finger, math.pi])
    target = torch.tensor([0, 0, _HINGE[1]], dtype=torch.float64, device=generator.device)
    return Start(qpos, zeros(generator, count, 3), target.expand(count, 1, 3))


def reset_turn(generator: torch.Generator, count: int) -> Start:
    """As for spinning, with the target anywhere on the circle that the spinner's tip can reach.

    The first observation shows this target. (Playground's shows the target of the model file,
    because it moves the target only after it has computed the positions.)
    """
    start = reset_spin(generator, count)
    angle = uniform(generator, count, [-math.pi], [math.pi])[:, 0]
    x, z = _HINGE[0] + _TIP_DISTANCE * angle.sin(), _HINGE[1] + _TIP_DISTANCE * angle.cos()
    return replace(start, mocap_pos=torch.stack([x, torch.zeros_like(x), z], dim=-1).unsqueeze(1))


def from_hinge(state: PhysicsState, name: str) -> Tensor:
    """Position of the spinner's ``"tip"`` or the ``"target"`` relative to the hinge, x and z (m): ``[num_envs, 2]``."""
    return (state.sensor(name) - state.sensor("spinner"))[:, ::2]


def observe_spin(state: PhysicsState) -> Tensor:
    """Finger angles (rad), tip from hinge (m), velocities (rad/s), touch: ``[num_envs, 9]``.

    Touch is ``log(1 + force)`` of the forces (N) on either side of the fingertip.
    """
    angles = [state.sensor(name) for name in ("proximal", "distal")]
    touch = [state.sensor(name).log1p() for name in ("touchtop", "touchbottom")]
    return torch.cat([*angles, from_hinge(state, "tip"), state.qvel, *touch], dim=-1)


def distance_to_target(state: PhysicsState, target_radius: float) -> Tensor:
    """From the spinner's tip to the target's surface (m), negative inside: ``[num_envs]``."""
    return torch.linalg.vector_norm(from_hinge(state, "target") - from_hinge(state, "tip"), dim=-1) - target_radius


def observe_turn(state: PhysicsState, *, target_radius: float) -> Tensor:
    """As for spinning, then target from hinge and :func:`distance_to_target` (m): ``[num_envs, 12]``."""
    distance = distance_to_target(state, target_radius).unsqueeze(-1)
    return torch.cat([observe_spin(state), from_hinge(state, "target"), distance], dim=-1)


def reward_spin(state: PhysicsState, action: Tensor) -> Tensor:
    """1 while the spinner turns at 15 rad/s or faster, clockwise as seen in the picture, else 0: ``[num_envs]``."""
    speed = -state.sensor("hinge_velocity")[:, 0]
    return (speed >= _SPIN_SPEED).to(speed.dtype)


def reward_turn(state: PhysicsState, action: Tensor, *, target_radius: float) -> Tensor:
    """1 while the spinner's tip is inside the target, else 0: ``[num_envs]``."""
    distance = distance_to_target(state, target_radius)
    return (distance <= 0).to(distance.dtype)


def finger_turn(name: str, target_radius: float) -> ControlTask:
    """The turning task with a target of ``target_radius`` metres."""
    return ControlTask(
        name,
        0.02,
        partial(build_spec, spinner_damping=0.5, target_radius=target_radius),
        reset_turn,
        partial(observe_turn, target_radius=target_radius),
        partial(reward_turn, target_radius=target_radius),
    )


FINGER_SPIN = ControlTask("FingerSpin", 0.02, build_spin_spec, reset_spin, observe_spin, reward_spin)
FINGER_TURN_EASY = finger_turn("FingerTurnEasy", target_radius=0.07)
FINGER_TURN_HARD = finger_turn("FingerTurnHard", target_radius=0.03)
