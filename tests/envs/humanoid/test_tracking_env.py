"""Goals, masks, observation, reward and termination, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fpo_torchrl.envs.humanoid import HUMANOID, SKELETONS, HumanoidEnv, rotations
from fpo_torchrl.envs.humanoid.goal import GOAL_BLOCKS, conditioned_bodies, goal_dim, goal_mask
from fpo_torchrl.envs.humanoid.kinematics import BodyStates, Kinematics
from fpo_torchrl.envs.humanoid.observation import observe, self_dim
from fpo_torchrl.envs.humanoid.reward import farthest, mean_distance, power, servo_torque, tracking_terms

BODIES = 15


def some_bodies(seed: int, count: int = 4) -> BodyStates:
    """Bodies in random states."""
    generator = torch.Generator().manual_seed(seed)
    qpos = torch.randn(count, 43, generator=generator, dtype=torch.float64)
    for start in (3, 7, 11, 15, 20, 25, 30, 34, 39):
        qpos[:, start : start + 4] /= qpos[:, start : start + 4].norm(dim=-1, keepdim=True)
    return Kinematics(HUMANOID)(qpos, torch.randn(count, 34, generator=generator, dtype=torch.float64))


def at_rest(count: int = 1) -> BodyStates:
    zeros, quat = torch.zeros(3, BODIES, count), torch.zeros(4, BODIES, count)
    quat[0] = 1
    return BodyStates(zeros, quat, zeros.clone(), zeros.clone())


@pytest.mark.parametrize(("conditioning", "kept"), [("full", 360), ("root_hands", 18), ("root", 6)])
@pytest.mark.parametrize("name", SKELETONS)
def test_the_masks_keep_as_many_features_as_in_the_paper(name, conditioning, kept):
    assert goal_dim(SKELETONS[name]) == 360
    assert self_dim(SKELETONS[name]) == 223
    assert goal_mask(SKELETONS[name], conditioning).sum() == kept


def test_the_masks_keep_the_two_positions_of_the_named_bodies():
    """Blocks of 3, 6, 3, 3, 3, 6 numbers for 15 bodies: the position's error begins at 0, its place at 15 * 15."""
    pelvis, right_hand, left_hand = 0, 5, 8
    assert conditioned_bodies(HUMANOID, "root_hands") == [pelvis, right_hand, left_hand]
    expected = [start + 15 * axis for start in (0, 225) for axis in range(3)]
    assert goal_mask(HUMANOID, "root").nonzero().flatten().tolist() == expected
    hands = sorted(index + body for index in expected for body in (pelvis, right_hand, left_hand))
    assert goal_mask(HUMANOID, "root_hands").nonzero().flatten().tolist() == hands
    assert list(GOAL_BLOCKS.values()) == [3, 6, 3, 3, 3, 6]


def test_an_unknown_conditioning_is_refused():
    with pytest.raises(ValueError, match="conditioning must be one of full, root_hands, root, got 'hands'"):
        goal_mask(HUMANOID, "hands")


def block(observation: torch.Tensor, name: str) -> torch.Tensor:
    """One part of the goal, ``[n, numbers, bodies]``."""
    names = list(GOAL_BLOCKS)
    start = 223 + 15 * sum(GOAL_BLOCKS[it] for it in names[: names.index(name)])
    return observation[:, start : start + 15 * GOAL_BLOCKS[name]].unflatten(-1, (-1, 15))


def test_a_reached_goal_is_a_goal_without_differences():
    bodies = some_bodies(0)
    observation = observe(bodies, bodies)
    for name in ("position_error", "velocity_error", "angular_velocity_error"):
        assert block(observation, name).abs().max() < 1e-9
    turn = block(observation, "rotation_error")
    identity = torch.tensor([1.0, 0, 0, 0, 0, 1], dtype=torch.float64)[:, None].expand(4, 6, 15)
    torch.testing.assert_close(turn, identity, atol=1e-9, rtol=0)


def test_positions_of_the_goal_are_seen_from_the_own_heading():
    """Facing y (a quarter turn), a goal one metre along y is one metre ahead, and one along x a metre to the right."""
    own = replace(at_rest(), quat=rotations.about(2, torch.full((BODIES, 1), math.pi / 2)))
    goal = replace(own, pos=torch.tensor([1.0, 1.0, 0.5])[:, None, None].expand(3, BODIES, 1))
    for name in ("position_error", "position"):
        np.testing.assert_allclose(block(observe(own, goal), name)[0, :, 7], [1, -1, 0.5], atol=1e-6)


def test_the_first_number_is_the_height_of_the_root():
    bodies = some_bodies(1)
    assert torch.equal(observe(bodies, some_bodies(2))[:, 0], bodies.pos[2, 0])


def test_nothing_changes_if_all_is_moved_and_turned_together():
    turn, shift = torch.tensor(2.1, dtype=torch.float64), torch.tensor([5.0, -3.0, 0.0])[:, None, None].double()
    yaw = rotations.about(2, turn)[:, None, None]

    def elsewhere(bodies: BodyStates) -> BodyStates:
        vectors = [rotations.rotate(yaw, it) for it in (bodies.pos, bodies.vel, bodies.angvel)]
        return BodyStates(vectors[0] + shift, rotations.multiply(yaw, bodies.quat), *vectors[1:])

    own, goal = some_bodies(3), some_bodies(4)
    torch.testing.assert_close(observe(elsewhere(own), elsewhere(goal)), observe(own, goal))
    torch.testing.assert_close(tracking_terms(elsewhere(own), elsewhere(goal)), tracking_terms(own, goal))


def test_in_the_plane_it_is_the_same_without_looking_for_the_heading():
    env = HumanoidEnv("humanoid/planar", num_envs=16, num_threads=1, max_distance=9.0)
    env.rollout(5)
    goal = env.motion_library.now_and_next(env.clip, env.frame)[1]
    torch.testing.assert_close(env.observe(), observe(env.bodies, goal), rtol=0, atol=1e-6)


def test_observations_tell_bodies_apart():
    """The goal of one body appears in its own column alone."""
    own = at_rest()
    pos = own.pos.clone()
    pos[2, 11] = 0.3
    seen = block(observe(own, replace(own, pos=pos)), "position_error")[0]
    assert seen[2, 11] == pytest.approx(0.3)
    assert seen.count_nonzero() == 1


def test_velocities_are_ones_own_and_then_goal_minus_own():
    """Body 3 moves with (1, 2, 3) and turns with (4, 5, 6), its goal with (10, 20, 30) and (40, 50, 60)."""
    own, goal = at_rest(), at_rest()
    own.vel[:, 3, 0], own.angvel[:, 3, 0] = torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 6])
    goal.vel[:, 3, 0], goal.angvel[:, 3, 0] = torch.tensor([10.0, 20, 30]), torch.tensor([40.0, 50, 60])
    seen = observe(own, goal)
    # before the goal: 1 height, 14 positions, 15 rotations of 6 numbers, then velocities and angular velocities
    velocity, spin = seen[0, 1 + 3 * 14 + 6 * 15 : 223].unflatten(0, (2, 3, 15))
    assert velocity[:, 3].tolist() == [1, 2, 3]
    assert spin[:, 3].tolist() == [4, 5, 6]
    assert block(seen, "velocity_error")[0, :, 3].tolist() == [9, 18, 27]
    assert block(seen, "angular_velocity_error")[0, :, 3].tolist() == [36, 45, 54]
    assert seen.count_nonzero() == 12 + 3 * 2 * 15  # and the two ones of each of three rotations of 15 bodies


@pytest.mark.parametrize("turned", ["own", "goal"])
def test_rotations_are_ones_own_the_goals_and_from_own_to_goal(turned):
    """A quarter turn about z takes x to y and leaves z: columns (0, 1, 0) and (0, 0, 1); the way back takes x to -y."""
    quarter, none, back = [0.0, 1, 0, 0, 0, 1], [1.0, 0, 0, 0, 0, 1], [0.0, -1, 0, 0, 0, 1]
    quat = at_rest().quat.clone()
    quat[:, 4, 0] = torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])
    states = {"own": at_rest(), "goal": at_rest()} | {turned: replace(at_rest(), quat=quat)}
    seen = observe(**states)
    found = [seen[:, 43 : 43 + 90].unflatten(-1, (6, 15)), block(seen, "rotation"), block(seen, "rotation_error")]
    expected = {"own": [quarter, none, back], "goal": [none, quarter, quarter]}[turned]
    torch.testing.assert_close(torch.stack(found)[:, 0, :, 4], torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_reward_at_the_reference_is_one():
    bodies = some_bodies(5)
    assert tracking_terms(bodies, bodies).sum(0).tolist() == pytest.approx([1.0] * 4)


def test_the_reward_of_one_body_out_of_place():
    """0.15 m along x: mean square .0225 / 45 = 5e-4, and 0.5 exp(-100 * 5e-4) = .475614712."""
    own = at_rest()
    pos = own.pos.clone()
    pos[0, 3] = 0.15
    terms = tracking_terms(replace(own, pos=pos), own)
    assert terms.flatten().tolist() == pytest.approx([0.475614712, 0.3, 0.1, 0.1], abs=1e-6)


def test_the_reward_of_one_body_turned_spinning_and_rushing():
    """A turn by 1 rad: 0.3 exp(-10 / 15); 3 m/s: 0.1 exp(-.1 * 9 / 45); 6 rad/s: 0.1 exp(-.1 * 36 / 45)."""
    own = at_rest()
    quat, vel, angvel = own.quat.clone(), own.vel.clone(), own.angvel.clone()
    quat[:, 2, 0] = torch.tensor([math.cos(0.5), 0.0, -math.sin(0.5), 0.0])
    vel[1, 2], angvel[2, 2] = 3.0, 6.0
    terms = tracking_terms(BodyStates(own.pos, quat, vel, angvel), own)
    position, rotation, velocity, angular_velocity = terms.flatten().tolist()
    assert position == 0.5
    assert rotation == pytest.approx(0.154025, abs=1e-5)
    assert velocity == pytest.approx(0.098019867, abs=1e-7)
    assert angular_velocity == pytest.approx(0.092311635, abs=1e-7)


def test_distances():
    own = at_rest(2)
    pos = own.pos.clone()
    pos[:, 4, 1] = torch.tensor([0.0, 0.3, 0.4])
    moved = replace(own, pos=pos)
    assert farthest(moved, own).tolist() == pytest.approx([0, 0.5])
    assert mean_distance(moved, own).tolist() == pytest.approx([0, 0.5 / 15])


def test_power_and_torque():
    """1000 * (0.4 - 0.1) - 100 * 2 = 100 Nm at 2 rad/s are 200 W; the second servo is at its limit of 500 Nm."""
    two = torch.tensor([[0.1, 0.0]]), torch.tensor([[2.0, -3.0]]), torch.tensor([[0.4, 2.0]])
    torque = servo_torque(*two, torch.tensor([1000.0, 500]), torch.tensor([100.0, 50]), 500.0)
    assert torque.tolist() == [[pytest.approx(100.0, abs=1e-3), 500.0]]
    assert power(torque, two[1]).item() == pytest.approx(200 + 1500, abs=1e-2)
