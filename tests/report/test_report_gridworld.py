"""What ``fpo-gridworld`` measures of policies that are written by hand, and what it writes of trained ones."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from PIL import Image
from tensordict.nn import TensorDictModule

from fpo_torchrl.envs.gridworld_layout import LAYOUTS, make_layout
from fpo_torchrl.report import gridworld_command
from fpo_torchrl.report.gridworld import STARTS, GridPolicy, across, first_sides, measure
from fpo_torchrl.runs.start import start_run


def policy(act, layout: str = "two_walls", **kwargs) -> GridPolicy:
    actor = TensorDictModule(act, in_keys=["observation"], out_keys=["action"])
    return GridPolicy(actor, make_layout(layout), **kwargs)


def up(observation):
    return torch.stack([torch.zeros_like(observation[..., 1]), torch.ones_like(observation[..., 1])], -1)


def nearest(observation):
    """Straight to the nearer wall, and from the middle to either."""
    coin = torch.rand_like(observation[..., 1]) - 0.5
    return up(observation) * torch.where(observation[..., 1] == 0, coin, observation[..., 1]).sign().unsqueeze(-1)


class TestMeasures:
    def test_a_policy_that_keeps_both_ways(self):
        numbers = measure(policy(nearest), (17, 12), num_rollouts=1000)
        for name in ("success", "path_efficiency", "saddle_efficiency", "both", "commit"):
            assert numbers[name] == pytest.approx(1), name
        assert numbers["valley"] > 0.99
        assert numbers["share_low"] + numbers["share_high"] == pytest.approx(1)
        assert numbers["share_low"] == pytest.approx(0.5, abs=0.06)
        assert numbers["goal_entropy"] == pytest.approx(1, abs=0.02)

    def test_a_policy_that_has_one(self):
        """Up from row y takes 23 - y moves; the way down would be y - 1."""
        numbers = measure(policy(up), (17, 12))
        efficiency = [min(23 - y, y - 1) / (23 - y) for y in range(2, 23)]
        assert numbers["success"] == 1
        assert numbers["path_efficiency"] == pytest.approx(sum(efficiency) / 21)
        assert numbers["saddle_efficiency"] == 1
        assert (numbers["both"], numbers["minor"], numbers["valley"], numbers["goal_entropy"]) == (0, 0, 0, 0)
        assert (numbers["share_low"], numbers["share_high"], numbers["commit"]) == (0, 1, 1)

    def test_a_policy_that_stays(self):
        numbers = measure(policy(torch.zeros_like, max_steps=5), (17, 12))
        assert set(numbers.values()) == {0.0}

    def test_a_path_ends_at_the_goal_and_stays_there(self):
        rollouts = policy(up).rollouts(torch.tensor([[3, 20], [3, 22]]))
        assert rollouts.path.tolist() == [[[3, 20], [3, 21], [3, 22], [3, 23]], [[3, 22], *[[3, 23]] * 3]]
        assert rollouts.length.tolist() == [3, 1]
        assert rollouts.goal.tolist() == [1, 1]

    def test_death_and_the_time_limit_reach_no_goal(self):
        assert policy(up, "three_goals").rollouts(torch.tensor([[12, 5]])).goal.tolist() == [-1]
        assert policy(up, max_steps=2).rollouts(torch.tensor([[3, 20]])).goal.tolist() == [-1]

    def test_the_side_is_that_of_the_first_step_off_the_axis(self):
        rollouts = policy(nearest).rollouts(torch.tensor([[3, 12], [3, 13], [3, 11]]))
        assert first_sides(rollouts, 1).tolist()[1:] == [1, -1]
        assert first_sides(policy(torch.zeros_like).rollouts(torch.tensor([[3, 12]])), 1).tolist() == [0]

    def test_the_same_draws_in_each_call(self):
        keeps = policy(nearest)
        cells = torch.tensor([[3, 12]])
        assert torch.equal(keeps.samples(cells, 50), keeps.samples(cells, 50))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_starts_are_free_and_the_first_is_at_the_saddle(self, layout):
        world = make_layout(layout)
        assert all(world.free[y, x] for x, y in STARTS[layout])
        assert list(STARTS[layout][0]) in world.saddle_cells().tolist()
        assert across(world) == (0 if layout == "three_goals" else 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each policy on GridWorld, of one iteration."""
    root = tmp_path_factory.mktemp("runs")
    gaussian = ("experiment=gridworld_ppo", *tiny.SMALL, "env.max_episode_steps=7")
    for name, overrides in {"fpo": tiny.GRIDWORLD, "ppo": gaussian}.items():
        start_run(tiny.compose(*overrides, "total_frames=64", f"run_dir={root / name}")).train()
    return root


class TestCommand:
    def test_it_writes_numbers_a_picture_and_an_animation(self, run_command, runs, tmp_path):
        code, out, _ = run_command(gridworld_command.main, runs / "fpo", runs / "ppo", "--out", tmp_path / "new")
        assert code == 0
        numbers = json.loads((tmp_path / "new" / "gridworld.json").read_text())
        assert list(numbers) == ["FPO, seed 0", "PPO, seed 0"]
        assert all(0 <= numbers[name]["both"] <= 1 and f"{name}: success" in out for name in numbers)
        with Image.open(tmp_path / "new" / "gridworld.png") as picture:
            assert picture.width > 1.5 * picture.height > 600
        with Image.open(tmp_path / "new" / "flow.gif") as gif:
            assert gif.n_frames == 31

    def test_a_gaussian_alone_has_no_flow_to_show(self, run_command, runs, tmp_path):
        assert run_command(gridworld_command.main, runs / "ppo", "--out", tmp_path)[0] == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gridworld.json", "gridworld.png"]

    def test_wrong_runs_are_named(self, run_command, runs, tmp_path):
        code, _, err = run_command(gridworld_command.main, runs / "fpo", runs / "fpo", "--out", tmp_path)
        assert code == 2
        assert "FPO, seed 0 is there twice" in err
        start_run(tiny.compose(*tiny.BANDIT, "total_frames=64", f"run_dir={tmp_path / 'bandit'}")).train()
        code, _, err = run_command(gridworld_command.main, runs / "fpo", tmp_path / "bandit")
        assert code == 2
        assert "the runs must be of one task of gridworld/two_walls" in err
        assert "got bandit/bimodal, gridworld/two_walls" in err
        (tmp_path / "empty").mkdir()
        for name, words in {"empty": "no run in", "nothing": "is not a directory"}.items():
            code, _, err = run_command(gridworld_command.main, tmp_path / name)
            assert code == 2
            assert words in err
