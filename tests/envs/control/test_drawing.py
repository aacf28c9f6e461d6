"""Pictures of the control tasks against projective geometry, and both ways to draw them against each other."""

from __future__ import annotations

import math
import sys

import mujoco
import numpy as np
import pytest
import torch
from mujoco import mjtGeom
from PIL import Image

from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv, camera
from fpo_torchrl.envs.control.camera import Camera
from fpo_torchrl.envs.control.sketch import Sketch
from fpo_torchrl.envs.physics import PhysicsState
from fpo_torchrl.envs.physics.c import CPhysics
from fpo_torchrl.evaluation import record

HEIGHT, WIDTH = 120, 160


def make_env(task: str, num_envs: int = 2) -> ControlEnv:
    env = ControlEnv(task, num_envs=num_envs, num_threads=1, spread_episodes=False)
    env.reset()
    return env


def compiled(env: ControlEnv) -> mujoco.MjModel:
    return env.task.build_spec().compile()


def orange(picture: np.ndarray) -> np.ndarray:
    """Where the colour of bodies is."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (red > 100) & (red > 1.4 * green) & (red > 1.8 * blue)


def centroid(mask: np.ndarray) -> np.ndarray:
    """Mean (column, row) of a mask."""
    assert mask.any()
    return np.argwhere(mask).mean(0)[::-1]


def pixel_of(model: mujoco.MjModel, state: PhysicsState, index: int, geom: str) -> np.ndarray:
    """Where a pinhole camera shows the middle of ``geom``: (column, row)."""
    data = mujoco.MjData(model)
    data.qpos[:] = state.qpos[index]
    mujoco.mj_forward(model, data)
    camera = data.camera("view")
    right, up, away = (data.geom(geom).xpos - camera.xpos) @ camera.xmat.reshape(3, 3)
    focal = 0.5 * HEIGHT / math.tan(math.radians(model.camera("view").fovy[0]) / 2)
    return np.array([WIDTH / 2 - focal * right / away, HEIGHT / 2 + focal * up / away]) - 0.5


@pytest.fixture
def camera_or_skip():
    def make(env: ControlEnv) -> Camera:
        try:
            return Camera(compiled(env), HEIGHT, WIDTH)
        except RuntimeError as error:
            pytest.skip(str(error))

    return make


@pytest.mark.parametrize(("task", "geom"), [("PointMass", "pointmass"), ("BallInCup", "ball")])
@pytest.mark.parametrize("index", [0, 1])
def test_sketch_shows_the_ball_where_a_pinhole_camera_does(task, geom, index):
    env = make_env(task)
    env.physics.state.qpos[0, -2:] = torch.tensor([0.1, -0.05])
    env.physics.state.qpos[1, -2:] = torch.tensor([-0.15, 0.2])
    picture = Sketch(compiled(env), HEIGHT, WIDTH).draw(env.physics.state, index)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    expected = pixel_of(compiled(env), env.physics.state, index, geom)
    np.testing.assert_allclose(centroid(orange(picture)), expected, atol=1.0)


@pytest.mark.parametrize("task", CONTROL_TASKS)
def test_sketch_and_camera_agree(task, camera_or_skip):
    env = make_env(task)
    env.rollout(10)
    if task == "FishSwim":
        env.physics.state.qpos[:, 2] = 0.1  # above the ground, through which only the camera sees
    ways = Sketch(compiled(env), HEIGHT, WIDTH), camera_or_skip(env)
    for index in range(2):
        drawn, photo = (it.draw(env.physics.state, index) for it in ways)
        assert photo.shape == drawn.shape
        assert np.abs(drawn.astype(int) - photo).mean() < 40  # same sky, floor and walls, in other light
        np.testing.assert_allclose(centroid(orange(drawn)), centroid(orange(photo)), atol=2.0)


def test_sketch_and_camera_agree_on_the_cart(camera_or_skip):
    env = make_env("CartpoleBalance")
    env.physics.state.qpos[:, 0] = torch.tensor([-0.8, 1.2])
    ways = Sketch(compiled(env), HEIGHT, WIDTH), camera_or_skip(env)
    columns = []
    for index in range(2):
        for way in ways:
            picture = way.draw(env.physics.state, index)
            red, green, blue = picture.astype(int).transpose(2, 0, 1)
            columns.append(centroid((blue > 1.8 * red) & (blue > 1.3 * green))[0])
    assert columns[0] == pytest.approx(columns[1], abs=1.0)
    assert columns[2] == pytest.approx(columns[3], abs=1.0)
    assert columns[2] - columns[0] > 0.2 * WIDTH


def draw(spec: mujoco.MjSpec) -> np.ndarray:
    physics = CPhysics(spec.compile(), num_envs=1, num_substeps=1, num_threads=1)
    return Sketch(spec.compile(), HEIGHT, WIDTH).draw(physics.state, 0)


def scene(*geoms: dict) -> mujoco.MjSpec:
    """Shapes around the origin, seen along +y from 10 m: 1 m is 40 pixels there."""
    spec = mujoco.MjSpec()
    fovy = 2 * math.degrees(math.atan(HEIGHT / 2 / 400))
    spec.worldbody.add_camera(name="view", pos=[0, -10, 0], xyaxes=[1, 0, 0, 0, 0, 1], fovy=fovy)
    for geom in geoms:
        spec.worldbody.add_geom(**{"rgba": [1, 0, 0, 1], **geom})
    return spec


@pytest.mark.parametrize(
    ("kind", "size", "area"),
    [
        ("SPHERE", [0.5, 0, 0], math.pi * 0.5**2),
        ("ELLIPSOID", [0.8, 0.1, 0.4], math.pi * 0.8 * 0.4),
        ("CAPSULE", [0.2, 0.6, 0], math.pi * 0.2**2 + 0.4 * 1.2),
        ("CYLINDER", [0.3, 0.5, 0], 0.6 * 1.0),
        ("BOX", [0.7, 0.01, 0.3], 1.4 * 0.6),
    ],
)
@pytest.mark.parametrize("angle", [0, 30])
def test_a_shape_covers_its_silhouette(kind, size, area, angle):
    shape = {"type": getattr(mjtGeom, f"mjGEOM_{kind}"), "size": size}
    turn = [math.cos(math.radians(angle / 2)), 0, math.sin(math.radians(angle / 2)), 0]  # in the picture's plane
    red, green, _ = draw(scene({**shape, "quat": turn})).astype(int).transpose(2, 0, 1)
    assert (red > 2 * green).sum() == pytest.approx(area * 40**2, rel=0.06)


def test_near_shapes_hide_far_ones_and_what_is_behind_the_camera_is_not_drawn():
    ball = {"type": mjtGeom.mjGEOM_SPHERE, "size": [0.5, 0, 0]}
    near, far = {**ball, "pos": [0, -1, 0], "rgba": [0, 0, 1, 1]}, {**ball, "pos": [0, 1, 0]}
    for order in ((near, far), (far, near)):
        red, _, blue = draw(scene(*order))[HEIGHT // 2, WIDTH // 2]
        assert blue > 150 > red
    behind = draw(scene({**ball, "pos": [0, -12, 0]}))
    np.testing.assert_array_equal(behind, draw(scene()))


def test_a_floor_that_reaches_under_the_camera_fills_the_lower_half():
    grey = {"type": mjtGeom.mjGEOM_PLANE, "size": [0, 0, 1], "pos": [0, 0, -1], "rgba": [1, 0, 0, 1]}
    red, green, _ = draw(scene(grey)).astype(int).transpose(2, 0, 1)
    floor = red > 2 * green
    assert floor[HEIGHT // 2 + 10 :].all()
    assert not floor[: HEIGHT // 2 - 2].any()


def test_render_follows_the_state_and_the_asked_size():
    env = make_env("PointMass")
    small, large = env.render(0, height=60, width=80), env.render(1)
    assert (small.shape, large.shape) == ((60, 80, 3), (240, 320, 3))
    before = env.render(0)
    np.testing.assert_array_equal(env.render(0), before)
    env.physics.state.qpos[0] *= -1
    assert (env.render(0) != before).any()


@pytest.mark.parametrize("index", [-1, 2])
def test_render_names_a_wrong_index(index):
    with pytest.raises(ValueError, match=rf"index must be in \[0, 2\), got {index}"):
        make_env("PointMass").render(index)


def test_without_opengl_pictures_are_sketched_with_one_warning(monkeypatch):
    monkeypatch.setattr(camera, "_opengl_works", True)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setitem(sys.modules, "mujoco.egl", None)  # what a missing libEGL does to it
    monkeypatch.delattr(mujoco, "GLContext", raising=False)
    envs = [make_env("PointMass") for _ in range(2)]
    with pytest.warns(RuntimeWarning, match="sketched without OpenGL.*libegl1.*MUJOCO_GL") as warnings:
        pictures = [env.render() for env in envs]
    assert [warning.filename for warning in warnings] == [__file__]
    assert all(orange(picture).any() for picture in pictures)


def test_a_recording_is_short_and_plays_in_real_time(tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "_opengl_works", False)
    env, steps = make_env("CartpoleBalance", 1), []

    def swing(tensordict):
        steps.append(1)
        return tensordict.set("action", torch.full((1, 1), math.sin(len(steps) / 10)))

    path = record(swing, env, tmp_path / "rollout.gif", max_frames=10)
    assert len(steps) == 36  # 4 steps of 10 ms between pictures
    with Image.open(path) as gif:
        assert gif.size == (320, 240)
        assert gif.n_frames == 10
        assert gif.info["duration"] == 40
        assert gif.info["loop"] == 0
