"""The humanoid on MuJoCo Warp against native MuJoCo, and what its environment keeps on the device."""

from __future__ import annotations

import pytest
import torch
from tensordict.nn import TensorDictModule
from torchrl.envs import check_env_specs

from fpo_torchrl.envs import make_env
from fpo_torchrl.envs.humanoid import HUMANOID_TASKS, HumanoidEnv
from fpo_torchrl.envs.humanoid.model import FORCE_LIMIT, build_spec
from fpo_torchrl.envs.physics.backends import make_physics
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.report.humanoid_scores import evaluate_tracking

ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_CUDA)])
def device(request) -> str:
    pytest.importorskip("mujoco_warp")
    return request.param


def make(device: str, task: str = "humanoid/planar", **settings) -> HumanoidEnv:
    return HumanoidEnv(task, device=device, backend="warp", **{"num_envs": 4, "spread_episodes": False, **settings})


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("task", HUMANOID_TASKS)
def test_a_step_agrees_with_native_mujoco(task, share, device):
    """From the states that episodes start in, with targets at rest and at the end of their range; servos saturate."""
    native = HumanoidEnv(task, num_envs=16, num_threads=1, spread_episodes=False)
    native.reset()
    qpos, qvel = native.motion_library.joints(native.clip, native.frame)
    targets = (share * native._range).expand(16, -1)
    physics = []
    for backend in ("c", "warp"):
        model = build_spec(native.skeleton).compile()
        physics.append(make_physics(backend, model, num_envs=16, num_substeps=1, device=device))
        physics[-1].restart(qpos, qvel, torch.zeros(16, 0, 3))
        physics[-1].step(targets)
    theirs, ours = (one.state.qvel.cpu().double() for one in physics)
    assert 0 < (ours - theirs).abs().max() < 1e-3  # above 0, since it did compare two engines
    torque, _ = native._servos(targets)
    assert (torque.abs() == FORCE_LIMIT).any()


def test_specs_and_a_rollout_through_resets(device):
    env = make_env("humanoid/planar", num_envs=3, device=device, backend="warp")
    check_env_specs(env)
    steps = env.rollout(40, break_when_any_done=False)
    assert steps["next", "terminated"].any(1).all()
    assert steps["next", "observation"].isfinite().all()
    assert {it.device.type for it in (env.clip, env.frame, env.failures.rates, env.physics.state.qpos)} == {device}
    assert env.metrics()["num_diverged"] == 0


def test_a_partial_reset_changes_its_rows_only(device):
    env = make(device)
    step = env.step(env.reset().set("action", env.action_spec.zero()))
    before = {key: it.clone() for key, it in env.task_state().items()}
    mask = torch.tensor([[False], [True], [False], [True]], device=env.device)
    after = env.reset(step["next"].select("observation").set("_reset", mask))
    for key in ("qpos", "qvel", "clip", "frame", "observation"):
        assert torch.equal(env.task_state()[key][[0, 2]], before[key][[0, 2]]), key
        assert key == "clip" or not torch.equal(env.task_state()[key][[1, 3]], before[key][[1, 3]]), key
    assert torch.equal(after["observation"][[0, 2]], step["next", "observation"][[0, 2]])


def test_a_restored_state_goes_on_bit_equal(device):
    env = make(device)
    actions = torch.rand(12, *env.action_spec.shape, generator=torch.Generator().manual_seed(0)).to(device) - 0.5

    def play(data, actions):
        seen = []
        for action in actions:
            step, data = env.step_and_maybe_reset(data.set("action", action))
            seen.append(step["next", "observation"])
        return torch.stack(seen), data

    _, data = play(env.reset(), actions[:6])
    state, carried = env.get_state(), data.clone()
    expected, _ = play(data, actions[6:])
    env.set_seed(1)
    play(env.reset(), actions[:3])
    env.set_state(state)
    found = play(carried, actions[6:])[0]
    if device == "cuda":  # there Warp adds up in no fixed order
        torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=0)
    else:
        assert torch.equal(found, expected)


def test_tracking_is_scored_on_the_device(device):
    env = make(device, num_envs=2, random_start=False, max_episode_steps=1000)
    scores = evaluate_tracking(TensorDictModule(lambda _: env.action_spec.zero(), ["observation"], ["action"]), env)
    assert scores.mean["success"] == 0
    assert scores.mean["alive_s"] > 0


def test_the_preset_of_a_cpu_says_what_to_change(device):
    with pytest.raises(ValueError, match=r"num_threads is a setting of backend='c'.* give num_threads=null"):
        make(device, num_threads=1)


def test_an_action_that_is_not_finite_is_refused(device):
    env = make(device)
    data = env.reset()
    data["action"] = env.action_spec.zero()
    data["action"][2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the action of env 2 is not finite"):
        env.step(data)


def test_a_copy_that_breaks_down_terminates_and_the_others_go_on(device):
    env = make(device)
    data = env.reset().set("action", env.action_spec.zero())
    env.physics.state.qvel[1] = float("nan")
    step = env.step(data)["next"]
    assert step["terminated"].flatten().tolist() == [False, True, False, False]
    assert step["reward"][1] == 0
    assert step["observation"].isfinite().all()
    assert env.metrics()["num_diverged"] == 1
