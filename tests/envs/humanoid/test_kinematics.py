"""Skeleton, model and forward kinematics: compared with MuJoCo's own, and with numbers taken from DeepMimic's file."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.envs.humanoid.model import FORCE_LIMIT, build_spec
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID, SKELETONS, Skeleton

BODIES = ["full", "planar"]
_PLANAR = SKELETONS["planar"]
MIXED = replace(_PLANAR, bodies=tuple(replace(it, joint="ball") if it.name == "torso" else it for it in _PLANAR.bodies))
"""In the plane but for the upper body."""


def simulated(skeleton: Skeleton, seed: int):
    """A model in a random state, its data, and the same state as a batch of one."""
    model = build_spec(skeleton).compile()
    data, generator = mujoco.MjData(model), np.random.default_rng(seed)
    mujoco.mj_integratePos(model, data.qpos, generator.normal(size=model.nv), 1.0)
    data.qvel[:], data.ctrl[:] = generator.normal(size=model.nv), generator.normal(size=model.nu)
    mujoco.mj_forward(model, data)
    return model, data, torch.tensor(data.qpos)[None], torch.tensor(data.qvel)[None]


@pytest.mark.parametrize(("name", "sizes"), [("full", (43, 34, 28)), ("planar", (15, 15, 12))])
def test_the_model_has_deepmimics_sizes(name, sizes):
    model, skeleton = build_spec(SKELETONS[name]).compile(), SKELETONS[name]
    assert (model.nq, model.nv, model.nu) == sizes
    assert (skeleton.num_positions, skeleton.num_velocities, skeleton.action_dim) == sizes
    assert [model.body(number).name for number in range(1, model.nbody)] == skeleton.names
    assert model.body_mass.sum() == pytest.approx(45.0)


def test_at_rest_the_bodies_are_where_deepmimics_offsets_put_them():
    qpos = torch.tensor(build_spec(HUMANOID).compile().qpos0)[None]
    pos = Kinematics(HUMANOID)(qpos, qpos.new_zeros(1, 34)).pos[..., 0].T

    def at(body: str) -> list[float]:
        return pos[HUMANOID.names.index(body)].tolist()

    assert at("head") == pytest.approx([0, 0, 0.236151 + 0.223894])
    assert at("left_foot") == pytest.approx([0, 0.084887, -0.421546 - 0.40987])
    assert at("right_hand") == pytest.approx([-0.02405, -0.18311, 0.236151 + 0.2435 - 0.274788 - 0.258947])


@pytest.mark.parametrize("skeleton", [*SKELETONS.values(), MIXED], ids=[*SKELETONS, "mixed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_body_states_are_those_of_mujoco(skeleton, seed):
    model, data, qpos, qvel = simulated(skeleton, seed)
    bodies, velocity = Kinematics(skeleton)(qpos, qvel), np.zeros(6)
    for body in range(model.nbody - 1):
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body + 1, velocity, 0)
        np.testing.assert_allclose(bodies.pos[:, body, 0], data.xpos[body + 1], atol=1e-12)
        np.testing.assert_allclose(bodies.vel[:, body, 0], velocity[3:], atol=1e-12)
        np.testing.assert_allclose(bodies.angvel[:, body, 0], velocity[:3], atol=1e-12)
        assert abs(bodies.quat[:, body, 0].numpy() @ data.xquat[body + 1]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", BODIES)
def test_servos_measure_what_mujocos_do(name):
    _, data, qpos, _ = simulated(SKELETONS[name], seed=2)
    np.testing.assert_allclose(Kinematics(SKELETONS[name]).servo_angles(qpos)[0], data.actuator_length, atol=1e-12)


@pytest.mark.parametrize("name", BODIES)
def test_the_servos_torque_is_that_of_its_gains(name):
    """At rest in the zero pose the torque is kp times the target, up to the limit."""
    skeleton = SKELETONS[name]
    model = build_spec(skeleton).compile()
    data = mujoco.MjData(model)
    data.ctrl[:] = 0.4
    data.ctrl[0] = 2.0  # 1000 Nm/rad
    mujoco.mj_forward(model, data)
    expected = 0.4 * skeleton.per_servo("stiffness").numpy()
    expected[0] = FORCE_LIMIT
    np.testing.assert_allclose(data.actuator_force, expected)


def test_the_lowest_point_at_rest_is_the_sole():
    """The sole of a foot, as far below the pelvis as the offsets and the box's half height say."""
    model = build_spec(HUMANOID).compile()
    qpos = torch.tensor(model.qpos0)[None]
    qpos[:, 2] = 1.0
    bodies = Kinematics(HUMANOID)(qpos, qpos.new_zeros(1, 34))
    sole = 1.0 - 0.421546 - 0.40987 - 0.0225 - 0.0275
    assert Kinematics(HUMANOID).lowest_point(bodies).item() == pytest.approx(sole)


def test_the_ghost_follows_in_qpos_and_touches_nothing():
    model = build_spec(HUMANOID, ghost=True).compile()
    assert (model.nq, model.nu) == (2 * 43, 28)
    ghosts = [model.geom(i) for i in range(model.ngeom) if model.geom(i).name.startswith("ghost_")]
    assert len(ghosts) == 15
    assert all(geom.contype[0] == geom.conaffinity[0] == 0 for geom in ghosts)
    assert model.body("ghost_pelvis").id > model.body("left_foot").id
