"""Joint accelerations, as sensors tell them."""

from __future__ import annotations

import mujoco
import numpy as np

_ANGULAR = mujoco.mjtSensor.mjSENS_FRAMEANGACC


def acceleration_from_sensors(model: mujoco.MjModel) -> np.ndarray | None:
    """The matrix ``[nv, nsensordata]`` that turns sensor values into joint accelerations (rad/s²).

    It reads the ``mjSENS_FRAMEANGACC`` sensors of bodies: their values are the accelerations of the
    joints times a Jacobian, which does not change if all joints are hinges with parallel axes. None if
    it changes, or if there are too few of these sensors to tell every joint.
    """
    first, second = (_jacobian(model, model.qpos0 + turn) for turn in (0, 1))
    if np.linalg.matrix_rank(first) < model.nv or not np.allclose(first, second):
        return None
    return np.linalg.pinv(first)


def _jacobian(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Angular acceleration over joint acceleration, a row for each sensor value; 0 for other sensors."""
    data, jacobian = mujoco.MjData(model), np.zeros((model.nsensordata, model.nv))
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    for sensor in (model.sensor(index) for index in range(model.nsensor)):
        if sensor.type[0] == _ANGULAR and sensor.objtype[0] == mujoco.mjtObj.mjOBJ_XBODY:
            rows = jacobian[sensor.adr[0] : sensor.adr[0] + 3]
            mujoco.mj_jacBody(model, data, None, rows, sensor.objid[0])
    return jacobian
