"""Gymnasium ids: shapes, bounds, seeds, ends of episodes, errors."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torchrl.envs import check_env_specs

from fpo_torchrl.envs.gym import GymnasiumEnv, make_gym_env
from fpo_torchrl.errors import NonFiniteError


class Stub(gymnasium.Env):
    """Counts its steps, remembers its action, terminates at ``stop``; matrices and dicts to be flattened."""

    action_space = gymnasium.spaces.Box(np.array([[0.0, -2.0]]), np.array([[1.0, 4.0]]), (1, 2), np.float64)
    observation_space = gymnasium.spaces.Dict(
        action=gymnasium.spaces.Box(-9, 9, (1, 2), np.float64), count=gymnasium.spaces.Box(0, 9, (1,), np.int64)
    )

    def __init__(self, stop: int = 10**6):
        self.stop = stop

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return {"action": self.np_random.uniform(0, 1, (1, 2)), "count": np.array([0])}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        return {"action": action, "count": np.array([self.count])}, 1.0, self.count >= self.stop, False, {}


def test_what_is_not_finite_does_not_reach_the_simulator():
    env = make_gym_env("FpoStub-v0", num_envs=3)
    td = env.reset().set("action", torch.zeros(3, 2))
    td["action"][1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"the action of env 1 is not finite\. Look for a diverged policy"):
        env.step(td)
    td["observation"][2, 0] = torch.inf  # which is where such an action comes from
    with pytest.raises(NonFiniteError, match=r"the observation of env 2 is not finite\. Look for a fault of the simul"):
        env.step(td)


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("FpoStub-v0", entry_point=Stub, max_episode_steps=4)
    yield
    gymnasium.registry.pop("FpoStub-v0")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "FpoStub-v0", "InvertedPendulum-v5"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_specs(env_id, num_envs):
    env = make_gym_env(env_id, num_envs=num_envs)
    check_env_specs(env)
    assert env.batch_size == (num_envs,)


def test_observation_is_flat_float32_and_action_is_rescaled():
    env = make_gym_env("FpoStub-v0", num_envs=3)
    td = env.reset()
    assert td["observation"].shape == (3, 3)
    assert td["observation"].dtype == torch.float32
    assert env.action_spec.shape == (3, 2)
    assert env.action_spec.space.low.unique().item() == -1
    assert env.action_spec.space.high.unique().item() == 1
    action = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [5.0, 1.0]])  # the last one is out of bounds and is clipped
    seen = env.step(td.set("action", action))["next", "observation"]
    assert seen.tolist() == [[0.0, -2.0, 1.0], [0.5, 1.0, 1.0], [1.0, 4.0, 1.0]]


def test_ends_and_true_final_observation():
    env = make_gym_env("FpoStub-v0", num_envs=2, spread_episodes=False)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout["next", "observation"][0, :, 2].tolist() == [1, 2, 3, 4, 1, 2]
    assert rollout["observation"][0, :, 2].tolist() == [0, 1, 2, 3, 0, 1]
    assert rollout["next", "truncated"][1].flatten().tolist() == [False, False, False, True, False, False]
    assert not rollout["next", "terminated"].any()

    env = make_gym_env("FpoStub-v0", num_envs=2, spread_episodes=False, stop=4)  # on the very step of the limit
    rollout = env.rollout(4)
    assert rollout["next", "terminated"][0].flatten().tolist() == [False, False, False, True]
    assert not rollout["next", "truncated"].any()
    assert torch.equal(rollout["next", "done"], rollout["next", "terminated"])


def test_a_partial_reset_changes_its_rows_only():
    env = make_gym_env("FpoStub-v0", num_envs=3, spread_episodes=False)
    td = env.step(env.reset().set("action", torch.zeros(3, 2)))["next"]
    before = td["observation"].clone()
    after = env.reset(td.set("_reset", torch.tensor([[False], [True], [False]])))["observation"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1, 2] == 0
    assert env.step_count.tolist() == [1, 0, 1]


def test_max_episode_steps_and_spread():
    env = make_gym_env("FpoStub-v0", num_envs=200, max_episode_steps=5)
    ends = env.rollout(5, break_when_any_done=False)["next", "truncated"].squeeze(-1)
    assert ends.sum(1).tolist() == [1] * 200
    assert ends.sum(0).min() > 15  # 40 expected at each step
    assert make_gym_env("Pendulum-v1").max_episode_steps == 200  # the id's own


def test_seeds_repeat_and_share_no_copy():
    starts = [make_gym_env("Pendulum-v1", num_envs=8, seed=seed).reset()["observation"] for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    together = torch.cat([starts[0], starts[2]])
    assert len(together.unique(dim=0)) == 16

    env = make_gym_env("Pendulum-v1", num_envs=8, seed=5)
    env.set_seed(0)
    assert torch.equal(env.reset()["observation"], starts[0])


def test_a_seed_decides_where_first_episodes_begin_too():
    def phases(env):
        env.reset()
        return env.step_count.tolist()

    env, other = (make_gym_env("FpoStub-v0", num_envs=40, max_episode_steps=20, seed=seed) for seed in (0, 1))
    first = phases(env)
    assert phases(other) != first
    assert len(set(first)) > 10
    env.set_seed(0)
    assert phases(env) == first


def test_simulator_state_cannot_be_saved():
    assert not hasattr(make_gym_env("Pendulum-v1"), "get_state")


class Drawn(Stub):
    """A picture whose brightness is the number of steps."""

    metadata: ClassVar = {"render_modes": ["human", "rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((2, 3, 3), self.count, np.uint8)


class TestRender:
    @pytest.fixture(autouse=True)
    def _drawn(self):
        gymnasium.register("FpoDrawn-v0", entry_point=Drawn, max_episode_steps=4)
        yield
        gymnasium.registry.pop("FpoDrawn-v0")

    def test_a_single_copy_is_drawn_at_the_simulators_speed(self, tmp_path):
        env = make_gym_env("FpoDrawn-v0")
        td = env.reset()
        env.step(td.set("action", torch.zeros(1, 2)))
        assert np.array_equal(env.render(0), np.ones((2, 3, 3), np.uint8))
        assert env.control_dt == 0.05
        assert make_gym_env("FpoStub-v0").control_dt == 0.1
        with pytest.raises(ValueError, match=r"index must be in \[0, 1\), got 1"):
            env.render(1)

    def test_several_copies_and_what_has_no_pictures_say_so(self):
        for env in (make_gym_env("FpoDrawn-v0", num_envs=2), make_gym_env("FpoStub-v0")):
            env.reset()
            with pytest.raises(RuntimeError, match='draws no pictures: its render mode is None, not "rgb_array"'):
                env.render(0)

    def test_a_constructor_that_does_not_know_the_mode_is_called_without(self):
        class Old(Drawn):
            def __init__(self):
                super().__init__()

        gymnasium.register("FpoOld-v0", entry_point=Old, max_episode_steps=4)
        env = make_gym_env("FpoOld-v0")
        gymnasium.registry.pop("FpoOld-v0")
        assert env.reset()["observation"].shape == (1, 3)

    def test_one_that_cannot_open_a_display_is_called_without(self):
        class Headless(Drawn):
            def __init__(self, render_mode=None):
                if render_mode is not None:
                    raise gymnasium.error.DependencyNotInstalled("no display")
                super().__init__()

        gymnasium.register("FpoHeadless-v0", entry_point=Headless, max_episode_steps=4)
        env = make_gym_env("FpoHeadless-v0")
        gymnasium.registry.pop("FpoHeadless-v0")
        assert env.reset()["observation"].shape == (1, 3)

    def test_a_mode_of_ones_own_is_kept(self):
        assert make_gym_env("FpoDrawn-v0", render_mode="human")._env.envs[0].render_mode == "human"


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match=r"CartPole-v1.*Discrete\(2\).*continuous bounded actions"):
        make_gym_env("CartPole-v1")


def test_unbounded_actions_are_refused(monkeypatch):
    monkeypatch.setattr(Stub, "action_space", gymnasium.spaces.Box(-np.inf, np.inf, (1,)))
    with pytest.raises(ValueError, match="continuous bounded actions"):
        make_gym_env("FpoStub-v0")


def test_unknown_ids_get_a_suggestion():
    with pytest.raises(ValueError, match=r"cannot find 'Pendulm-v1'.*Pendulum-v1.*registers one must be installed"):
        make_gym_env("Pendulm-v1")
    with pytest.raises(ValueError, match=r"cannot find 'no_such_package:Foo-v0': No module.*or a module in the dir"):
        make_gym_env("no_such_package:Foo-v0")
    with pytest.raises(ValueError, match=r"cannot find 'Pendulum v1': Malformed environment ID"):
        make_gym_env("Pendulum v1")


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_vector_environment_that_hides_final_observations_is_refused(mode):
    with pytest.raises(ValueError, match=r"must be made with autoreset_mode=AutoresetMode\.DISABLED, got"):
        GymnasiumEnv(SyncVectorEnv([Stub], autoreset_mode=mode))


def test_whole_numbers_are_rounded():
    class Whole(Stub):
        """Its action is one of 0 to 255."""

        action_space = gymnasium.spaces.Box(0, 255, (1, 2), np.uint8)
        observation_space = gymnasium.spaces.Dict(
            action=gymnasium.spaces.Box(0, 255, (1, 2), np.uint8), count=Stub.observation_space["count"]
        )

    gymnasium.register("FpoWhole-v0", entry_point=Whole, max_episode_steps=4)
    env = make_gym_env("FpoWhole-v0")
    gymnasium.registry.pop("FpoWhole-v0")
    action = torch.tensor([[0.999, -0.999]])  # 254.87 and 0.13
    assert env.step(env.reset().set("action", action))["next", "observation"][0, :2].tolist() == [255, 0]


def test_missing_dependencies_are_named():
    def needy(**kwargs):
        raise gymnasium.error.DependencyNotInstalled("pip install thing")

    gymnasium.register("FpoNeedy-v0", entry_point=needy)
    with pytest.raises(ImportError, match=r"FpoNeedy-v0.*not installed: pip install thing"):
        make_gym_env("FpoNeedy-v0")
    gymnasium.registry.pop("FpoNeedy-v0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_live_on_cuda():
    env = make_gym_env("FpoStub-v0", num_envs=3, device="cuda")
    check_env_specs(env)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout["next", "observation"].device.type == "cuda"


def test_an_episode_without_a_limit_is_refused_unless_one_is_given(monkeypatch):
    monkeypatch.setattr(gymnasium.registry["FpoStub-v0"], "max_episode_steps", None)
    with pytest.raises(
        ValueError, match=r"FpoStub-v0 sets no limit on the length of an episode.*give max_episode_steps"
    ):
        make_gym_env("FpoStub-v0", num_envs=2)
    assert make_gym_env("FpoStub-v0", num_envs=2, max_episode_steps=7).max_episode_steps == 7
