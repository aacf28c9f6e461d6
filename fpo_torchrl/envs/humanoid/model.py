"""The simulator's model of a skeleton."""

from __future__ import annotations

import math

import mujoco
from mujoco import mjtBias, mjtCamLight, mjtGain, mjtGeom, mjtJoint, mjtTrn

from fpo_torchrl.envs.control.scene import add_lamp, new_spec
from fpo_torchrl.envs.humanoid.skeleton import Body, Shape, Skeleton

_KINDS = {"sphere": mjtGeom.mjGEOM_SPHERE, "capsule": mjtGeom.mjGEOM_CAPSULE, "box": mjtGeom.mjGEOM_BOX}
_AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_ARMATURE = 0.02  # kg m2, that of the reference's model (akanazawa/fpo, phc/, assets/smpl_humanoid.xml)
_GHOST = (0.13, 0.66, 0.42, 0.4)
FORCE_LIMIT = 500.0
"""Largest torque of a servo in Nm, that of the reference's model; DeepMimic's own 50 to 200 do not hold a run."""


def build_spec(skeleton: Skeleton, *, timestep: float = 1 / 120, ghost: bool = False) -> mujoco.MjSpec:
    """A model of the skeleton on a plane, with a position servo for each degree of freedom.

    The servos' targets are angles in rad, for a ball joint the components of its rotation vector. Bodies touch the
    ground and, unless they are planar, each other.

    Args:
        skeleton: the bodies.
        timestep (float): simulation step in seconds.
        ghost (bool): add a second, transparent copy that touches nothing and has no servos, to show a reference;
            its positions follow the first one's in ``qpos``.
    """
    spec = new_spec("humanoid", timestep=timestep, iterations=10, ls_iterations=10)
    spec.compiler.degree = False
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.stat.center, spec.stat.extent = [0, 0, 0.9], 2
    spec.worldbody.add_geom(name="ground", type=mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], material="floor")
    _add_bodies(spec, skeleton)
    if ghost:
        _add_bodies(spec, skeleton, prefix="ghost_")
        for geom in spec.geoms:
            if geom.name.startswith("ghost_"):
                geom.contype = geom.conaffinity = 0
                geom.material, geom.rgba = "", _GHOST
    for body in skeleton.bodies[1:]:
        if body.joint != "fixed":
            _add_servos(spec, body)
    return spec


def _add_bodies(spec: mujoco.MjSpec, skeleton: Skeleton, prefix: str = "") -> None:
    made = {None: spec.worldbody}
    for body in skeleton.bodies:
        added = made[body.name] = made[body.parent].add_body(name=prefix + body.name, pos=body.offset)
        if body.parent is None and not prefix:
            _add_view(added)
        _add_joints(added, prefix + body.name, body)
        geom = added.add_geom(
            name=prefix + body.name,
            type=_KINDS[body.shape.kind],
            pos=body.shape.centre,
            size=[*body.shape.size, 0, 0][:3],
            density=body.mass / volume(body.shape),
            condim=3,
            friction=[1.0, 0.005, 0.0001],
            material="effector" if body.name.startswith("right") else "body",
        )
        if skeleton.is_planar:
            geom.contype, geom.conaffinity = 0, 1  # the ground has 1 and 1


def _add_view(root: mujoco.MjsBody) -> None:
    follow = mjtCamLight.mjCAMLIGHT_TRACK
    add_lamp(root, height=3, mode=follow)
    root.add_camera(name="view", pos=[0, -3.0, 0.3], xyaxes=[1, 0, 0, 0, 0.13, 1], mode=follow)


def _add_joints(added: mujoco.MjsBody, name: str, body: Body) -> None:
    if body.joint == "free":
        added.add_freejoint(name=name)
    elif body.joint == "planar":
        slide, hinge = mjtJoint.mjJNT_SLIDE, mjtJoint.mjJNT_HINGE
        for suffix, kind, axis in (("x", slide, _AXES[0]), ("z", slide, _AXES[2]), ("pitch", hinge, _AXES[1])):
            added.add_joint(name=f"{name}_{suffix}", type=kind, axis=axis)
    elif body.joint == "ball":
        added.add_joint(name=name, type=mjtJoint.mjJNT_BALL, armature=_ARMATURE)
    elif body.joint == "hinge":
        limits = {} if body.flexion is None else {"range": body.flexion}
        added.add_joint(name=name, type=mjtJoint.mjJNT_HINGE, axis=_AXES[1], armature=_ARMATURE, **limits)


def _add_servos(spec: mujoco.MjSpec, body: Body) -> None:
    """Torque ``stiffness * (target - angle) - damping * rate`` on each axis of the joint, within the force limit."""
    axes = _AXES if body.joint == "ball" else _AXES[:1]
    for number, axis in enumerate(axes):
        spec.add_actuator(
            name=f"{body.name}_{'xyz'[number]}" if body.joint == "ball" else body.name,
            trntype=mjtTrn.mjTRN_JOINT,
            target=body.name,
            gear=[*axis, 0, 0, 0],
            gaintype=mjtGain.mjGAIN_FIXED,
            gainprm=[body.stiffness] + [0] * 9,
            biastype=mjtBias.mjBIAS_AFFINE,
            biasprm=[0, -body.stiffness, -body.damping] + [0] * 7,
            forcelimited=True,
            forcerange=[-FORCE_LIMIT, FORCE_LIMIT],
        )


def volume(shape: Shape) -> float:
    """The volume of a shape in cubic metres."""
    if shape.kind == "box":
        return 8 * math.prod(shape.size)
    radius = shape.size[0]
    cylinder = 2 * math.pi * radius**2 * shape.size[1] if shape.kind == "capsule" else 0.0
    return 4 / 3 * math.pi * radius**3 + cylinder
