"""Returns that can be counted by hand, and evaluation that leaves no trace in the training around it."""

from __future__ import annotations

import itertools
import types

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import GymEnv

from fpo_torchrl import Euler, FlowActor, Heun, NoisyEuler, VelocityMLP
from fpo_torchrl.envs import make_env
from fpo_torchrl.envs.base import BatchedEnv
from fpo_torchrl.envs.probe import TARGET, ProbeEnv
from fpo_torchrl.evaluation import Evaluation, evaluate, isolated_rng, record
from fpo_torchrl.modules.gaussian import gaussian_actor


class Stairs(BatchedEnv):
    """Copy i lasts i + 1 steps; step k of an episode pays k."""

    def __init__(self, num_envs: int, action_dim: int = 1) -> None:
        settings = {"max_episode_steps": 100, "spread_episodes": False}
        super().__init__(num_envs=num_envs, obs_dim=1, action_dim=action_dim, **settings)
        self.count = torch.zeros(num_envs)

    def start_episodes(self, rows):
        self.count[rows] = 0

    def advance(self, action):
        self.count += 1
        return self.count.clone(), self.count > torch.arange(self.num_envs)

    def observe(self):
        return self.count.unsqueeze(-1).clone()

    def task_state(self):
        return {"count": self.count}

    def load_task_state(self, state):
        self.count.copy_(state["count"])

    def render(self, index: int):
        """A picture whose brightness is the step."""
        return torch.full((8, 8, 3), 20 * int(self.count[index]), dtype=torch.uint8).numpy()


@pytest.fixture
def actor():
    return FlowActor(VelocityMLP(1, 1, hidden_sizes=(8,), output_scale=1.0), Euler(2))


def constant_policy(value: float) -> TensorDictModule:
    def act(observation):
        return torch.full_like(observation, value)

    return TensorDictModule(act, in_keys=["observation"], out_keys=["action"])


class TestReturns:
    def test_each_copy_counts_for_its_first_episode_alone(self, actor):
        # copy i earns 1 + 2 + ... + (i + 1); the shorter ones go on meanwhile, without being counted
        assert evaluate(actor, Stairs(4)).returns == [1.0, 3.0, 6.0, 10.0]

    def test_the_best_action_earns_the_best_return(self):
        env = ProbeEnv("action", num_envs=3)
        assert evaluate(constant_policy(TARGET), env).returns == [1.0] * 3
        assert evaluate(constant_policy(TARGET + 0.5), env).returns == [0.75] * 3

    def test_no_gradient_is_kept(self, actor):
        evaluate(actor, ProbeEnv("action", num_envs=3))
        assert all(p.grad is None for p in actor.parameters())

    def test_the_time_of_the_policy_is_that_of_one_call(self, actor, monkeypatch):
        """By a clock that goes on by a second whenever it is looked at, before and after each of four calls."""
        clock = types.SimpleNamespace(perf_counter=itertools.count().__next__)
        monkeypatch.setattr("fpo_torchrl.evaluation.time", clock)
        assert evaluate(actor, Stairs(4)).policy_s == 1.0

    def test_it_stops_where_told(self, actor):
        steps = []
        assert evaluate(actor, Stairs(4), on_step=steps.append, max_steps=2).returns == [1.0, 3.0, 3.0, 3.0]
        assert steps == [0, 1, 2]


class TestStartNoise:
    @pytest.fixture
    def env(self):
        return ProbeEnv("action", num_envs=20)

    def test_zero_and_fixed_noise_give_one_action_and_random_noise_many(self, actor, env):
        distinct = {noise: len(set(evaluate(actor, env, noise=noise).returns)) for noise in ("zero", "fixed", "random")}
        assert distinct["zero"] == distinct["fixed"] == 1
        assert distinct["random"] > 10

    def test_an_unknown_noise_is_refused(self, actor, env):
        gaussian = TensorDictModule(nn.Linear(1, 1), in_keys=["observation"], out_keys=["action"])
        for policy in (actor, gaussian):
            with pytest.raises(ValueError, match="noise must be one of random, zero, fixed, got 'randm'"):
                evaluate(policy, env, noise="randm")

    def test_action_noise_is_left_out(self, env):
        noisy = FlowActor(VelocityMLP(1, 1, hidden_sizes=(8,)), Euler(2), action_noise_std=0.5)
        assert len(set(evaluate(noisy, env, noise="zero").returns)) == 1

    def test_zero_noise_starts_at_the_origin(self, actor, env):
        expected = actor.solver(lambda x, time: actor.velocity_net(torch.zeros(1, 1), x, time), torch.zeros(1, 1))
        reward = 1 - (expected.tanh() - TARGET) ** 2
        assert evaluate(actor, env, noise="zero").returns[0] == pytest.approx(reward.item(), rel=1e-5)

    def test_the_seed_decides(self, actor, env):
        first, same, other = (evaluate(actor, env, seed=seed).returns for seed in (1, 1, 2))
        assert first == same
        assert first != other

    def test_another_solver_on_the_same_weights(self, actor, env):
        own = evaluate(actor, env, noise="zero").mean
        assert evaluate(actor, env, noise="zero", solver=Euler(2)).mean == own
        fine = [evaluate(actor, env, noise="zero", solver=solver).mean for solver in (Euler(400), Heun(40))]
        assert fine[0] == pytest.approx(fine[1], abs=1e-3)
        assert fine[0] != pytest.approx(own, abs=1e-3)
        assert actor.solver.num_steps == 2

    def test_zero_noise_of_a_gaussian_is_its_mode(self, env):
        gaussian = gaussian_actor(1, 1, hidden_sizes=(8,))
        assert len(set(evaluate(gaussian, env, noise="zero").returns)) == 1
        assert len(set(evaluate(gaussian, env, noise="random").returns)) > 10


class TestActionSpread:
    """Stairs show their step, so that a policy can act by it; how much it differs within one is what counts."""

    @staticmethod
    def spread(act, *, action_dim: int = 1, **settings) -> float:
        policy = TensorDictModule(act, in_keys=["observation"], out_keys=["action"])
        return evaluate(policy, Stairs(400, action_dim), max_steps=31, **settings).action_spread

    def test_it_is_the_deviation_in_one_state(self):
        assert self.spread(lambda step: 10 * step + 0.3 * torch.randn_like(step)) == pytest.approx(0.3, rel=0.05)

    def test_it_is_zero_for_a_policy_that_differs_between_states_alone(self):
        assert self.spread(lambda step: 10 * step) == 0

    def test_entries_of_an_action_count_alike(self):
        std = torch.tensor([0.1, 0.5])
        spread = self.spread(lambda step: std * torch.randn(*step.shape[:-1], 2), action_dim=2)
        assert spread == pytest.approx(0.3, rel=0.05)

    def test_it_is_that_of_the_policy_that_is_trained_whatever_noise_is_evaluated(self, actor):
        zero, random = (evaluate(actor, Stairs(20), noise=noise).action_spread for noise in ("zero", "random"))
        assert zero == random > 0

    def test_it_is_that_of_the_solver_that_is_evaluated(self):
        """Without a velocity the start has variance 1, and each of four steps adds 1 if the solver is noisy."""
        still = FlowActor(VelocityMLP(1, 1, hidden_sizes=(8,), output_scale=0.0), Euler(4), squash="none")
        plain, noisy = (
            evaluate(still, Stairs(400), noise="zero", solver=solver, max_steps=31).action_spread
            for solver in (None, NoisyEuler(4, noise_std=1.0))
        )
        assert plain == pytest.approx(1, rel=0.05)
        assert noisy == pytest.approx(5**0.5, rel=0.05)

    def test_an_environment_without_a_batch_has_one_too(self, actor):
        actor = FlowActor(VelocityMLP(3, 1, hidden_sizes=(8,)), Euler(2))
        assert 0 < evaluate(actor, GymEnv("Pendulum-v1"), max_steps=15).action_spread < 1

    def test_drawing_for_it_leaves_the_returns_as_they_are(self, actor, monkeypatch):
        env = make_env("CartpoleBalance", num_envs=3)
        before = evaluate(actor := FlowActor(VelocityMLP(5, 1, hidden_sizes=(8,)), Euler(2)), env, max_steps=20)
        monkeypatch.setattr("fpo_torchrl.evaluation._SPREAD_INTERVAL", 1)
        assert evaluate(actor, env, max_steps=20).returns == before.returns


class TestInterval:
    def test_it_contains_the_mean_and_shrinks_with_the_number_of_episodes(self):
        few, many = (Evaluation([0.0, 1.0] * n, 0.0, 0.0) for n in (5, 500))
        for evaluation in (few, many):
            low, high = evaluation.interval
            assert low < evaluation.mean == 0.5 < high
        # the standard error of the mean of n coins is 1 / (2 sqrt(n)), and 95 % are 1.96 of it to each side
        low, high = many.interval
        assert high - low == pytest.approx(2 * 1.96 / (2 * 1000**0.5), rel=0.1)

    def test_equal_returns_have_no_width(self):
        assert Evaluation([3.0] * 4, 0.0, 0.0).interval == (3.0, 3.0)

    def test_the_numbers_for_files(self):
        numbers = Evaluation([1.0, 3.0], 0.25, 0.5).as_dict()
        assert numbers["mean"] == 2.0
        assert numbers["low"] <= 2.0 <= numbers["high"]
        assert (numbers["returns"], numbers["policy_s"], numbers["action_spread"]) == ([1.0, 3.0], 0.25, 0.5)


class TestIsolation:
    def test_random_numbers_go_on_as_if_nothing_had_happened(self):
        torch.manual_seed(3)
        expected = torch.randn(3)
        torch.manual_seed(3)
        with isolated_rng(99):
            inside = torch.randn(3)
        assert torch.randn(3).equal(expected)
        assert not inside.equal(expected)

    def test_inside_the_seed_decides(self):
        draws = []
        for _ in range(2):
            torch.randn(1)
            with isolated_rng(5):
                draws.append(torch.randn(3))
        assert draws[0].equal(draws[1])

    def test_an_error_inside_restores_too(self):
        state = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError), isolated_rng(5):
            torch.randn(1).item() / 0
        assert torch.get_rng_state().equal(state)

    def test_an_evaluation_leaves_random_numbers_and_actor_alone(self, actor):
        class SeedsTorch(ProbeEnv):
            """As environments do that draw from torch's own random numbers."""

            def _set_seed(self, seed):
                torch.manual_seed(seed)
                super()._set_seed(seed)

        env = SeedsTorch("both", num_envs=3)
        torch.randn(1)  # else it might be the state that a seed gives
        state = torch.get_rng_state()
        weights = [p.clone() for p in actor.parameters()]
        evaluate(actor, env)
        assert torch.get_rng_state().equal(state)
        assert all(p.equal(w) for p, w in zip(actor.parameters(), weights, strict=True))
        assert actor.num_mc_samples == 8
        td = actor(TensorDict(observation=torch.zeros(2, 1), batch_size=2))
        assert td["cfm_loss"].shape == (2, 8)


class TestRecord:
    def test_an_animation_that_shows_the_episode(self, actor, tmp_path):
        from PIL import Image, ImageSequence

        path = record(actor, Stairs(1), tmp_path / "rollout.gif", max_frames=4)
        pictures = [frame.convert("L").getpixel((0, 0)) for frame in ImageSequence.Iterator(Image.open(path))]
        assert len(pictures) > 1
        assert pictures == sorted(set(pictures))  # brighter at each step

    def test_no_more_pictures_are_taken_than_asked_for(self, actor, tmp_path, monkeypatch):
        """Of twelve steps and the start, each of which would have one."""
        taken = []
        monkeypatch.setattr("fpo_torchrl.evaluation.write_video", lambda pictures, *args, **kw: taken.extend(pictures))
        record(actor, Stairs(12), tmp_path / "rollout.gif", max_frames=4)
        assert len(taken) == 4

    def test_a_single_picture(self, actor, tmp_path):
        assert record(actor, Stairs(1), tmp_path / "rollout.gif", max_frames=1).stat().st_size > 0

    def test_nothing_where_nothing_can_be_drawn(self, actor, tmp_path):
        assert record(actor, ProbeEnv("both", num_envs=1), tmp_path / "rollout.gif") is None
        assert not list(tmp_path.iterdir())


def test_control_and_grid_worlds_are_evaluated_over_whole_episodes():
    for task, steps in (("gridworld/two_walls", 5), ("CartpoleBalance", 4)):
        env = make_env(task, num_envs=2, spread_episodes=False, max_episode_steps=steps)
        net = VelocityMLP(env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1], hidden_sizes=(4,))
        taken = []
        evaluation = evaluate(FlowActor(net, Euler(1)), env, on_step=taken.append)
        assert max(taken) == steps
        assert all(abs(value) <= 20 for value in evaluation.returns)


def test_an_actor_without_flow_is_called_as_it_is():
    assert evaluate(constant_policy(0.0), ProbeEnv("constant", num_envs=2)).returns == [1.0, 1.0]
    assert isinstance(constant_policy(0.0), nn.Module)
