"""The Playground adapter on a tiny environment whose every number can be written down, and on a real one."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs
from torchrl.modules import RandomPolicy

from fpo_torchrl import make_env
from fpo_torchrl.envs.playground import PlaygroundEnv
from fpo_torchrl.errors import NonFiniteError

NUM_ENVS = 4
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
    ),
]


@dataclasses.dataclass
class State:
    data: Any
    obs: Any
    reward: Any
    done: Any
    info: Any


@functools.cache
def register_state() -> None:
    """Tell JAX, once, what a state is made of."""
    names = [field.name for field in dataclasses.fields(State)]
    pytest.importorskip("jax").tree_util.register_dataclass(State, names, [])


class Walk:
    """A point that starts at random in [0, 1) and moves by ``action``; beyond 3 the episode is over.

    Observes ``{"state": [position, steps], "privileged_state": [position, noise, noise]}``, earns the action.
    """

    action_size = 1

    def __init__(self, **config: Any) -> None:
        self.jax = pytest.importorskip("jax")
        self._config = {"episode_length": 6, **config}
        register_state()

    def _state(self, position: Any, steps: Any, rng: Any, reward: Any, done: Any) -> State:
        jnp = self.jax.numpy
        rng, noise = self.jax.random.split(rng)
        obs = {
            "state": jnp.stack([position, steps * 1.0]),
            "privileged_state": jnp.concatenate([position[None], self.jax.random.normal(noise, (2,))]),
        }
        return State({"position": position, "steps": steps}, obs, reward, done, {"rng": rng})

    def reset(self, rng: Any) -> State:
        rng, key = self.jax.random.split(rng)
        position = self.jax.random.uniform(key)
        return self._state(position, self.jax.numpy.zeros((), int), rng, 0, 0)  # ints, where a step gives floats

    def step(self, state: State, action: Any) -> State:
        position, steps = state.data["position"] + action[0], state.data["steps"] + 1
        done = (position > 3).astype(float)
        return self._state(position, steps, state.info["rng"], action[0], done)


def make(**keywords) -> PlaygroundEnv:
    config = keywords.pop("config", {})
    return PlaygroundEnv(Walk(**config), **{"num_envs": NUM_ENVS, "spread_episodes": False, **keywords})


def drive(env: PlaygroundEnv, moves: list[float], data=None):
    """Every copy moves by the same amounts; the outputs stacked over time, and what comes next."""
    outputs, data = [], env.reset() if data is None else data
    for move in moves:
        action = torch.full(env.action_spec.shape, move, device=env.device)
        output, data = env.step_and_maybe_reset(data.set("action", action))
        outputs.append(output)
    return torch.stack(outputs, 1), data


@pytest.mark.parametrize("device", DEVICES)
def test_every_entry_of_a_dict_observation_has_its_own_key(device):
    env = make(device=device)
    check_env_specs(env)
    data, _ = drive(env, [0.5, 0.25])
    assert data["next", "state"].shape == (NUM_ENVS, 2, 2)
    assert data["next", "privileged_state"].shape == (NUM_ENVS, 2, 3)
    assert "observation" not in data
    start = data["state"][:, 0, 0]
    assert data["state"].device.type == device
    torch.testing.assert_close(
        data["next", "state"][:, :, 0] - start[:, None], torch.tensor([0.5, 0.75]).expand(4, 2).to(device)
    )
    assert data["next", "reward"][0].flatten().tolist() == [0.5, 0.25]
    assert ((start >= 0) & (start < 1)).all()
    assert len(start.unique()) == NUM_ENVS
    assert len(data["next", "privileged_state"][:, :, 1].unique()) == 2 * NUM_ENVS  # noise of each copy and step


def test_terminated_and_truncated_are_told_apart_and_the_final_observation_is_true():
    env = make()
    data, _ = drive(env, [1.0] * 3)  # from [0, 1) to [3, 4)
    assert data["next", "terminated"].squeeze(-1).tolist() == [[False, False, True]] * NUM_ENVS
    assert not data["next", "truncated"].any()
    assert (data["next", "state"][:, 2, 0] > 3).all()
    data, after = drive(make(), [0.1] * 6)
    assert data["next", "truncated"].squeeze(-1).tolist() == [[False] * 5 + [True]] * NUM_ENVS
    assert not data["next", "terminated"].any()
    assert data["next", "state"][:, 5, 1].tolist() == [6] * NUM_ENVS  # the last one of its own episode
    assert after["state"][:, 1].tolist() == [0] * NUM_ENVS
    assert not torch.equal(after["state"][:, 0], data["state"][:, 0, 0])  # a new draw


def test_a_partial_reset_changes_its_rows_only():
    env = make(config={"episode_length": 100})
    _, data = drive(env, [0.1] * 3)
    for _ in range(3):  # ten initial states, of which four are drawn at a time
        before = env.task_state()
        data = env.reset(data.set("_reset", torch.tensor([[True], [False], [True], [True]])))
        after = env.task_state()
        for key in before:
            if key.startswith("state_"):
                assert torch.equal(after[key][1], before[key][1]), key
        assert data["state"][:, 1].tolist() == [0, 3, 0, 0]
        assert not set(data["state"][[0, 2, 3], 0].tolist()) & set(before["state_data_position"].tolist())


def test_each_initial_state_is_handed_out_once():
    env = make(num_envs=2, config={"episode_length": 1})
    starts = torch.cat([drive(env, [0.1] * 25)[0]["state"][:, :, 0].flatten(), env.reset()["state"][:, 0]])
    assert len(starts.unique()) == len(starts) == 52


def test_nothing_is_compiled_after_the_first_step():
    env = make()
    _, data = drive(env, [0.1])
    programs = (env._programs.draw, env._programs.hand_out, env._programs.step)
    assert [program._cache_size() for program in programs] == [1, 1, 1]
    for rows in ([0], [1, 2], [0, 2, 3]):
        mask = torch.zeros(NUM_ENVS, 1, dtype=torch.bool)
        mask[rows] = True
        data = drive(env, [0.2] * 8, env.reset(data.set("_reset", mask)))[1]
    assert [program._cache_size() for program in programs] == [1, 1, 1]


def test_the_time_limit_is_the_configured_one_unless_it_is_given():
    assert make().max_episode_steps == 6
    assert make(max_episode_steps=9).max_episode_steps == 9


def test_an_action_is_repeated_as_configured():
    env = make(config={"action_repeat": 3, "episode_length": 7})
    assert env.max_episode_steps == 3  # of three simulation control steps each
    data, _ = drive(env, [0.25])
    assert data["next", "state"][:, 0, 1].tolist() == [3] * NUM_ENVS
    assert data["next", "reward"].flatten().tolist() == [0.75] * NUM_ENVS


def test_a_seed_repeats_a_run_and_another_differs():
    first, again, other = (drive(make(seed=seed), [0.3] * 20)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert not torch.equal(first["state"], other["state"])
    env = make(seed=2)
    drive(env, [0.3] * 3)
    env.set_seed(1)
    assert (drive(env, [0.3] * 20)[0] == first).all()


def test_a_restored_state_goes_on_bit_equal(tmp_path):
    env = make(seed=1)
    _, data = drive(env, [0.4] * 9)
    torch.save(env.get_state().to_dict(), tmp_path / "state.pt")
    carried = data.clone()
    expected, _ = drive(env, [0.4] * 20, data)
    other = make(seed=5)
    drive(other, [0.4] * 2)
    other.set_state(TensorDict(torch.load(tmp_path / "state.pt", weights_only=True)))
    assert (drive(other, [0.4] * 20, carried)[0] == expected).all()


def test_a_state_of_another_environment_is_refused():
    state = make().get_state()
    state["task", "state_data_position"] = torch.zeros(NUM_ENVS, 2)
    with pytest.raises(ValueError, match=r"another environment .*position has shape \[4, 2\], expected \[4\]"):
        make().set_state(state)
    del state["task", "state_data_position"]
    with pytest.raises(ValueError, match="state_data_position has shape None"):
        make().set_state(state)


def test_later_steps_do_not_overwrite_what_was_returned():
    env = make()
    output, data = drive(env, [0.1])
    kept = output.clone()
    output["next", "state"].add_(1)  # nor does writing to it reach the simulation
    follow, _ = drive(env, [0.1] * 4, data)
    torch.testing.assert_close(follow["next", "state"][:, 3, 0], kept["state"][:, 0, 0] + 0.5)
    output["next", "state"].sub_(1)
    torch.testing.assert_close(output["next", "state"], kept["next", "state"])


def test_numbers_that_are_not_finite_are_refused_and_change_nothing():
    env = make()
    _, data = drive(env, [0.1] * 2)
    before = env.task_state()
    action = torch.zeros(NUM_ENVS, 1)
    action[2] = float("nan")
    with pytest.raises(NonFiniteError, match="Walk: the action is not finite in env 2 at step 2 of its episode"):
        env.step(data.set("action", action))
    after = env.task_state()
    assert all(torch.equal(before[key], after[key]) for key in before)
    env.load_task_state({**before, "state_data_position": torch.tensor([0, float("inf"), 0, 0])})
    with pytest.raises(NonFiniteError, match="Walk: observation or reward is not finite in env 1 at step 2"):
        env.step(data.set("action", torch.zeros(NUM_ENVS, 1)))


def test_an_action_of_the_wrong_shape_is_refused():
    env = make()
    with pytest.raises(ValueError, match=r"expected an action of shape \[4, 1\] .* got \[4, 2\]"):
        env.step(env.reset().set("action", torch.zeros(4, 2)))


def test_through_a_collector():
    env = make(spread_episodes=True)
    collector = Collector(env, RandomPolicy(env.action_spec), frames_per_batch=4 * 12, total_frames=4 * 24)
    batches = list(collector)
    assert [batch.shape for batch in batches] == [(4, 12), (4, 12)]
    assert batches[1]["next", "done"].any()


@pytest.mark.parametrize("package", ["jax", "mujoco_playground"])
def test_without_the_optional_packages_the_error_says_how_to_install_them(package, monkeypatch):
    if package != "jax":
        pytest.importorskip("jax")
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises
    with pytest.raises(ImportError, match=r"pip install 'fpo-torchrl\[playground\]'$"):
        make_env("playground/CartpoleSwingup")


def test_an_unknown_name_gets_suggestions():
    pytest.importorskip("mujoco_playground")
    with pytest.raises(ValueError, match=r"no environment 'CartpoleSwinup'. Close names: CartpoleSwingup"):
        make_env("playground/CartpoleSwinup")
    with pytest.raises(ValueError, match=r"no environment 'x'. Known: AcrobotSwingup, .*Go1Joystick"):
        make_env("playground/x")


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    mjx_env = pytest.importorskip("mujoco_playground._src.mjx_env")
    monkeypatch.setattr(mjx_env, "MENAGERIE_PATH", tmp_path / "mujoco_menagerie")
    monkeypatch.setattr(mjx_env, "_clone_with_progress", None)
    for name in ("Go1JoystickFlatTerrain", "PandaPickCube"):
        with pytest.raises(FileNotFoundError, match=r"robot models .*mujoco_menagerie.*run python -c .*exists"):
            make_env(f"playground/{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_environment():
    pytest.importorskip("mujoco_playground")
    env = make_env("playground/CartpoleSwingup", num_envs=3, spread_episodes=False)
    assert env.max_episode_steps == 1000
    check_env_specs(env)
    env.max_episode_steps = 4
    rollout = env.rollout(9, break_when_any_done=False)
    assert rollout["observation"].shape == (3, 9, 5)
    assert rollout["next", "truncated"].squeeze(-1).sum(1).tolist() == [2, 2, 2]
    assert not rollout["next", "terminated"].any()
    cos = rollout["observation"][:, [0, 4, 8], 1]
    torch.testing.assert_close(cos, torch.full((3, 3), -1.0), atol=2e-3, rtol=0)  # the pole hangs at every start
    state, action = env.get_state(), torch.ones(3, 1)
    first = env.step(TensorDict(action=action, batch_size=3))["next", "observation"]
    env.set_state(state)
    assert torch.equal(env.step(TensorDict(action=action, batch_size=3))["next", "observation"], first)
