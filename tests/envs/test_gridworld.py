"""GridWorld against hand-written cases, the published numbers and, where a checkout is given, the authors' code."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchrl.envs import check_env_specs

from fpo_torchrl.envs import LAYOUTS, GridWorld, gridworld_step, make_layout

STEP = 1.0
JUST_OVER = math.nextafter(0.5, 1.0) + 1e-7  # above 0.5 in float32 too


def move(layout: str, cell: tuple[int, int], action: tuple[float, float]):
    world = make_layout(layout)
    position, reward, terminated = gridworld_step(
        torch.tensor([cell]), torch.tensor([action]), world.wall, world.reward_map
    )
    return tuple(position[0].tolist()), reward.item(), terminated.item()


@pytest.mark.parametrize(
    ("action", "cell"),
    [
        ((0.0, 0.0), (5, 12)),
        ((0.5, -0.5), (5, 12)),  # exactly one half rounds to even: to 0
        ((JUST_OVER, 0.0), (6, 12)),
        ((0.0, -JUST_OVER), (5, 11)),
        ((1.0, 1.0), (6, 13)),
        ((-0.7, 0.7), (4, 13)),
        ((9.0, -9.0), (6, 11)),  # clipped to one cell
        ((1.5, 0.2), (6, 12)),
        ((math.nan, 1.0), (5, 13)),
        ((math.inf, -math.inf), (6, 11)),
    ],
)
def test_moves_in_the_open(action, cell):
    assert move("two_walls", (5, 12), action) == (cell, 0.0, False)


GOAL, DEATH, FREE = (20.0, True), (-10.0, True), (0.0, False)


@pytest.mark.parametrize(
    ("layout", "cell", "action", "target", "outcome"),
    [
        # two_walls: the first and last two rows are goals; borders clip each coordinate.
        ("two_walls", (7, 2), (0, -STEP), (7, 1), GOAL),
        ("two_walls", (7, 22), (STEP, STEP), (8, 23), GOAL),
        ("two_walls", (7, 3), (0, -STEP), (7, 2), FREE),
        ("two_walls", (0, 12), (-STEP, 0), (0, 12), FREE),
        ("two_walls", (0, 12), (-STEP, STEP), (0, 13), FREE),
        ("two_walls", (24, 12), (STEP, -STEP), (24, 11), FREE),
        # three_goals: 3 x 3 goals around (12,18), (7,7), (17,7); death around the centre.
        ("three_goals", (10, 18), (STEP, 0), (11, 18), GOAL),
        ("three_goals", (9, 9), (-STEP, -STEP), (8, 8), GOAL),
        ("three_goals", (15, 7), (STEP, 0), (16, 7), GOAL),
        ("three_goals", (10, 10), (STEP, STEP), (11, 11), DEATH),
        ("three_goals", (12, 14), (0, -STEP), (12, 13), DEATH),
        ("three_goals", (10, 10), (0, STEP), (10, 11), FREE),
        # tree_in_the_middle: death in x 13..17, y 10..14; goal in x 23..24, y 10..14.
        ("tree_in_the_middle", (12, 12), (STEP, 0), (13, 12), DEATH),
        ("tree_in_the_middle", (12, 9), (STEP, STEP), (13, 10), DEATH),
        ("tree_in_the_middle", (12, 9), (STEP, 0), (13, 9), FREE),
        ("tree_in_the_middle", (22, 12), (STEP, 0), (23, 12), GOAL),
        ("tree_in_the_middle", (22, 9), (STEP, 0), (23, 9), FREE),
        # two_slits: a wall at x = 15 with openings at y 4..7 and 17..20; the goal is x = 24.
        ("two_slits", (14, 12), (STEP, 0), (14, 12), FREE),
        ("two_slits", (14, 12), (STEP, STEP), (14, 12), FREE),  # no sliding along the wall
        ("two_slits", (14, 5), (STEP, 0), (15, 5), FREE),
        ("two_slits", (14, 8), (STEP, -STEP), (15, 7), FREE),  # diagonally past the corner
        ("two_slits", (14, 3), (STEP, 0), (14, 3), FREE),
        ("two_slits", (14, 20), (STEP, STEP), (14, 20), FREE),
        ("two_slits", (15, 20), (0, STEP), (15, 20), FREE),
        ("two_slits", (23, 0), (STEP, 0), (24, 0), GOAL),
        ("two_slits", (23, 0), (0, -STEP), (23, 0), FREE),
        # cshape: walls y = 7, y = 17 (x 7..17) and x = 17; open to the left; the goal is the 5 x 5 centre.
        ("cshape", (18, 12), (-STEP, 0), (18, 12), FREE),
        ("cshape", (6, 12), (STEP, 0), (7, 12), FREE),
        ("cshape", (6, 7), (STEP, 0), (6, 7), FREE),
        ("cshape", (7, 8), (0, -STEP), (7, 8), FREE),
        ("cshape", (6, 18), (STEP, -STEP), (6, 18), FREE),
        ("cshape", (6, 6), (STEP, STEP), (6, 6), FREE),
        ("cshape", (9, 12), (STEP, 0), (10, 12), GOAL),
        ("cshape", (15, 15), (-STEP, -STEP), (14, 14), GOAL),
    ],
)
def test_moves_at_the_things_of_each_layout(layout, cell, action, target, outcome):
    assert move(layout, cell, tuple(map(float, action))) == (target, *outcome)


def test_step_keeps_leading_dimensions():
    world = make_layout("two_slits")
    position, reward, terminated = gridworld_step(
        torch.full((3, 4, 2), 5), torch.ones(3, 4, 2), world.wall, world.reward_map
    )
    assert position.shape == (3, 4, 2)
    assert reward.shape == terminated.shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "goal", "death", "wall", "free", "mean", "furthest"),
    [
        ("two_walls", 100, 0, 0, 525, 5.8, 11),
        ("three_goals", 27, 9, 0, 589, 4.6, 11),
        ("tree_in_the_middle", 10, 25, 0, 590, 12.3, 23),
        ("two_slits", 25, 0, 17, 600 - 17, 12.6, 24),  # the authors also start inside the wall
        ("cshape", 25, 0, 31, 600 - 31, 11.1, 22),
    ],
)
def test_cell_counts_and_shortest_paths(name, goal, death, wall, free, mean, furthest):
    layout = make_layout(name)
    assert [int(mask.sum()) for mask in (layout.goal, layout.death, layout.wall, layout.free)] == [
        goal,
        death,
        wall,
        free,
    ]
    distance = layout.distance_to_goal()
    assert distance[layout.free].max() == furthest
    assert (distance[layout.goal] == 0).all()
    assert distance[layout.death | layout.wall].isinf().all()
    # The published mean counts starts inside walls: from there, one move to the best neighbour.
    starts = distance.clone()
    for y, x in layout.wall.nonzero().tolist():
        around = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
        starts[y, x] = 1 + distance[around].min()
    assert starts[layout.free | layout.wall].mean() == pytest.approx(mean, abs=0.051)


def cells(xs, ys) -> set[tuple[int, int]]:
    return {(x, y) for x in xs for y in ys}


@pytest.mark.parametrize(
    ("name", "saddle"),
    [
        ("two_walls", cells(range(25), [12])),
        ("three_goals", cells([12], range(11))),
        ("tree_in_the_middle", cells(range(13), [12])),
        ("two_slits", cells(range(15), [12])),
        ("cshape", cells(range(18, 25), [12])),
    ],
)
def test_saddle_cells(name, saddle):
    assert {tuple(cell) for cell in make_layout(name).saddle_cells().tolist()} == saddle


def test_distances_at_the_saddles():
    assert make_layout("two_walls").distance_to_goal()[12].tolist() == [11.0] * 25
    assert make_layout("three_goals").distance_to_goal()[2:11, 12].tolist() == [4.0] * 9


@pytest.mark.parametrize(
    ("name", "num_regions"),
    [("two_walls", 2), ("three_goals", 3), ("tree_in_the_middle", 1), ("two_slits", 1), ("cshape", 1)],
)
def test_goal_regions(name, num_regions):
    layout = make_layout(name)
    region = layout.goal_regions()
    assert sorted(region[layout.goal].unique().tolist()) == list(range(num_regions))
    assert (region[~layout.goal] == -1).all()


def test_goal_regions_of_two_walls_are_bottom_and_top():
    region = make_layout("two_walls").goal_regions()
    assert region[:, 3].tolist() == [0, 0, *[-1] * 21, 1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_starts_are_uniform_over_the_free_cells(layout):
    env = GridWorld(layout, num_envs=60_000, seed=4)
    env.reset()
    visits = torch.zeros(25, 25)
    visits.index_put_((env.position[:, 1], env.position[:, 0]), torch.ones(60_000), accumulate=True)
    free = env.layout.free
    assert (visits[~free] == 0).all()
    expected = 60_000 / int(free.sum())  # about 100 per cell, standard deviation 10
    assert visits[free].min() > expected - 6 * expected**0.5
    assert visits[free].max() < expected + 6 * expected**0.5


def test_initial_cells_are_the_only_starts():
    for cells in ([(20, 12), (22, 10)], [[20, 12], [22, 10]]):  # YAML has lists alone
        env = GridWorld("cshape", num_envs=200, initial_cells=cells)
        env.reset()
        assert {tuple(cell) for cell in env.position.tolist()} == {(20, 12), (22, 10)}


@pytest.mark.parametrize("bad", [[], [(12, 12)], [(25, 0)], [(17, 12)], [(0, 0), (-1, 3)]])
def test_initial_cells_must_be_free(bad):
    with pytest.raises(ValueError, match="initial_cells must be free cells"):
        GridWorld("cshape", initial_cells=bad)


def test_unknown_layout():
    with pytest.raises(ValueError, match=r"layout must be one of two_walls, .*got 'maze'"):
        GridWorld("maze")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_specs(layout):
    check_env_specs(GridWorld(layout, num_envs=3))


def test_observation_and_time_limit():
    env = GridWorld("two_walls", num_envs=1, initial_cells=[(0, 18)], spread_episodes=False)
    td = env.reset()
    assert td["observation"].tolist() == [[-1.0, 0.5]]
    for step in range(100):
        _, td = env.step_and_maybe_reset(td.set("action", torch.zeros(1, 2)))
        assert env.step_count.item() == (step + 1) % 100  # the authors' limit of 100 moves


def test_an_episode_by_hand():
    env = GridWorld("two_walls", num_envs=1, initial_cells=[(17, 12)], spread_episodes=False)
    up = torch.tensor([[0.0, 0.9]])
    rollout = env.rollout(50, policy=lambda td: td.set("action", up))
    assert rollout.shape == (1, 11)  # 11 steps from the middle to row 23
    assert rollout["next", "reward"].flatten().tolist() == [0.0] * 10 + [20.0]
    assert rollout["next", "terminated"].flatten().tolist() == [False] * 10 + [True]
    assert rollout["next", "observation"][0, -1].tolist() == pytest.approx([5 / 12, 11 / 12])


def authors_module():
    root = os.environ.get("FPO_SOURCE")
    if not root:
        pytest.skip("set FPO_SOURCE to a checkout of github.com/akanazawa/fpo to compare with the authors' GridWorld")
    import matplotlib

    matplotlib.use("Agg")
    path = Path(root) / "gridworld" / "utils" / "gridworld.py"
    spec = importlib.util.spec_from_file_location("authors_gridworld", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LAYOUTS)
def test_authors_transitions(name):
    reference = authors_module().GridWorldEnv(mode=name)
    rng, count = np.random.default_rng(0), 10_000
    start = rng.integers(0, 25, (count, 2))
    action = rng.uniform(-1.5, 1.5, (count, 2)).astype(np.float32)
    action[::3] = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], action[::3].shape)
    expected = []
    for cell, one_action in zip(start, action, strict=True):
        reference.pos = cell.copy()
        observation, reward, done, *_ = reference.step(one_action)
        expected.append((*reference.pos.tolist(), *observation.tolist(), reward, done))
    env = GridWorld(name, num_envs=count)
    env.position = torch.from_numpy(start)
    reward, terminated = env.advance(torch.from_numpy(action))
    ours = torch.cat([env.position, env.observe(), reward[:, None], terminated[:, None]], -1)
    assert torch.equal(ours, torch.tensor(expected, dtype=torch.float32))
