"""CartpoleBalance: keep a pole upright on a cart by pushing the cart along a rail."""

from __future__ import annotations

import mujoco
import torch
from mujoco import mjtGeom, mjtJoint, mjtObj, mjtSensor
from torch import Tensor

from fpo_torchrl.envs.control.rewards import quadratic, tolerance
from fpo_torchrl.envs.control.scene import add_lamp, add_motor, new_spec
from fpo_torchrl.envs.control.task import ControlTask, Start, uniform, zeros
from fpo_torchrl.envs.physics import PhysicsState


def build_spec() -> mujoco.MjSpec:
    """A 1 kg cart on a 3.6 m rail with a 1 m, 0.1 kg pole on a hinge; nothing collides."""
    spec = new_spec("cartpole", timestep=0.01, iterations=1, ls_iterations=4)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    world = spec.worldbody
    add_lamp(world, height=5)
    world.add_camera(name="view", pos=[0, -3.8, 1.35], xyaxes=[1, 0, 0, 0, 0.08, 1])
    world.add_geom(name="floor", type=mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.05], size=[4, 4, 0.2], material="floor")
    for name, y in (("rail1", 0.07), ("rail2", -0.07)):
        world.add_geom(
            name=name,
            type=mjtGeom.mjGEOM_CAPSULE,
            pos=[0, y, 1],
            zaxis=[1, 0, 0],
            size=[0.02, 2, 0],
            material="decoration",
        )

    cart = world.add_body(name="cart", pos=[0, 0, 1])
    cart.add_joint(
        name="slider",
        type=mjtJoint.mjJNT_SLIDE,
        axis=[1, 0, 0],
        range=[-1.8, 1.8],
        solref_limit=[0.08, 1],
        damping=5e-4,
    )
    cart.add_geom(name="cart", type=mjtGeom.mjGEOM_BOX, size=[0.2, 0.15, 0.1], mass=1, material="effector")
    pole = cart.add_body(name="pole_1")
    pole.add_joint(name="hinge_1", type=mjtJoint.mjJNT_HINGE, axis=[0, 1, 0], damping=2e-6)
    pole.add_geom(
        name="pole_1",
        type=mjtGeom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, 0, 0, 1],
        size=[0.045, 0, 0],
        mass=0.1,
        material="body",
    )
    add_motor(spec, "slide", joint="slider", gear=10)
    spec.add_sensor(name="pole_axis", type=mjtSensor.mjSENS_FRAMEZAXIS, objtype=mjtObj.mjOBJ_XBODY, objname="pole_1")
    return spec


def reset(generator: torch.Generator, count: int) -> Start:
    """Cart within 0.1 m of the middle, pole within 0.034 rad of upright, velocities with std 0.01."""
    qpos = uniform(generator, count, [-0.1, -0.034], [0.1, 0.034])
    qvel = 0.01 * torch.randn(count, 2, dtype=torch.float64, device=generator.device, generator=generator)
    return Start(qpos, qvel, zeros(generator, count, 0, 3))


def observe(state: PhysicsState) -> Tensor:
    """Cart position (m), cosine and sine of the pole's angle, both velocities: ``[num_envs, 5]``."""
    axis = state.sensor("pole_axis")
    return torch.cat([state.qpos[:, :1], axis[:, 2:], axis[:, :1], state.qvel], dim=-1)


def reward(state: PhysicsState, action: Tensor) -> Tensor:
    """Upright times centred times gentle times slow, each between 0 and 1: ``[num_envs]``."""
    upright = state.sensor("pole_axis")[:, 2]
    centred = tolerance(state.qpos[:, 0], margin=2)
    gentle = tolerance(action[:, 0], margin=1, shape=quadratic, value_at_margin=0)
    slow = tolerance(state.qvel[:, 1], margin=5)
    # (upright + 1) / 2 and so on: each factor is scaled to end at 1.
    return (upright + 1) * (centred + 1) * (gentle + 4) * (slow + 1) / (2 * 2 * 5 * 2)


CARTPOLE_BALANCE = ControlTask("CartpoleBalance", 0.01, build_spec, reset, observe, reward)
