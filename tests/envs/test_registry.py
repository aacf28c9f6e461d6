"""One name in, one environment out; every wrong argument has a clear error."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torchrl.envs import EnvBase

import fpo_torchrl
from fpo_torchrl.envs import BimodalBandit, GridWorld, ProbeEnv, list_tasks, make_env

CONTROL_TASKS = [
    "BallInCup",
    "CartpoleBalance",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
]


def test_every_listed_task_can_be_built_and_stepped():
    for task in list_tasks():
        env = make_env(task, num_envs=2, seed=1)
        assert isinstance(env, EnvBase)
        rollout = env.rollout(3, break_when_any_done=False)
        assert rollout.batch_size == (2, 3)
        assert rollout["observation"].dtype == torch.float32
        assert {"terminated", "truncated", "done", "reward"} <= set(rollout["next"].keys())


def test_the_list():
    assert set(CONTROL_TASKS) <= set(list_tasks())
    assert {"gridworld/cshape", "probe/delayed", "bandit/bimodal"} <= set(list_tasks())


@pytest.mark.parametrize(
    ("task", "cls"),
    [
        ("gridworld/two_walls", GridWorld),
        ("two_walls", GridWorld),
        ("probe/both", ProbeEnv),
        ("bandit/bimodal", BimodalBandit),
    ],
)
def test_names(task, cls):
    env = make_env(task, num_envs=4, seed=2, max_episode_steps=9, spread_episodes=False)
    assert isinstance(env, cls)
    assert (env.num_envs, env.max_episode_steps, env.spread_episodes) == (4, 9, False)


def test_the_layout_and_the_seed_arrive():
    assert make_env("gridworld/cshape").layout.name == "cshape"
    first, same, other = (make_env("two_walls", 50, seed=seed).reset()["observation"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_gym_ids_and_their_kwargs():
    env = make_env("gym/Pendulum-v1", num_envs=2, max_episode_steps=7, g=1.0)
    assert env.max_episode_steps == 7
    assert env.batch_size == (2,)


def test_kwargs_reach_the_environment():
    observation = make_env("two_walls", initial_cells=[(17, 12)]).reset()["observation"]
    assert observation.flatten().tolist() == pytest.approx([5 / 12, 0])
    with pytest.raises(TypeError, match="nonsense"):
        make_env("two_walls", nonsense=1)


def test_the_backend_is_that_of_a_control_task():
    assert make_env("CartpoleBalance", backend="c").task.name == "CartpoleBalance"
    with pytest.raises(ValueError, match="backend must be one of c, mjx, warp, got 'd'"):
        make_env("CartpoleBalance", backend="d")
    with pytest.raises(TypeError, match="backend"):
        make_env("two_walls", backend="c")


@pytest.mark.parametrize(
    ("task", "suggestion"),
    [
        ("two_wals", "gridworld/two_walls"),
        ("gridworld/two-walls", "gridworld/two_walls"),
        ("cartpole_balance", "CartpoleBalance"),
        ("probe/delay", "probe/delayed"),
        ("Pendulum-v1", "gym/Pendulum-v1"),
    ],
)
def test_unknown_names_get_a_suggestion_and_the_list(task, suggestion):
    message = rf"unknown task '{task}'\. Did you mean '{suggestion}'\?.*bandit/bimodal.*gym/<Id>"
    with pytest.raises(ValueError, match=message):
        make_env(task)


@pytest.mark.parametrize("task", ["", "gym/", "gym", "xyzzy", "control/"])
def test_hopeless_names_still_get_the_list(task):
    with pytest.raises(ValueError, match=r"Known: .*gridworld/two_walls"):
        make_env(task)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.0}, TypeError, "num_envs must be an int, got 2.0"),
        ({"num_envs": True}, TypeError, "num_envs must be an int"),
        ({"seed": "0"}, TypeError, "seed must be an int, got '0'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be at least 1"),
        ({"backend": "c"}, TypeError, r"two_walls has no setting 'backend'; it has initial_cells, max_episode_steps"),
        ({"device": "gpu"}, ValueError, "device must be a torch device .*got 'gpu'"),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' is not there"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        make_env("two_walls", **kwargs)


def test_importing_the_package_loads_no_simulator(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fpo_torchrl.envs")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("gymnasium", "mujoco"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    monkeypatch.setattr(fpo_torchrl, "envs", fpo_torchrl.envs)  # put the imported package back afterwards
    importlib.import_module("fpo_torchrl.envs").make_env("two_walls").reset()
