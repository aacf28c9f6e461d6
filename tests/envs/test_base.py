"""What BatchedEnv promises, on a tiny environment whose every number can be written down."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from counting import ENVS, NEVER, Counter, actions_for, drive, same
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import check_env_specs, step_mdp
from torchrl.objectives.value import GAE

from fpo_torchrl.envs import BatchedEnv, BimodalBandit, GridWorld, ProbeEnv
from fpo_torchrl.errors import NonFiniteError


@pytest.mark.parametrize("name", ENVS)
def test_specs(name):
    check_env_specs(ENVS[name](seed=0))


@pytest.mark.parametrize("name", ["num_envs", "max_episode_steps"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ProbeEnv("constant", **{"num_envs": 2, "max_episode_steps": 5, name: 0})


def test_a_partial_reset_changes_its_rows_only():
    env = Counter([NEVER] * 4, random_start=True, max_episode_steps=50, spread_episodes=False)
    td = env.step(env.reset().set("action", torch.zeros(4, 1)))
    before, count_before = td["next", "observation"].clone(), env.step_count.clone()
    mask = torch.tensor([[False], [True], [False], [True]])
    after = env.reset(step_mdp(td).set("_reset", mask))["observation"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[[1, 3]] != before[[1, 3]]).all()
    assert count_before.tolist() == [1, 1, 1, 1]
    assert env.step_count.tolist() == [1, 0, 1, 0]


def test_terminated_and_truncated_are_told_apart():
    env = Counter([2, 3, NEVER], max_episode_steps=3, spread_episodes=False)
    nexts = env.rollout(3, break_when_any_done=False)["next"]
    assert nexts["terminated"].squeeze(-1).tolist() == [[False, True, False], [False, False, True], [False] * 3]
    # Copy 1 terminates on the very step of the time limit: that is no truncation. Copy 0 has restarted.
    assert nexts["truncated"].squeeze(-1).tolist() == [[False] * 3, [False] * 3, [False, False, True]]
    assert torch.equal(nexts["done"], nexts["terminated"] | nexts["truncated"])


def test_next_holds_the_true_final_observation():
    rollout = Counter([NEVER], max_episode_steps=3, spread_episodes=False).rollout(5, break_when_any_done=False)
    assert rollout["next", "observation"].flatten().tolist() == [1, 2, 3, 1, 2]
    assert rollout["observation"].flatten().tolist() == [0, 1, 2, 0, 1]


def test_first_episodes_start_at_32_evenly_spaced_phases():
    env = Counter([NEVER] * 400, max_episode_steps=3200)
    env.reset()
    assert env.step_count.unique().tolist() == list(range(0, 3200, 100))


def test_episodes_shorter_than_32_steps_use_every_phase():
    env = Counter([NEVER] * 400, max_episode_steps=5)
    env.reset()
    assert env.step_count.unique().tolist() == [0, 1, 2, 3, 4]


def test_an_observation_is_not_overwritten_by_later_steps():
    env = GridWorld(num_envs=2, initial_cells=[(12, 12)])
    first = env.reset()["observation"]
    env.step(TensorDict({"action": torch.ones(2, 2)}, [2]))
    assert first.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", ENVS)
def test_steps_in_inference_mode_are_the_same_and_it_goes_on_outside(name):
    outcomes = []
    for mode in (torch.no_grad, torch.inference_mode):
        env = ENVS[name](seed=2)
        actions = actions_for(env, 40)
        with mode():
            before, td = drive(env, env.reset(), actions[:20])
        env.set_state(env.get_state())
        outcomes.append(before + drive(env, td.clone(), actions[20:])[0])
    assert same(*outcomes)


@pytest.mark.parametrize("name", ENVS)
def test_what_a_step_returned_is_not_overwritten_by_later_ones(name):
    env = ENVS[name](seed=2)
    td, returned = env.reset(), []
    for action in actions_for(env, 20):
        step, td = env.step_and_maybe_reset(td.set("action", action))
        returned.append((step, step.clone()))
    assert same(*zip(*returned, strict=True))


@pytest.mark.parametrize("name", ENVS)
def test_the_quicker_partial_reset_returns_what_that_of_torchrl_does(name, monkeypatch):
    outcomes = []
    for quicker in (True, False):
        if not quicker:
            monkeypatch.delattr(BatchedEnv, "maybe_reset")
        env = ENVS[name](seed=3)
        td = env.reset().set("carried", torch.arange(1.0, env.num_envs + 1)).set(("nested", "too"), torch.ones(6, 2))
        steps, last = drive(env, td, actions_for(env, 30))
        assert any(step["next", "done"].any() for step in steps)
        outcomes.append([*steps, last])
    ours, theirs = outcomes
    assert [set(step.keys(True)) for step in ours] == [set(step.keys(True)) for step in theirs]
    assert same(ours, theirs)


def test_an_action_that_is_not_finite_moves_nobody():
    env = ENVS["gridworld"](seed=0)
    td = env.reset().set("action", torch.zeros(env.action_spec.shape))
    td["action"][4, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="the action of env 4 is not finite"):
        env.step(td)


def test_an_episode_that_was_over_when_the_state_was_saved_does_not_go_on():
    """Its copy begins anew, and the others go on."""
    env = Counter([2, NEVER, 2], max_episode_steps=50, spread_episodes=False)
    td = env.reset()
    for _ in range(2):
        td = step_mdp(env.step(td.set("action", torch.zeros(3, 1))))
    assert td["done"].flatten().tolist() == [True, False, True]
    resumed = Counter([2, NEVER, 2], max_episode_steps=50, spread_episodes=False)
    resumed.set_state(env.get_state())
    td = resumed.reset()
    assert td["observation"].flatten().tolist() == [0, 2, 0]
    assert resumed.step_count.tolist() == [0, 2, 0]
    assert not resumed.ended.any()


@pytest.mark.parametrize("make", [partial(ProbeEnv, "action"), partial(ProbeEnv, "both"), BimodalBandit])
def test_the_reward_is_single_precision_whatever_the_action_is(make):
    env = make(num_envs=2)
    td = env.step(env.reset().set("action", torch.zeros(2, 1, dtype=torch.float64)))
    assert td["next", "reward"].dtype == torch.float32


def test_first_episodes_end_at_different_times():
    env = Counter([NEVER] * 500, max_episode_steps=50)
    ends = env.rollout(50, break_when_any_done=False)["next", "truncated"].squeeze(-1)
    per_step = ends.sum(0)
    assert ends.sum(1).tolist() == [1] * 500  # each copy ends exactly once in one period
    assert (per_step > 0).sum() == 32
    assert per_step.max() < 40  # about 16 copies at each of the 32 steps
    assert (env.reset()["observation"] == 0).all()
    assert env.step_count.tolist() == [0] * 500  # only the very first reset spreads


def test_a_partial_reset_after_a_new_seed_spreads_nothing():
    env = Counter([NEVER] * 6, max_episode_steps=100)
    td = env.reset()
    before = env.step_count.tolist()
    env.set_seed(1)
    env.reset(td.set("_reset", torch.tensor([True] + [False] * 5)))
    assert env.step_count.tolist() == [0, *before[1:]]


def test_without_spread_all_copies_end_together():
    env = Counter([NEVER] * 5, max_episode_steps=4, spread_episodes=False)
    ends = env.rollout(8, break_when_any_done=False)["next", "truncated"].squeeze(-1).sum(0)
    assert ends.tolist() == [0, 0, 0, 5, 0, 0, 0, 5]


@pytest.mark.parametrize("name", ENVS)
def test_a_seed_repeats_a_run(name):
    runs = []
    for _ in range(2):
        env = ENVS[name](seed=3)
        runs.append(drive(env, env.reset(), actions_for(env, 60))[0])
    assert same(*runs)
    again = env.set_seed(3)
    assert again != 3  # TorchRL: the seed for the next environment
    assert same(drive(env, env.reset(), actions_for(env, 60))[0], runs[0])


@pytest.mark.parametrize("layout", ["two_walls", "cshape"])
def test_other_seeds_are_other_runs(layout):
    starts = [GridWorld(layout, num_envs=64, seed=seed).reset()["observation"] for seed in range(5)]
    for i in range(5):
        for j in range(i):
            assert (starts[i] == starts[j]).all(-1).float().mean() < 0.1


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    env = GridWorld(num_envs=8)
    env.step(env.reset().set("action", torch.zeros(8, 2)))
    assert torch.equal(torch.rand(3), expected)


def test_gae_bootstraps_through_the_time_limit_and_not_through_termination():
    # V(o) = o, reward 1, gamma = lambda = 1/2, three steps to the end, then the first step of the next episode.
    # delta_t = 1 + (t + 1) / 2 - t = 1.5, 1.0, 0.5; termination drops V(3) = 3 from the last one: -1.
    # A_t = delta_t + A_{t+1} / 4; the next episode's step has 1.5 and leaks into neither.
    env = Counter([3, NEVER], max_episode_steps=3, spread_episodes=False)
    rollout = env.rollout(4, break_when_any_done=False)
    value = nn.Linear(1, 1, bias=False)
    nn.init.ones_(value.weight)
    gae = GAE(
        gamma=0.5,
        lmbda=0.5,
        value_network=TensorDictModule(value, in_keys=["observation"], out_keys=["state_value"]),
        average_gae=False,
    )
    with torch.no_grad():
        advantage = gae(rollout)["advantage"].squeeze(-1)
    assert advantage[0].tolist() == [1.6875, 0.75, -1.0, 1.5]
    assert advantage[1].tolist() == [1.78125, 1.125, 0.5, 1.5]


@pytest.mark.parametrize("name", ENVS)
def test_an_action_of_the_wrong_shape_is_refused(name):
    env = ENVS[name]()
    with pytest.raises(
        ValueError, match=r"expected an action of shape \[6, .\] \[num_envs, action_dim\], got \[6, 5\]"
    ):
        env.step(env.reset().set("action", torch.zeros(6, 5)))


@pytest.mark.parametrize("name", ENVS)
def test_it_stays_on_its_device(name):
    env = ENVS[name]()
    assert env.to("cpu") is env
    with pytest.raises(ValueError, match="is on cpu and stays there: build it with device='meta'"):
        env.to("meta")
    assert env.action_spec.device.type == "cpu"
