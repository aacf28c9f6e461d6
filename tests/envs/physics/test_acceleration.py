"""Joint accelerations from sensors against those of MuJoCo's solver."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from mujoco import mjtGeom, mjtJoint, mjtObj, mjtSensor

from fpo_torchrl.envs.control import CONTROL_TASKS
from fpo_torchrl.envs.physics.acceleration import acceleration_from_sensors


def chain(axes: list[list[float]], sensed: int) -> mujoco.MjModel:
    """Links on hinges with the given axes; the first ``sensed`` have a sensor, after one of another kind."""
    spec = mujoco.MjSpec()
    body = spec.worldbody
    for index, axis in enumerate(axes):
        body = body.add_body(name=f"link{index}", pos=[0.3, 0, 0.1])
        body.add_joint(name=f"joint{index}", type=mjtJoint.mjJNT_HINGE, axis=axis)
        body.add_geom(type=mjtGeom.mjGEOM_BOX, size=[0.1, 0.04, 0.02], pos=[0.1, 0, 0.02])
    spec.add_sensor(type=mjtSensor.mjSENS_JOINTPOS, objtype=mjtObj.mjOBJ_JOINT, objname="joint0")
    for index in range(sensed):
        spec.add_sensor(type=mjtSensor.mjSENS_FRAMEANGACC, objtype=mjtObj.mjOBJ_XBODY, objname=f"link{index}")
    return spec.compile()


PLANAR = [[0.6, 0.8, 0], [-0.6, -0.8, 0], [0.6, 0.8, 0]]


@pytest.mark.parametrize(
    "make",
    [lambda: chain(PLANAR, 3), lambda: CONTROL_TASKS["FingerSpin"].build_spec().compile()],
    ids=["chain", "finger"],
)
def test_they_are_those_of_the_solver(make):
    model = make()
    matrix = acceleration_from_sensors(model)
    assert matrix is not None
    data, random = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        data.qpos[:], data.qvel[:] = random.normal(size=(2, model.nv))
        data.qfrc_applied[:] = random.normal(size=model.nv)
        mujoco.mj_forward(model, data)
        assert np.abs(data.qacc).min() > 1e-3
        np.testing.assert_allclose(matrix @ data.sensordata, data.qacc, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    "model",
    [
        chain(PLANAR, 2),
        chain([[0, 1, 0], [1, 0, 0]], 2),  # the second axis turns with the first joint
        CONTROL_TASKS["BallInCup"].build_spec().compile(),
    ],
    ids=["too few sensors", "not planar", "slides"],
)
def test_none_where_sensors_do_not_tell(model):
    assert acceleration_from_sensors(model) is None
