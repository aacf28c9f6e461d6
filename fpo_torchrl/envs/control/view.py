"""What a picture shows: the shapes of one copy and the camera that looks at them, without OpenGL."""

from __future__ import annotations

import mujoco

from fpo_torchrl.envs.physics import PhysicsState


class View:
    """One copy of a batch as the camera named ``"view"`` of its model sees it."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._scene, self._option = mujoco.MjvScene(model, maxgeom=1000), mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera("view").id

    def of(self, state: PhysicsState, index: int) -> mujoco.MjvScene:
        """Shapes, lights and camera of copy ``index``; the next call overwrites them."""
        data = self._data
        data.qpos[:] = state.qpos[index].cpu()
        data.qvel[:] = state.qvel[index].cpu()
        data.mocap_pos[:] = state.mocap_pos[index].cpu()
        data.mocap_quat[:] = state.mocap_quat[index].cpu()
        mujoco.mj_forward(self._model, data)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        return self._scene
