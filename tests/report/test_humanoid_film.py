"""Episodes side by side: what each pane shows, and when it stands still."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.report.humanoid_film import Take, shoot, side_by_side

STEP_S = 0.1


def take(*shades: int, is_lost: bool = False) -> Take:
    """An episode of plain pictures."""
    return Take("", [np.full((40, 60, 3), shade, dtype=np.uint8) for shade in shades], is_lost)


def corner(picture: np.ndarray, pane: int) -> int:
    """The shade of a pane, at its lower right and inside its frame."""
    return int(picture[-2, 60 * pane + 58, 0])


def test_panes_stand_beside_each_other_until_the_longest_is_over_and_a_second_more():
    frames = side_by_side([take(10, 20, 30, 40), take(110, 120)], step_s=STEP_S)
    assert len(frames) == 4 + 10
    assert frames[0].shape == (40, 120, 3)
    assert [corner(frame, 0) for frame in frames[:5]] == [10, 20, 30, 40, 40]
    assert [corner(frame, 1) for frame in frames[:5]] == [110, 120, 120, 120, 120]


def test_a_lost_one_stands_still_and_pale():
    frames = side_by_side([take(10, 20, 30), take(110, 120, is_lost=True)], step_s=STEP_S)
    assert [corner(frame, 1) for frame in frames[:3]] == [110, (120 + 250) // 2, (120 + 250) // 2]
    assert corner(frames[-1], 0) == 30


def test_more_than_four_make_a_second_row():
    frames = side_by_side([take(10)] * 4 + [take(90)], step_s=STEP_S)
    assert frames[0].shape == (80, 240, 3)
    assert (frames[0][38, 58, 0], frames[0][-2, 58, 0], frames[0][-2, -2, 0]) == (10, 90, 250)


@pytest.mark.parametrize("motion", [0, 1])
def test_an_episode_is_filmed_until_it_loses_its_own_motion(motion):
    """Without a policy the body falls in less than a second; a picture for each step and one before."""
    env = HumanoidEnv(
        "humanoid/planar",
        num_envs=2,
        num_threads=1,
        random_start=False,
        spread_episodes=False,
        distance="mean",
        max_distance=0.5,
    )
    still = TensorDictModule(lambda seen: torch.zeros(2, 12), in_keys=["observation"], out_keys=["action"])
    shot = shoot("PPO", still, env, motion)
    assert shot.is_lost
    assert 3 < len(shot.pictures) < 45
    assert shot.pictures[0].shape == (240, 320, 3)
    assert not np.array_equal(shot.pictures[0], shot.pictures[-1])
