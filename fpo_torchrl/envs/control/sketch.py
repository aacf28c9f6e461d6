"""Pictures of a simulated scene without OpenGL: every shape becomes a few filled polygons."""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
from mujoco import mjtGeom
from PIL import Image, ImageDraw

from fpo_torchrl.envs.control.scene import SKY, TILES
from fpo_torchrl.envs.control.view import View
from fpo_torchrl.envs.physics import PhysicsState

_ANTIALIAS = 2
_NEAR = 0.05  # m, what is closer to the camera is cut off
_FAR = 1000  # m, how far a plane without an edge reaches
_NUM_TILES = 8  # on either side of the camera
_SHADOW = (0.64, 0.66, 0.70)
_ROUND = (mjtGeom.mjGEOM_SPHERE, mjtGeom.mjGEOM_ELLIPSOID, mjtGeom.mjGEOM_CAPSULE, mjtGeom.mjGEOM_CYLINDER)
_GLINT = ((1.0, 0.72), (0.75, 0.92), (0.4, 1.08))  # layers of a round shape: how wide and how bright they are
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
_SQUARE = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])


class Sketch:
    """Draws what :class:`Camera` draws, in less detail: far shapes first, no meshes and no height fields.

    Args:
        model (mujoco.MjModel): the model to draw.
        height (int): of the picture in pixels.
        width (int): of the picture in pixels.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._view = View(model)
        self._tiles_per_metre = ((model.mat_texid >= 0).any(-1) * model.mat_texrepeat[:, 0]).tolist()

    def draw(self, state: PhysicsState, index: int) -> np.ndarray:
        """A picture of copy ``index``: uint8 ``[height, width, 3]``."""
        scene = self._view.of(state, index)
        pen = _Pen(scene.camera, self.height * _ANTIALIAS, self.width * _ANTIALIAS)
        geoms = scene.geoms[: scene.ngeom]
        solids = [geom for geom in geoms if geom.type in _ROUND or geom.type == mjtGeom.mjGEOM_BOX]
        for plane in (geom for geom in geoms if geom.type == mjtGeom.mjGEOM_PLANE):
            plane.size[:] = np.where(plane.size > 0, plane.size, _FAR) * [1, 1, 0]
            if plane.matid >= 0 and self._tiles_per_metre[plane.matid]:
                pen.floor(plane, self._tiles_per_metre[plane.matid], solids)
            else:
                pen.face(plane)
        # Far to near, and what one can see through last.
        for solid in sorted(solids, key=lambda geom: (geom.rgba[3] < 1, -pen.distance(geom))):
            pen.solid(solid)
        return np.asarray(pen.picture.reduce(_ANTIALIAS))


class _Pen:
    """Fills polygons given in the world's coordinates, on a picture of the sky."""

    def __init__(self, eyes: list[mujoco.MjvGLCamera], height: int, width: int) -> None:
        left, right = eyes  # of a stereo pair; the picture is taken from between them
        self._place = (left.pos + right.pos) / 2
        self._axes = np.stack([np.cross(left.forward, left.up), left.up, left.forward])  # right, up, away
        self._light = [-0.35, 0.8, -0.5] @ self._axes
        self._center = np.array([width, height]) / 2
        self._focal = height * left.frustum_near / (left.frustum_top - left.frustum_bottom)
        rays = (self._center[1] - np.arange(height))[:, None] * left.up + self._focal * left.forward
        fade = 0.5 - 0.5 * rays[:, 2:] / np.linalg.norm(rays, axis=1, keepdims=True)
        sky = 255 * ((1 - fade) * SKY[0] + fade * SKY[1])
        column = Image.fromarray(sky.astype(np.uint8)[:, None])
        self.picture = column.resize((width, height), Image.Resampling.NEAREST)
        self._paint, self._glaze = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.picture, "RGBA")

    def distance(self, geom: mujoco.MjvGeom) -> float:
        """How far away the nearest corner of the shape's bounding box is."""
        return self._axes[2] @ (geom.pos - self._place) - np.abs(self._axes[2] @ geom.mat) @ geom.size

    def fill(self, polygons: np.ndarray, rgb: np.ndarray, alpha: float = 1.0) -> None:
        """Fill the polygons with corners ``[k, n, 3]``, as far as they are in front of the camera."""
        colour = tuple(min(int(255 * value), 255) for value in (*rgb, alpha))
        draw = self._paint if alpha == 1 else self._glaze
        for points in (polygons - self._place) @ self._axes.T:
            points = _in_front(points)
            pixels = self._center + self._focal * points[:, :2] / points[:, 2:] * [1, -1]
            if len(pixels):
                draw.polygon(pixels.ravel().tolist(), fill=colour)

    def face(self, geom: mujoco.MjvGeom, axis: int = 2, sign: int = 1) -> None:
        """Fill one side of a box, or a plane, if it looks at the camera."""
        corners = np.insert(_SQUARE * np.delete(geom.size, axis), axis, sign * geom.size[axis], axis=1)
        corners, normal = geom.pos + corners @ geom.mat.T, sign * geom.mat[:, axis]
        if normal @ (self._place - corners[0]) > 0:
            self.fill(corners[None], geom.rgba[:3] * (0.75 + 0.3 * max(0.0, normal @ self._light)), geom.rgba[3])

    def floor(self, plane: mujoco.MjvGeom, tiles_per_metre: float, solids: list[mujoco.MjvGeom]) -> None:
        """Fill a plane with tiles and the shadows of ``solids``."""
        axes, half = plane.mat[:, :2], plane.size[:2]

        def fill(polygons: np.ndarray, colour: tuple[float, ...]) -> None:
            self.fill(plane.pos + np.clip(polygons, -half, half) @ axes.T, np.array(colour))

        below = (self._place - plane.pos) @ axes * tiles_per_metre
        low = np.floor(np.maximum(-half * tiles_per_metre, below - _NUM_TILES)).astype(int)
        high = np.ceil(np.minimum(half * tiles_per_metre, below + _NUM_TILES)).astype(int)
        cells = np.mgrid[low[0] : high[0], low[1] : high[1]].reshape(2, -1).T
        tiles = cells[cells.sum(1) % 2 == 1, None] + 0.5 + 0.5 * _SQUARE
        fill(_SQUARE[None] * half, TILES[0])
        fill(tiles / tiles_per_metre, TILES[1])
        for solid in solids:
            fill((_outline(solid, *axes.T) - plane.pos)[None] @ axes, _SHADOW)

    def solid(self, geom: mujoco.MjvGeom) -> None:
        """Fill a shape as the camera sees it."""
        if geom.type == mjtGeom.mjGEOM_BOX:
            for axis, sign in itertools.product(range(3), (-1, 1)):
                self.face(geom, axis, sign)
            return
        right, up, _ = self._axes
        for shrink, brightness in _GLINT:
            shift = 0.5 * (1 - shrink) * geom.size[0] * (up - 0.6 * right)
            self.fill(shift + _outline(geom, right, up, shrink)[None], geom.rgba[:3] * brightness, geom.rgba[3])


def _outline(geom: mujoco.MjvGeom, right: np.ndarray, up: np.ndarray, shrink: float = 1.0) -> np.ndarray:
    """The rim of a convex shape, ``[n, 3]``: its farthest point in each direction between ``right`` and ``up``."""
    direction, size = (np.cos(_ANGLES) * right + np.sin(_ANGLES) * up) @ geom.mat, geom.size
    local = np.sign(direction) * size
    if geom.type == mjtGeom.mjGEOM_CAPSULE:
        local = local * [0, 0, 1] + shrink * size[0] * direction
    elif geom.type == mjtGeom.mjGEOM_CYLINDER:
        radial = direction * [1, 1, 0]
        local = local * [0, 0, 1] + shrink * size[0] * radial / (np.linalg.norm(radial, axis=1)[:, None] + 1e-9)
    elif geom.type != mjtGeom.mjGEOM_BOX:
        local = shrink * size**2 * direction / np.linalg.norm(size * direction, axis=1)[:, None]
    return geom.pos + local @ geom.mat.T


def _in_front(points: np.ndarray) -> np.ndarray:
    """The part of a polygon, in the camera's axes, that is farther away than ``_NEAR``; empty if nothing is."""
    if points[:, 2].min() > _NEAR:
        return points
    kept = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        if start[2] > _NEAR:
            kept.append(start)
        if (start[2] > _NEAR) != (end[2] > _NEAR):
            kept.append(start + (_NEAR - start[2]) / (end[2] - start[2]) * (end - start))
    return np.array(kept).reshape(-1, 3)
