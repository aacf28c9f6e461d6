"""Rewards of hand-made states, and where episodes start."""

from __future__ import annotations

import math

import pytest
import torch

from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv
from fpo_torchrl.envs.physics.c import CPhysics


def physics_at(name: str, qpos, qvel=None, target=None) -> CPhysics:
    """One copy in a state in which its sensors are evaluated too."""
    physics = CPhysics(CONTROL_TASKS[name].build_spec().compile(), num_envs=1, num_threads=1)
    qpos = torch.tensor([qpos], dtype=torch.float64)
    qvel = torch.zeros(1, physics.model.nv) if qvel is None else torch.tensor([qvel], dtype=torch.float64)
    mocap = torch.zeros(1, physics.model.nmocap, 3) if target is None else torch.tensor([[target]], dtype=torch.float64)
    physics.restart(qpos, qvel, mocap)
    return physics


def reward(name: str, qpos, qvel=None, action=None, target=None) -> float:
    physics = physics_at(name, qpos, qvel, target)
    action = torch.zeros(1, physics.control_dim) if action is None else torch.tensor([action])
    return float(CONTROL_TASKS[name].reward(physics.state, action))


def observation(name: str, qpos, target) -> list[float]:
    return CONTROL_TASKS[name].observe(physics_at(name, qpos, target=target).state)[0].tolist()


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
    assert reward("ReacherEasy", [shoulder, wrist], target=[*target, 0.01]) == expected


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 1), (0.0249, 1), (0.0251, 0), (0.05, 0)])
def test_the_hard_target_of_the_reacher_has_a_radius_of_15_mm(distance, expected):
    assert reward("ReacherHard", [0, math.pi / 2], target=[0.12, 0.12 + distance, 0.01]) == expected


@pytest.mark.parametrize(("speed", "expected"), [(-15.0, 1), (-14.99, 0), (-40.0, 1), (20.0, 0), (0.0, 0)])
def test_finger_spin_pays_for_spinning_one_way(speed, expected):
    assert reward("FingerSpin", [0, 0, 0], [-20.0, -20.0, speed]) == expected


# The tip is 0.13 m from the hinge, above it at the angle 0, and to its left at a quarter turn. The two ends of
# an arc of 0.2 rad are 0.026 m apart, those of 0.4 rad 0.0517 m and those of 0.6 rad 0.0768 m.
@pytest.mark.parametrize(
    ("angle", "target", "easy", "hard"),
    [
        (0, (0.2, 0.53), 1, 1),
        (0, (0.2, 0.53 + 0.0299), 1, 1),
        (0, (0.2, 0.53 + 0.0301), 1, 0),
        (0, (0.2 - 0.0699, 0.53), 1, 0),
        (0, (0.2 - 0.0701, 0.53), 0, 0),
        (0.2, (0.2, 0.53), 1, 1),
        (-0.4, (0.2, 0.53), 1, 0),
        (0.6, (0.2, 0.53), 0, 0),
        (math.pi / 2, (0.07, 0.4), 1, 1),
        (math.pi / 2, (0.33, 0.4), 0, 0),
    ],
)
def test_finger_turn_pays_while_the_tip_is_in_the_target(angle, target, easy, hard):
    for name, expected in {"FingerTurnEasy": easy, "FingerTurnHard": hard}.items():
        assert reward(name, [0, 0, angle], target=[target[0], 0.0, target[1]]) == expected


@pytest.mark.parametrize(("name", "radius"), [("FingerTurnEasy", 0.07), ("FingerTurnHard", 0.03)])
def test_finger_turn_observes_angles_tip_touch_target_and_distance(name, radius):
    found = observation(name, [-1.6, 0.2, math.pi / 2], [0.25, 0.0, 0.5])
    expected = [-1.6, 0.2, -0.13, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.1, math.hypot(0.18, 0.1) - radius]
    assert found == pytest.approx(expected, abs=1e-9)


# The middle of the mouth is 0.0745 m along y from the fish's middle. It reaches a target within 0.045 m; the reward
# for it is 0.1 at three times that, and 0.1^4 at five times.
LEVEL, ON_ITS_SIDE, ON_ITS_BACK = [1, 0, 0, 0], [math.sqrt(0.5), 0, math.sqrt(0.5), 0], [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("turn", "distance", "expected"),
    [
        (LEVEL, 0.0, 1.0),
        (LEVEL, 0.0449, 1.0),
        (LEVEL, 0.135, (7 * 0.1 + 1) / 8),
        (LEVEL, 0.225, (7 * 0.1**4 + 1) / 8),
        (ON_ITS_SIDE, 0.0, (7 + 0.5) / 8),
        (ON_ITS_BACK, 0.0, 7 / 8),
        (ON_ITS_BACK, 0.135, 7 * 0.1 / 8),
        (ON_ITS_SIDE, 9.0, 0.5 / 8),
    ],
)
def test_fish_swim_pays_for_the_mouth_at_the_target_and_for_being_upright(turn, distance, expected):
    target = [0.02 + 0.6 * distance, 0.0745 - 0.8 * distance, -0.03]
    found = reward("FishSwim", [0.02, 0.0, -0.03, *turn, *[0.1] * 7], target=target)
    assert found == pytest.approx(expected, rel=1e-6)


def test_fish_swim_observes_uprightness_joints_and_the_target_from_the_mouth():
    joints = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7]
    found = observation("FishSwim", [0.02, 0.0, -0.03, *LEVEL, *joints], [0.12, 0.3745, 0.17])
    # The mouth's axes are the fish's x, -z and y.
    assert found == pytest.approx([1.0, *joints, 0.1, -0.2, 0.3, *[0.0] * 13], abs=1e-9)


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


def assert_independent(values: torch.Tensor) -> None:
    """Columns whose correlations are those of chance."""
    assert torch.corrcoef(values.T).fill_diagonal_(0).abs().max() < 0.06


@pytest.mark.parametrize("name", ["FingerSpin", "FingerTurnEasy", "FingerTurnHard"])
def test_finger_starts_anywhere(name):
    start = draw(name)
    for joint in range(2):
        assert_uniform(start.qpos[:, joint], -math.radians(110), math.radians(110))
    assert_uniform(start.qpos[:, 2], -math.pi, math.pi)
    assert start.qvel.eq(0).all()
    x, y, z = start.mocap_pos[:, 0].unbind(-1)
    assert y.eq(0).all()
    if name == "FingerSpin":
        assert_independent(start.qpos)
    else:
        angle = torch.atan2(x - 0.2, z - 0.4)
        torch.testing.assert_close(torch.hypot(x - 0.2, z - 0.4), torch.full_like(x, 0.13))
        assert_uniform(angle, -math.pi, math.pi)
        assert_independent(torch.column_stack([start.qpos, angle]))


def test_fish_starts_turned_any_way():
    start = draw("FishSwim")
    assert start.qpos[:, :3].eq(0).all()
    turn = start.qpos[:, 3:7]
    torch.testing.assert_close(turn.norm(dim=-1), torch.ones(len(turn), dtype=torch.float64))
    # For a rotation drawn at random every axis points anywhere on the sphere, so its height is uniform.
    assert_uniform(1 - 2 * (turn[:, 1].square() + turn[:, 2].square()), -1, 1)
    assert_uniform(2 * (turn[:, 2] * turn[:, 3] + turn[:, 0] * turn[:, 1]), -1, 1)
    for joint in range(7):
        assert_uniform(start.qpos[:, 7 + joint], -0.2, 0.2)
    assert start.qvel.eq(0).all()
    for axis, (low, high) in enumerate([(-0.4, 0.4), (-0.4, 0.4), (0.1, 0.3)]):
        assert_uniform(start.mocap_pos[:, 0, axis], low, high)
    assert_independent(torch.cat([turn, start.qpos[:, 7:], start.mocap_pos[:, 0]], dim=-1))


@pytest.mark.parametrize("name", ["ReacherEasy", "ReacherHard"])
def test_the_first_observation_of_the_reacher_shows_the_target_of_the_episode(name):
    env = ControlEnv(name, num_envs=5, num_threads=1)
    shown, (shoulder, wrist) = env.reset()["observation"], env.physics.state.qpos.unbind(-1)
    finger = [0.12 * (way(shoulder) + way(shoulder + wrist)) for way in (torch.cos, torch.sin)]
    expected = env.physics.state.mocap_pos[:, 0, :2] - torch.stack(finger, dim=-1)
    torch.testing.assert_close(shown[:, 2:4], expected.float(), atol=1e-6, rtol=0)


def test_the_first_observation_of_the_finger_shows_the_target_of_the_episode():
    env = ControlEnv("FingerTurnEasy", num_envs=5, num_threads=1)
    shown = env.reset()["observation"][:, 9:11]
    expected = env.physics.state.mocap_pos[:, 0, ::2] - torch.tensor([0.2, 0.4])
    torch.testing.assert_close(shown, expected.float(), atol=1e-6, rtol=0)


def test_the_first_observation_of_the_fish_shows_the_target_of_the_episode():
    env = ControlEnv("FishSwim", num_envs=5, num_threads=1)
    shown = env.reset()["observation"][:, 8:11]
    w, x, y, z = env.physics.state.qpos[:, 3:7].unbind(-1)
    ahead = torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], dim=-1)
    expected = (env.physics.state.mocap_pos[:, 0] - 0.0745 * ahead).norm(dim=-1)
    torch.testing.assert_close(shown.norm(dim=-1), expected.float(), atol=1e-6, rtol=0)


def test_cheetah_starts_anywhere_in_its_joint_ranges():
    start = draw("CheetahRun")
    assert start.qpos[:, :3].eq(0).all()
    ranges = CONTROL_TASKS["CheetahRun"].build_spec().compile().jnt_range[3:]
    for joint, (low, high) in enumerate(ranges):
        assert_uniform(start.qpos[:, 3 + joint], low, high)
