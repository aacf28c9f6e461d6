"""The environment as TorchRL sees it."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs
from torchrl.modules import RandomPolicy

from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv
from fpo_torchrl.errors import NonFiniteError


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to a file where the program runs."""
    monkeypatch.chdir(tmp_path)


def make(name: str = "CartpoleBalance", num_envs: int = 4, **keywords) -> ControlEnv:
    return ControlEnv(name, num_envs=num_envs, **{"num_threads": 2, "spread_episodes": False, **keywords})


def run(env: ControlEnv, steps: int, seed: int = 7, data=None):
    """Steps with fixed random actions, resetting what is done; the outputs stacked over time."""
    generator, outputs = torch.Generator().manual_seed(seed), []
    data = env.reset() if data is None else data
    for _ in range(steps):
        action = torch.rand(*env.action_spec.shape, generator=generator) * 2 - 1
        output, data = env.step_and_maybe_reset(data.set("action", action))
        outputs.append(output)
    return torch.stack(outputs, 1), data


@pytest.mark.parametrize("name", CONTROL_TASKS)
def test_specs(name):
    env = make(name, num_envs=3)
    check_env_specs(env)
    rollout = env.rollout(4)
    assert rollout["next", "reward"].shape == (3, 4, 1)
    for key in ("observation", "action", ("next", "reward")):
        assert rollout[key].dtype == torch.float32
    assert rollout["observation"].isfinite().all()


@pytest.mark.parametrize("name", ["ReacherEasy", "CheetahRun"])
def test_a_partial_reset_changes_its_rows_only(name):
    env = make(name)
    data = run(env, 5)[1]
    before = {key: tensor.clone() for key, tensor in env.task_state().items() if not key.startswith("nursery")}
    data["_reset"] = torch.tensor([[False], [True], [False], [True]])
    after = env.reset(data)
    for key, tensor in before.items():
        assert torch.equal(env.task_state()[key][[0, 2]], tensor[[0, 2]]), key
    assert torch.equal(after["observation"][[0, 2]], data["observation"][[0, 2]])
    assert env.physics.state.time[:, 0].eq(0).tolist() == [False, True, False, True]
    assert env.step_count.tolist() == [5, 0, 5, 0]
    assert not torch.equal(env.physics.state.qpos[1], before["qpos"][1])


def test_the_last_observation_of_an_episode_is_its_own():
    env, endless = make(max_episode_steps=6), make(max_episode_steps=100)
    rollout, _ = run(env, 8)
    unbroken, _ = run(endless, 8)
    assert rollout["next", "done"][:, :, 0].nonzero()[:, 1].unique().tolist() == [5]
    assert torch.equal(rollout["next", "truncated"], rollout["next", "done"])
    assert not rollout["next", "terminated"].any()
    assert torch.equal(rollout["next", "observation"][:, :6], unbroken["next", "observation"][:, :6])
    assert not torch.equal(rollout["observation"][:, 6], rollout["next", "observation"][:, 5])


def test_later_steps_do_not_overwrite_what_was_returned():
    env = make("ReacherEasy")
    first = env.reset()
    output = env.step(env.rand_action(first))
    kept = output.clone()
    run(env, 3, data=env.step_mdp(output))
    assert (output == kept).all()


def test_a_seed_repeats_a_run_and_another_differs():
    first, again, other = (make("PointMass", seed=seed, max_episode_steps=7) for seed in (1, 1, 2))
    expected = run(first, 20)[0]
    assert (run(again, 20)[0] == expected).all()
    assert not torch.equal(run(other, 20)[0]["observation"], expected["observation"])
    # Seeding once more forgets what was drawn ahead.
    first.set_seed(1)
    assert (run(first, 20)[0] == expected).all()


def test_a_new_seed_forgets_what_a_partial_reset_left_of_the_episodes_drawn_ahead():
    env, fresh = make("PointMass", seed=0), make("PointMass", seed=3)
    env.reset(env.reset().set("_reset", torch.tensor([[True], [False], [False], [False]])))
    env.set_seed(3)
    assert torch.equal(env.reset()["observation"], fresh.reset()["observation"])


def test_episodes_of_a_batch_differ():
    observation = make("CheetahRun", num_envs=70).reset()["observation"]
    assert len(observation.unique(dim=0)) == 70


def test_spread_episodes_end_at_different_times():
    env = make("PointMass", num_envs=32, spread_episodes=True, max_episode_steps=50)
    done = run(env, 50)[0]["next", "done"]
    assert done.sum(1).eq(1).all()
    assert done[:, :, 0].any(0).sum() > 10


def test_cheetah_settles_before_the_episode():
    env = make("CheetahRun", num_envs=8)
    env.reset()
    state = env.physics.state
    assert state.time.eq(0).all()
    assert state.qvel.abs().max() < 1
    assert state.qpos[:, 1].max() < -0.05  # fallen from where it was put


CONTINUE = """
import hashlib, torch
from tensordict import TensorDict
from fpo_torchrl.envs.control import ControlEnv
for name, saved in torch.load("states.pt", weights_only=True).items():
    env = ControlEnv(name, num_envs=4, num_threads=1, max_episode_steps=9, seed=99)
    env.set_state(TensorDict(saved["state"]))
    data, digest = env.reset(), hashlib.sha256()
    for action in saved["actions"]:
        output, data = env.step_and_maybe_reset(data.set("action", action))
        digest.update(output["next", "observation"].numpy().tobytes() + output["next", "reward"].numpy().tobytes())
    print(digest.hexdigest())
"""


def test_a_saved_state_continues_bit_equal_in_a_new_process():
    states, expected = {}, []
    for name in ("BallInCup", "CheetahRun"):
        env = make(name, max_episode_steps=9, spread_episodes=True)
        data = run(env, 13)[1]
        actions = torch.rand(25, *env.action_spec.shape) * 2 - 1
        states[name] = {"state": env.get_state().to_dict(), "actions": actions}
        digest = hashlib.sha256()
        for action in actions:
            output, data = env.step_and_maybe_reset(data.set("action", action))
            digest.update(output["next", "observation"].numpy().tobytes() + output["next", "reward"].numpy().tobytes())
        expected.append(digest.hexdigest())
    torch.save(states, "states.pt")
    child = subprocess.run([sys.executable, "-c", CONTINUE], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == expected


def test_the_warm_start_is_part_of_the_state():
    env = make("BallInCup", num_envs=32)  # enough for some strings to be taut
    data = run(env, 20)[1]
    state = env.get_state()
    expected = run(env, 10, data=data.clone())[0]["next", "observation"]
    env.set_state(state)
    assert torch.equal(run(env, 10, data=data.clone())[0]["next", "observation"], expected)
    state["task", "warm_start"].zero_()
    env.set_state(state)
    assert not torch.equal(run(env, 10, data=data.clone())[0]["next", "observation"], expected)


def test_a_state_of_another_task_is_refused():
    with pytest.raises(ValueError, match="another task"):
        make("CartpoleBalance").set_state(make("CheetahRun").get_state())


def test_through_a_collector():
    env = make("BallInCup", max_episode_steps=10, spread_episodes=True)
    collector = Collector(env, RandomPolicy(env.action_spec), frames_per_batch=4 * 25, total_frames=4 * 50)
    batches = list(collector)
    collector.shutdown()
    assert [batch.shape for batch in batches] == [(4, 25), (4, 25)]
    done = torch.cat([batch["next", "done"] for batch in batches], 1)
    assert done.sum(1).eq(5).all()


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_an_action_that_is_not_finite_names_the_env(bad):
    env = make("ReacherEasy")
    data = env.reset()
    data["action"] = torch.zeros(4, 2)
    data["action"][2, 1] = bad
    with pytest.raises(NonFiniteError, match=r"ReacherEasy: the action of env 2 is not finite \(env 2 got \[0.0, "):
        env.step(data)


def test_an_action_of_the_wrong_shape_is_refused():
    env = make("ReacherEasy")
    data = env.reset()
    with pytest.raises(ValueError, match=r"expected an action of shape \[4, 2\] .* got \[4, 3\]"):
        env.step(data.set("action", torch.zeros(4, 3)))


def test_broken_physics_names_env_and_step():
    env = make("CheetahRun")
    data = run(env, 3)[1]
    env.physics.state.qvel[1, 4] = float("nan")
    with pytest.raises(RuntimeError, match=r"CheetahRun: the physics broke down \(.*BADQVEL.*\) in env 1 at step 3 of"):
        env.step(data.set("action", torch.zeros(4, 6)))
    assert env.step_count.eq(3).all()


def test_start_states_in_which_physics_breaks_down_are_told():
    env = make("CheetahRun")

    def infinite(generator, num_envs):
        start = env.task.reset(generator, num_envs)
        start.qvel[:, 4] = torch.inf
        return start

    env._nursery.task = replace(env.task, reset=infinite)
    with pytest.raises(NonFiniteError, match=r"CheetahRun: the physics broke down \(.*\) while episodes were started"):
        env.reset()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "cheetah_run"}, r"must be one of BallInCup, .*'cheetah_run'; did you mean 'CheetahRun'\?"),
        ({"name": "Atari"}, "control task must be one of BallInCup, .*, got 'Atari'$"),
        ({"backend": "cc"}, "backend must be one of c, mjx, warp, got 'cc'"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_a_thousand_copies_take_little_memory():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    run(make("BallInCup", num_envs=1), 2)
    before = resident()
    env = make("BallInCup", num_envs=1024)
    data = env.reset()
    for _ in range(5):
        data = env.step_and_maybe_reset(data.set("action", env.action_spec.rand()))[1]
    assert resident() - before < 200e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_on_a_gpu_over_physics_on_the_cpu():
    env = make("ReacherEasy", device="cuda")
    check_env_specs(env)
    assert env.rollout(3)["next", "observation"].device.type == "cuda"
