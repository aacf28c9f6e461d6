"""Rewards of hand-made states, and where episodes start."""

from __future__ import annotations

import math

import pytest
import torch

from fpo_torchrl.envs.control import CONTROL_TASKS
from fpo_torchrl.envs.physics.c import CPhysics


def reward(name: str, qpos, qvel=None, action=None, target=None) -> float:
    """The reward in a state whose sensors are evaluated in that very state."""
    task = CONTROL_TASKS[name]
    physics = CPhysics(task.build_spec().compile(), num_envs=1, num_threads=1)
    qpos = torch.tensor([qpos], dtype=torch.float64)
    qvel = torch.zeros(1, physics.model.nv) if qvel is None else torch.tensor([qvel], dtype=torch.float64)
    mocap = torch.zeros(1, 0, 3) if target is None else torch.tensor([[[*target, 0.01]]], dtype=torch.float64)
    physics.restart(qpos, qvel, mocap)
    action = torch.zeros(1, physics.control_dim) if action is None else torch.tensor([action])
    return float(task.reward(physics.state, action))


# The cup hangs at a height of 0.6 m and its target square reaches from 0.5 to 0.6 m; the ball starts at 0.2 m. A ball
# of radius 0.025 m is inside a square of half-width 0.05 m while its centre is within 0.025 m of the middle.
@pytest.mark.parametrize(
    ("cup_x", "cup_z", "ball_x", "ball_z", "expected"),
    [
        (0, 0, 0, 0, 0),
        (0, 0, 0, 0.35, 1),
        (0, 0, 0.0249, 0.35, 1),
        (0, 0, 0.0251, 0.35, 0),
        (0, 0, -0.0249, 0.35 - 0.0249, 1),
        (0, 0, 0, 0.35 + 0.0251, 0),
        (0.1, -0.05, 0.1, 0.30, 1),
        (0.1, -0.05, 0.0, 0.30, 0),
    ],
)
def test_ball_in_cup_pays_while_the_ball_is_inside(cup_x, cup_z, ball_x, ball_z, expected):
    assert reward("BallInCup", [cup_x, cup_z, ball_x, ball_z]) == expected


# The fingertip is 0.12 m from the wrist, which is 0.12 m from the shoulder; finger 0.01 m and target 0.05 m touch
# while their centres are at most 0.06 m apart.
@pytest.mark.parametrize(
    ("shoulder", "wrist", "target", "expected"),
    [
        (0, 0, (0.24, 0.0), 1),
        (0, 0, (0.24 - 0.0599, 0.0), 1),
        (0, 0, (0.24 - 0.0601, 0.0), 0),
        (math.pi / 2, 0, (0.0, 0.20), 1),
        (math.pi / 2, 0, (0.20, 0.0), 0),
        (0, math.pi / 2, (0.12, 0.12), 1),
        (0, math.pi / 2, (0.12 + 0.05, 0.12 + 0.05), 0),  # 0.0707 m away
        (math.pi, -math.pi / 2, (-0.12, 0.12 + 0.0599), 1),
    ],
)
def test_reacher_pays_while_finger_and_target_touch(shoulder, wrist, target, expected):
    assert reward("ReacherEasy", [shoulder, wrist], target=target) == expected


@pytest.mark.parametrize(
    ("distance", "action", "expected"),
    [(0.0, [0.0, 0.0], 1.0), (0.015, [0.0, 0.0], 1.0), (0.03, [0.0, 0.0], 0.1), (0.03, [1.0, -1.0], 0.08)],
)
def test_point_mass_pays_near_the_middle(distance, action, expected):
    qpos = [0.6 * distance, -0.8 * distance]
    assert reward("PointMass", qpos, action=action) == pytest.approx(expected, rel=1e-6)


def test_point_mass_pays_half_way_for_one_motor():
    assert reward("PointMass", [0.0, 0.0], action=[0.5, 0.0]) == pytest.approx((4 + (0.75 + 1) / 2) / 5)


@pytest.mark.parametrize(
    ("x", "angle", "pole_velocity", "action", "expected"),
    [
        (0.0, 0.0, 0.0, 0.0, 1.0),
        (0.0, math.pi / 3, 0.0, 0.0, 0.75),
        (2.0, 0.0, 0.0, 0.0, 0.55),
        (0.0, 0.0, 0.0, 1.0, 0.8),
        (0.0, 0.0, -5.0, 0.0, 0.55),
        (-2.0, -math.pi / 3, 5.0, -1.0, 0.75 * 0.55 * 0.55 * 0.8),
    ],
)
def test_cartpole_pays_upright_centred_gentle_and_slow(x, angle, pole_velocity, action, expected):
    found = reward("CartpoleBalance", [x, angle], [0.3, pole_velocity], [action])
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("speed", "expected"), [(5.0, 0.5), (10.0, 1.0), (12.0, 1.0), (-1.0, 0.0)])
def test_cheetah_pays_for_speed(speed, expected):
    assert reward("CheetahRun", [0.0] * 9, [speed] + [0.0] * 8) == pytest.approx(expected)


def draw(name: str, count: int = 4000):
    return CONTROL_TASKS[name].reset(torch.Generator().manual_seed(1), count)


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    width = high - low
    assert low <= values.min() < low + 0.01 * width
    assert high - 0.01 * width < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.03 * width
    assert abs(values.std() - width / math.sqrt(12)) < 0.02 * width


def test_cartpole_starts_near_upright():
    start = draw("CartpoleBalance")
    assert_uniform(start.qpos[:, 0], -0.1, 0.1)
    assert_uniform(start.qpos[:, 1], -0.034, 0.034)
    assert start.qvel.std(0).tolist() == pytest.approx([0.01, 0.01], rel=0.05)


def test_point_mass_starts_anywhere():
    start = draw("PointMass")
    for axis in range(2):
        assert_uniform(start.qpos[:, axis], -0.29, 0.29)
    assert start.qvel.eq(0).all()


def test_ball_in_cup_starts_always_the_same():
    start = draw("BallInCup", 3)
    assert start.qpos.eq(0).all()
    assert start.qvel.eq(0).all()


def test_reacher_starts_anywhere_with_the_target_in_reach():
    start = draw("ReacherEasy")
    assert_uniform(start.qpos[:, 0], -math.pi, math.pi)
    assert_uniform(start.qpos[:, 1], -math.radians(160), math.radians(160))
    x, y, height = start.mocap_pos[:, 0].unbind(-1)
    assert_uniform(torch.hypot(x, y), 0.05, 0.2)
    assert_uniform(torch.atan2(y, x), -math.pi, math.pi)
    assert height.eq(0.01).all()


def test_cheetah_starts_anywhere_in_its_joint_ranges():
    start = draw("CheetahRun")
    assert start.qpos[:, :3].eq(0).all()
    ranges = CONTROL_TASKS["CheetahRun"].build_spec().compile().jnt_range[3:]
    for joint, (low, high) in enumerate(ranges):
        assert_uniform(start.qpos[:, 3 + joint], low, high)
