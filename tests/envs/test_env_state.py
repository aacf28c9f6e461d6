"""The state of an environment that a checkpoint saves, and what goes on from it."""

from __future__ import annotations

import pytest
import torch
from counting import ENVS, NEVER, Counter, actions_for, drive, same
from tensordict import TensorDict
from torchrl.envs import check_env_specs

from fpo_torchrl.envs import GridWorld


@pytest.mark.parametrize("name", ENVS)
def test_a_restored_state_goes_on_bit_equal_in_a_new_object(name, tmp_path):
    env = ENVS[name](seed=1)
    actions = actions_for(env, 80)
    _, td = drive(env, env.reset(), actions[:30])
    torch.save(env.get_state().to_dict(), tmp_path / "state.pt")
    carried = td.clone()
    straight, _ = drive(env, td, actions[30:])

    other = ENVS[name](seed=99)
    drive(other, other.reset(), actions[:3])
    other.set_state(TensorDict(torch.load(tmp_path / "state.pt", weights_only=True)))
    resumed, _ = drive(other, carried, actions[30:])
    assert same(straight, resumed)


def test_a_saved_state_is_a_copy():
    env = GridWorld(num_envs=4)
    td = env.reset()
    state = env.get_state()
    before = state.clone()
    drive(env, td, actions_for(env, 10))
    assert (state == before).all()


def test_a_restored_state_is_a_copy():
    class Keeping(Counter):
        def load_task_state(self, state):
            self.count = state["count"]  # which later steps change in place

    env = Keeping([NEVER] * 3, max_episode_steps=100, spread_episodes=False)
    drive(env, env.reset(), torch.zeros(5, 3, 1))
    state = env.get_state()
    env.set_state(state)
    drive(env, env.reset(), torch.zeros(4, 3, 1))
    assert env.count.tolist() == env.step_count.tolist() == [9, 9, 9]
    assert state["task", "count"].tolist() == state["step_count"].tolist() == [5, 5, 5]


def test_the_state_of_an_environment_that_never_started_starts_episodes():
    env, fresh, other = (Counter([NEVER] * 3, random_start=True, max_episode_steps=100, seed=i) for i in (0, 5, 5))
    env.set_state(fresh.get_state())
    assert torch.equal(env.reset()["observation"], other.reset()["observation"])
    assert torch.equal(env.step_count, other.step_count)
    assert env.count.any()


def test_a_partial_reset_right_after_a_restored_state_is_no_full_one():
    env = Counter([NEVER] * 3, max_episode_steps=100)
    drive(env, env.reset(), torch.zeros(5, 3, 1))
    state = env.get_state()
    env.set_state(state)
    env.reset(TensorDict({"_reset": torch.tensor([True, False, False])}, batch_size=3))
    assert env.count.tolist() == [0, 5, 5]


def test_a_state_from_another_kind_of_device_is_refused():
    env = Counter([NEVER] * 3, max_episode_steps=100)
    state = env.get_state()
    state["generator"] = state["generator"][:16]  # a CUDA generator's state is this short
    with pytest.raises(ValueError, match="another kind of device than cpu"):
        env.set_state(state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["gridworld", "probe", "bandit"])
def test_runs_on_cuda_and_restores_there(name):
    env = ENVS[name](seed=1, device="cuda")
    check_env_specs(env)
    actions = actions_for(env, 40).cuda()
    _, td = drive(env, env.reset(), actions[:20])
    state, carried = env.get_state(), td.clone()
    straight, _ = drive(env, td, actions[20:])
    other = ENVS[name](seed=2, device="cuda")
    other.set_state(state)
    assert same(straight, drive(other, carried, actions[20:])[0])
    assert straight[0]["observation"].device.type == "cuda"
