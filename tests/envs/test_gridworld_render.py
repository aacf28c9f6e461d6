"""Pictures of GridWorlds: every cell has its colour, and the agent is where the state says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fpo_torchrl.envs import LAYOUTS, GridWorld
from fpo_torchrl.evaluation import record

PITCH = 12


def blue(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (blue > 2 * red) & (blue > 1.3 * green)


def place(env: GridWorld, *cells: tuple[int, int]) -> GridWorld:
    env.position = torch.tensor(cells)
    return env


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cells_have_the_colours_of_what_they_are(layout):
    env = GridWorld(layout)
    corner = tuple(env.layout.free.nonzero()[0].flip(0).tolist())
    picture = place(env, corner).render().astype(int)
    assert picture.shape == (301, 301, 3)
    centers = picture[::-1][PITCH // 2 :: PITCH, PITCH // 2 :: PITCH]
    red, green, blue = centers.transpose(2, 0, 1)
    free = env.layout.free.clone()
    free[corner[1], corner[0]] = False
    np.testing.assert_array_equal((green > 1.3 * red) & (green > 1.3 * blue), env.layout.goal)
    np.testing.assert_array_equal((red > 1.5 * green) & (red > 1.5 * blue), env.layout.death)
    np.testing.assert_array_equal(centers.max(-1) < 100, env.layout.wall)
    np.testing.assert_array_equal(centers.min(-1) > 240, free)


@pytest.mark.parametrize("cell", [(0, 12), (24, 5), (3, 20), (12, 12)])
def test_the_agent_is_drawn_in_its_cell_with_y_up(cell):
    env = place(GridWorld("two_walls", num_envs=2), (1, 3), cell)
    rows, columns = np.nonzero(blue(env.render(1)))
    x, y = cell
    assert columns.mean() == pytest.approx(PITCH * (x + 0.5), abs=0.5)
    assert rows.mean() == pytest.approx(300 - PITCH * (y + 0.5), abs=0.5)
    assert np.ptp(rows) < PITCH
    assert np.ptp(columns) < PITCH


def test_the_agent_moves_up_when_y_grows():
    env = place(GridWorld("two_walls"), (12, 12))
    before = np.nonzero(blue(env.render()))
    env.advance(torch.tensor([[0.0, 1.0]]))
    after = np.nonzero(blue(env.render()))
    assert before[0].mean() - after[0].mean() == pytest.approx(PITCH, abs=0.1)
    assert before[1].mean() == pytest.approx(after[1].mean(), abs=0.1)


@pytest.mark.parametrize(("height", "width"), [(76, 76), (200, 310), (310, 200)])
def test_any_size_is_filled_from_the_middle_with_squares(height, width):
    picture = place(GridWorld("cshape"), (12, 12)).render(height=height, width=width)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero(blue(picture))
    assert rows.mean() == pytest.approx((height - 1) / 2, abs=0.6)
    assert columns.mean() == pytest.approx((width - 1) / 2, abs=0.6)
    assert np.ptp(rows) == np.ptp(columns)


def test_wrong_arguments_are_named():
    env = GridWorld("cshape", num_envs=3)
    for index in (-1, 3):
        with pytest.raises(ValueError, match=rf"index must be in \[0, 3\), got {index}"):
            env.render(index)
    with pytest.raises(ValueError, match="at least 76 pixels for 25 cells, got 75, 200"):
        env.render(height=75, width=200)


def test_a_recording_ends_with_the_agent_at_the_goal(tmp_path):
    env = GridWorld("two_walls", initial_cells=[(12, 18)], spread_episodes=False)

    def up(tensordict):
        return tensordict.set("action", torch.tensor([[0.0, 1.0]]))

    path = record(up, env, tmp_path / "rollout.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 6  # rows 18 to 23, where the goal begins
        assert gif.info["duration"] == 100
        gif.seek(5)
        rows, _ = np.nonzero(blue(np.asarray(gif.convert("RGB"))))
    assert rows.mean() == pytest.approx(300 - PITCH * 23.5, abs=0.5)
