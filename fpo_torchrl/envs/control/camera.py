"""Pictures of a simulated scene, drawn off screen."""

from __future__ import annotations

import atexit
import os
import platform
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from fpo_torchrl.envs.control.sketch import Sketch
from fpo_torchrl.envs.control.view import View
from fpo_torchrl.envs.physics import PhysicsState

_opengl_works = True


class Camera:
    """Draws copies of a batch through the camera named ``"view"`` of their model.

    The OpenGL back end is the one that the variable ``MUJOCO_GL`` names; where it is not set,
    EGL on Linux (which needs no display) and the system's own elsewhere.

    Args:
        model (mujoco.MjModel): the model to draw; its offscreen buffer is made large enough.
        height (int): of the picture in pixels.
        width (int): of the picture in pixels.

    Raises:
        RuntimeError: if OpenGL does not work here.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self.height, self.width = height, width
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        self._view = View(model)
        try:
            self._gl: Any = _make_context(height, width)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # PyOpenGL raises whatever the missing library happens to cause
            raise RuntimeError(
                "no OpenGL context could be made. Install libegl1 (or libosmesa6) and set the environment variable "
                f"MUJOCO_GL to 'egl' (or 'osmesa'). MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}; "
                f"the underlying error is: {error!r}"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        # A context left to the end of the process complains about the modules that are gone by then.
        atexit.register(_free, weakref.ref(self._gl))

    def draw(self, state: PhysicsState, index: int) -> np.ndarray:
        """A picture of copy ``index``: uint8 ``[height, width, 3]``."""
        scene = self._view.of(state, index)
        frame = mujoco.MjrRect(0, 0, self.width, self.height)
        picture = np.empty((self.height, self.width, 3), dtype=np.uint8)
        self._gl.make_current()
        mujoco.mjr_render(frame, scene, self._context)
        mujoco.mjr_readPixels(picture, None, frame, self._context)
        return np.flipud(picture).copy()


def camera_for(
    last: Camera | Sketch | None, build_spec: Callable[[], mujoco.MjSpec], height: int, width: int
) -> Camera | Sketch:
    """The ``last`` camera if its pictures have this size, else :func:`make_camera` for the model."""
    if last is not None and (last.height, last.width) == (height, width):
        return last
    return make_camera(build_spec().compile(), height, width)


def make_camera(model: mujoco.MjModel, height: int, width: int) -> Camera | Sketch:
    """A :class:`Camera`, or a :class:`Sketch` where OpenGL does not work; the first time with a warning."""
    global _opengl_works
    if _opengl_works:
        try:
            return Camera(model, height, width)
        except RuntimeError as error:
            _opengl_works = False  # to try again can crash the process
            warnings.warn(f"pictures are sketched without OpenGL: {error}", RuntimeWarning, stacklevel=4)
    return Sketch(model, height, width)


def _make_context(height: int, width: int):
    if platform.system() == "Linux" and not os.environ.get("MUJOCO_GL"):
        from mujoco.egl import GLContext
    else:
        from mujoco import GLContext
    return GLContext(width, height)


def _free(reference: weakref.ref) -> None:
    if (context := reference()) is not None:
        context.free()
