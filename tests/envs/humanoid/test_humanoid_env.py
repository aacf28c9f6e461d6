"""The environment: starts, ends, faults, and what actor and critic get to see of its observation."""

from __future__ import annotations

import pytest
import torch
from motions import write_npz
from tensordict import TensorDict
from tiny import FLOW, SMALL, compose
from torchrl.envs import check_env_specs
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl.builders import build_agent
from fpo_torchrl.envs import make_env
from fpo_torchrl.envs.humanoid import HUMANOID_TASKS, HumanoidEnv, MotionError
from fpo_torchrl.envs.humanoid.goal import goal_mask
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.errors import NonFiniteError

PLANAR = "humanoid/planar"


def make(task: str = PLANAR, num_envs: int = 4, **settings) -> HumanoidEnv:
    return HumanoidEnv(task, num_envs=num_envs, num_threads=1, **{"spread_episodes": False, **settings})


def advance(env: HumanoidEnv, td: TensorDict, action: torch.Tensor) -> tuple[TensorDict, TensorDict]:
    return env.step_and_maybe_reset(td.set("action", action))


def reference_action(env: HumanoidEnv) -> torch.Tensor:
    """The action whose targets are the reference's joints one step ahead, with a lead that cancels the damping."""
    qpos, qvel = env.motion_library.joints(env.clip, env.frame + 1)
    angles = Kinematics(env.skeleton).servo_angles(qpos)
    return ((angles + 0.1 * qvel[:, env.skeleton.num_root_velocities :]) / env._range).float()


@pytest.mark.parametrize("task", HUMANOID_TASKS)
def test_specs(task):
    env = make_env(task, num_envs=3, num_threads=1)
    check_env_specs(env)
    assert env.observation_spec["observation"].shape == (3, 583)
    assert env.action_spec.shape == (3, {"humanoid/full": 28, "humanoid/planar": 12}[task])


@pytest.mark.parametrize("task", HUMANOID_TASKS)
def test_episodes_start_in_the_state_of_the_reference(task):
    env = make(task, num_envs=32)
    env.reset()
    qpos, qvel = env.motion_library.joints(env.clip, env.frame)
    assert torch.equal(env.physics.state.qpos, qpos)
    assert torch.equal(env.physics.state.qvel, qvel)
    assert set(env.clip.tolist()) == {0, 1}
    assert len(set(env.frame.tolist())) > 10


def test_a_small_action_unit_widens_the_actions_and_leaves_the_servos_alone():
    fine, plain = make(num_envs=2, action_unit=0.1, random_start=False), make(num_envs=2, random_start=False)
    assert fine.action_spec.space.high.unique().item() == pytest.approx(10.0)
    action = torch.full((2, 12), 0.04)
    steps = [env.step(env.reset().set("action", it))["next"] for env, it in ((fine, 10 * action), (plain, action))]
    torch.testing.assert_close(steps[0]["observation"], steps[1]["observation"])


def outcomes(action: torch.Tensor, **settings) -> TensorDict:
    """Of one copy that takes ``action`` ``[steps, 1, act]`` from a motion's beginning, however far off it gets."""
    env = make(num_envs=1, random_start=False, max_distance=100.0, **settings)
    td, steps = env.reset(), []
    for it in action:
        step, td = advance(env, td, it)
        steps.append(step["next"])
    return torch.stack(steps)


def test_power_has_its_price_after_the_first_three_steps():
    action = torch.full((5, 1, 12), 0.3)
    free, once, twice = (outcomes(action, power_coeff=it)["reward"].flatten() for it in (0.0, 1e-4, 2e-4))
    cost = free - once
    assert cost[:3].tolist() == [0, 0, 0]
    assert (cost[3:] > 1e-4).all()
    torch.testing.assert_close(free - twice, 2 * cost, rtol=1e-3, atol=1e-6)


def test_servos_go_no_farther_than_their_range():
    far, bound = (outcomes(torch.full((2, 1, 12), size)) for size in (3.0, 1.0))
    assert torch.equal(far["observation"], bound["observation"])
    assert torch.equal(far["reward"], bound["reward"])


def test_copies_of_an_evaluation_start_at_the_beginning_of_each_motion():
    env = make(num_envs=5, random_start=False)
    env.reset()
    assert env.clip.tolist() == [0, 1, 0, 1, 0]
    assert env.frame.tolist() == [0] * 5


@pytest.mark.parametrize("task", HUMANOID_TASKS)
def test_servos_that_follow_the_reference_keep_to_it(task):
    """As in DeepMimic's paper the gains hold a walk for a while without a policy: ten steps with a reward near 1."""
    env = make(task, num_envs=2, random_start=False)
    td, rewards = env.reset(), []
    for _ in range(10):
        step, td = advance(env, td, reference_action(env))
        assert not step["next", "terminated"].any()
        rewards.append(step["next", "reward"].mean())
    assert torch.stack(rewards).mean() > 0.8


@pytest.mark.parametrize("task", HUMANOID_TASKS)
def test_without_a_policy_it_loses_the_reference(task):
    env = make(task, num_envs=8)
    td, lost = env.reset(), torch.zeros(8, 1, dtype=torch.bool)
    for _ in range(30):
        step, td = advance(env, td, torch.zeros(env.action_spec.shape))
        lost |= step["next", "terminated"]
    assert lost.all()


def test_the_last_step_shows_where_the_body_was_not_where_it_starts_again():
    """Termination at the first step beyond max_distance, with the height of the root that MuJoCo has then."""
    env = make(num_envs=1, random_start=False)
    td, heights = env.reset(), []
    for _ in range(30):
        step = env.step(td.set("action", torch.zeros(1, 12)))
        heights.append(env.physics.state.qpos[0, 1].item())
        distance = env.distance(env.bodies, env.reference).item()
        assert step["next", "terminated"].item() == (distance > 0.25)
        assert step["next", "observation"][0, 0].item() == pytest.approx(heights[-1], abs=1e-6)
        if step["next", "terminated"]:
            break
        td = step["next"].exclude("reward")
    assert step["next", "done"].item()
    assert not step["next", "truncated"].item()
    restarted = env.maybe_reset(step["next"].clone())
    assert restarted["observation"][0, 0] != pytest.approx(heights[-1], abs=1e-3)


def test_the_end_of_a_motion_is_a_truncation(tmp_path):
    """A motion of 7 frames has 5 steps that end at its last frame but one, whose goal is the last."""
    motions = str(write_npz(tmp_path / "glide.npz", num_frames=7))
    env = make(num_envs=1, random_start=False, motions=motions, mirror=False, max_distance=100.0)
    td = env.reset()
    for count in range(1, 6):
        step = env.step(td.set("action", torch.zeros(1, 12)))["next"]
        assert step["truncated"].item() == (count == 5)
        assert not step["terminated"].any()
        td = step.exclude("reward")


def test_a_partial_reset_leaves_the_other_copies_alone():
    env = make(num_envs=4)
    td = env.reset()
    before = env.get_state()["task"]
    mask = torch.tensor([False, True, False, True]).unsqueeze(-1)
    after = env.reset(td.clone().set("_reset", mask))
    kept = [0, 2]
    assert torch.equal(after["observation"][kept], td["observation"][kept])
    assert torch.equal(env.physics.state.qpos[kept], before["qpos"][kept])
    assert not torch.equal(after["observation"][[1, 3]], td["observation"][[1, 3]])


def test_a_new_episode_has_nothing_of_the_one_before():
    """Not the solver's first guess either, by which forces in contacts would differ in their last digits."""
    env = make(num_envs=2, random_start=False)
    td = env.step(env.reset().set("action", torch.rand(2, 12)))["next"]
    state = env.physics.state
    assert state.warm_start.any(-1).all()
    env.reset(td.set("_reset", torch.tensor([[True], [False]])))
    assert state.warm_start.any(-1).tolist() == [False, True]
    assert state.time.flatten().tolist() == [0, pytest.approx(1 / 30)]


@pytest.mark.parametrize(("stiffness", "share"), [(0.0, 0.0), (1e12, 1.0)])
def test_the_log_has_the_parts_of_the_reward_and_the_share_of_servos_at_their_limit(stiffness, share):
    env = HumanoidEnv("humanoid/planar", num_envs=3, seed=0)
    env._stiffness, env._damping = torch.full_like(env._stiffness, stiffness), 0 * env._damping  # for the log
    steps = env.rollout(5, break_when_any_done=False)
    logged = env.metrics()
    assert logged["servo_saturation"] == share
    parts = [value for name, value in logged.items() if name.startswith("reward_")]
    assert len(parts) == 5
    assert sum(parts) == pytest.approx(steps["next", "reward"].mean().item(), rel=1e-5)
    assert env.metrics()["reward_position"] == 0  # nothing since


def test_the_same_seed_repeats_a_run_and_a_saved_state_goes_on_bit_for_bit():
    runs, actions = [], torch.rand(12, 4, 12) - 0.5
    for _ in range(2):
        env = make(seed=3)
        td = env.reset()
        steps = []
        for number, action in enumerate(actions):
            if number == 6:
                state = env.get_state()
            step, td = advance(env, td, action)
            steps.append(step["next"])
        runs.append(torch.stack(steps))
    assert torch.equal(runs[0]["observation"], runs[1]["observation"])
    other = make(seed=99)
    other.set_state(state)
    td = other.reset()
    for number in range(6, 12):
        step, td = advance(other, td, actions[number])
        assert torch.equal(step["next", "observation"], runs[0]["observation"][number])
        assert torch.equal(step["next", "reward"], runs[0]["reward"][number])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_action_that_is_not_finite_is_an_error(value):
    env = make(num_envs=3)
    td = env.reset()
    action = torch.zeros(3, 12)
    action[1, 4] = value
    with pytest.raises(NonFiniteError, match="HumanoidEnv: the action of env 1 is not finite"):
        env.step(td.set("action", action))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "humanoid/dog"}, "task must be one of humanoid/full, humanoid/planar"),
        ({"conditioning": "hands"}, "conditioning must be one of full, root_hands, root, got 'hands'"),
        ({"critic_goal": "none"}, "critic_goal must be one of full, masked, got 'none'"),
        ({"distance": "median"}, "distance must be one of farthest, mean, got 'median'"),
        ({"max_distance": 0.0}, "max_distance must be positive, got 0"),
        ({"action_unit": 0.0}, "action_unit must be above 0 and at most 1, got 0"),
        ({"max_distance": float("nan")}, "max_distance must be positive, got nan"),
        ({"power_coeff": -1.0}, "power_coeff must be 0 or more, got -1"),
        ({"failure_share": 1.0}, "failure_share must be at least 0 and below 1, got 1"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"backend": "mjx"}, "backend must be one of c, warp, got 'mjx'"),
        ({"cycles": 0}, "cycles must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_motions_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(MotionError, match="neither a file nor a folder"):
        make(motions=str(tmp_path / "nowhere"))


POLICIES = {"fpo": FLOW, "ppo": (*SMALL, "actor=gaussian", "loss=ppo", "actor.hidden_sizes=[8]")}


@pytest.mark.parametrize("critic_goal", ["full", "masked"])
@pytest.mark.parametrize("conditioning", ["full", "root_hands", "root"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_hidden_feature_reaches_the_actor_and_the_critic_sees_what_it_is_told_to(policy, conditioning, critic_goal):
    """Whatever is written into the hidden features, NaN included, the action is the same bit for bit."""
    env = make(num_envs=6, conditioning=conditioning, critic_goal=critic_goal)
    agent = build_agent(compose("env=humanoid", f"task={PLANAR}", *POLICIES[policy]), env)
    assert agent.normalizer is not None
    observation = env.reset()["observation"]
    agent.normalizer.update(torch.randn(64, 583))
    visible = torch.cat([torch.ones(223, dtype=torch.bool), goal_mask(env.skeleton, conditioning)])
    changed = observation.masked_fill(~visible, torch.nan)
    for entry in (~visible).nonzero().flatten()[::7].tolist():
        changed[:, entry] = 1e6

    def answers(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        td = TensorDict(observation=seen, batch_size=6)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            return agent.actor(td)["action"], agent.critic(td)["state_value"]

    (action, value), (other_action, other_value) = answers(observation), answers(changed)
    assert torch.equal(action, other_action)
    blind = conditioning == "full" or critic_goal == "masked"
    assert torch.equal(value, other_value) == blind
    shown = observation.clone()
    shown[:, visible.nonzero().flatten()[-1]] += 0.5
    assert not torch.equal(action, answers(shown)[0])
