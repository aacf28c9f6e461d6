"""From config nodes to objects: what is passed along, and what is refused by name."""

from __future__ import annotations

import pytest
import tiny
import torch
from omegaconf import MissingMandatoryValue, OmegaConf
from tensordict import TensorDict
from torch import nn
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.objectives import ClipPPOLoss

from fpo_torchrl import Euler, FlowActor, FPOLoss, make_env
from fpo_torchrl.builders import build, build_agent, env_maker, env_sizes
from fpo_torchrl.envs.probe import ProbeEnv
from fpo_torchrl.errors import ConfigError


class Part:
    """What a user's component may look like."""

    def __init__(self, obs_dim: int, size: int = 3, *, inner=None) -> None:
        if size > 10:
            raise ValueError(f"size must be at most 10, got {size}")
        self.obs_dim, self.size, self.inner = obs_dim, size, inner


class OwnVelocity(nn.Module):
    """A velocity network that is told only what it asks for."""

    def __init__(self, obs_dim: int, action_dim: int, *, width: int = 4) -> None:
        super().__init__()
        self.action_dim, self.width = action_dim, width
        self.layer = nn.Linear(obs_dim + action_dim + 1, action_dim)

    def forward(self, observation, x_t, time):
        shape = torch.broadcast_shapes(observation.shape[:-1], x_t.shape[:-1], time.shape[:-1])
        return self.layer(torch.cat([x.expand(*shape, -1) for x in (observation, x_t, time)], -1))


PART, OWN_VELOCITY = f"{__name__}.Part", f"{__name__}.OwnVelocity"


class TestBuild:
    def test_plain_values_and_sequences_stay(self):
        assert build({"a": [1, None, {"b": "text"}]}) == {"a": [1, None, {"b": "text"}]}

    def test_what_a_target_needs_is_passed_to_every_level_by_name(self):
        node = {"_target_": PART, "inner": {"_target_": PART, "size": 5}}
        part = build(node, obs_dim=7, unrelated="x")
        assert (part.obs_dim, part.size) == (7, 3)
        assert (part.inner.obs_dim, part.inner.size) == (7, 5)

    def test_a_setting_wins_over_what_is_offered(self):
        assert build({"_target_": PART, "obs_dim": 1}, obs_dim=7).obs_dim == 1

    def test_objects_in_sequences(self):
        solvers = build([{"_target_": "fpo_torchrl.Euler", "num_steps": n} for n in (1, 2)])
        assert [type(s) for s in solvers] == [Euler, Euler]
        assert [s.num_steps for s in solvers] == [1, 2]

    @pytest.mark.parametrize(
        ("node", "message"),
        [
            ({"_target_": PART, "sise": 5}, f"part.sise is not a setting of {PART}; allowed are size, inner"),
            ({"_target_": PART, "size": 11}, "^part: size must be at most 10, got 11$"),
            ({"_target_": PART, "inner": {"_target_": PART, "size": 11}}, "^part.inner: size must be at most 10"),
            ({"_target_": "no.such.Thing"}, "part._target_='no.such.Thing' is not an importable Python name"),
        ],
    )
    def test_errors_name_the_place(self, node, message):
        with pytest.raises(ConfigError, match=message):
            build(node, "part", obs_dim=7)

    def test_an_accident_in_a_users_component_has_its_place(self):
        with pytest.raises(ConfigError, match=r"part: .*'NoneType'.* \(TypeError in .*test_builders.py, line \d+\)"):
            build({"_target_": PART, "obs_dim": 1, "size": None}, "part")

    def test_a_file_that_a_component_lacks_is_named(self):
        with pytest.raises(ConfigError, match=r"part: .*No such file or directory: '/no/such/file'"):
            build({"_target_": "builtins.open", "file": "/no/such/file"}, "part")

    def test_a_missing_argument_is_named(self):
        with pytest.raises(ConfigError, match=r"part: .*missing 1 required positional argument: 'obs_dim'"):
            build({"_target_": PART}, "part")


class TestEnvMaker:
    def test_sizes_are_given_when_it_is_called_and_settings_are_those_of_the_config(self):
        env = env_maker(tiny.compose(*tiny.GRIDWORLD))(num_envs=3, device="cpu", seed=4)
        assert (env.batch_size, env.max_episode_steps) == ((3,), 7)
        other = make_env("two_walls", num_envs=3, seed=4, max_episode_steps=7)
        assert env.reset()["observation"].equal(other.reset()["observation"])

    def test_but_for_the_overrides(self):
        cfg = tiny.compose(*tiny.GRIDWORLD)
        env = env_maker(cfg, max_episode_steps=5, spread_episodes=False)(num_envs=2, device="cpu", seed=0)
        assert env.max_episode_steps == 5
        assert cfg.env.max_episode_steps == 7

    def test_a_setting_without_a_value_is_named(self):
        cfg = tiny.compose(*tiny.GRIDWORLD)
        cfg.env.max_episode_steps = "???"
        with pytest.raises(MissingMandatoryValue, match=r"env.max_episode_steps"):
            env_maker(cfg)


class TestAgent:
    @pytest.fixture
    def agent(self):
        return tiny.make_trainer(*tiny.GRIDWORLD, "normalizer=running")

    def test_one_set_of_weights(self, agent):
        assert agent.loss.actor_network is agent.actor
        assert agent.actor.normalizer is agent.normalizer
        assert agent.loss.critic_network is agent.advantage.critic
        assert agent.advantage.critic.module.normalizer is agent.normalizer
        trained = {id(p) for group in agent.optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in agent.loss.parameters()}

    def test_sizes_and_bounds_come_from_the_environment(self, agent):
        assert (agent.actor.velocity_net.obs_dim, agent.actor.velocity_net.action_dim) == (2, 2)
        assert agent.actor.action_low.tolist() == [-1.0, -1.0]
        assert agent.actor.action_high.tolist() == [1.0, 1.0]

    def test_gaussian_baseline_with_torchrls_loss(self):
        trainer = tiny.make_trainer("actor=gaussian", "loss=ppo", "task=CartpoleBalance", *tiny.SMALL)
        assert type(trainer.loss) is ClipPPOLoss
        metrics = next(iter(trainer))
        assert metrics["entropy"] != 0
        assert metrics["first_ratio_error"] < 1e-4
        assert metrics["first_clip_fraction"] == 0

    def test_torchrls_loss_with_a_flow_is_fpo_with_a_clip(self):
        """The package's claim, through config and trainer: the same frames, seed and settings, the same update."""
        same = ["loss.critic_coeff=0.5", "loss.loss_critic_type=l2", "loss.normalize_advantage=true"]
        losses = {
            "ppo": ("loss=ppo", "loss.clip_epsilon=0.1"),
            "fpo": ("loss/trust_region=clip", "loss.trust_region.epsilon=0.1"),
        }
        updated = {}
        for name, choice in losses.items():
            torch.manual_seed(0)
            trainer = tiny.make_trainer(*tiny.CARTPOLE, *choice, *same, "optim.lr=0.01")
            next(iter(trainer))
            updated[name] = torch.cat([p.detach().flatten() for p in trainer.actor.parameters()])
        assert type(trainer.loss) is FPOLoss
        torch.testing.assert_close(updated["ppo"], updated["fpo"], rtol=1e-3, atol=1e-4)

    def test_a_velocity_network_of_the_users_own(self):
        choice = ("actor/velocity_net=custom", f"actor.velocity_net._target_={OWN_VELOCITY}")
        cfg = tiny.compose("task=probe/both", *choice, "+actor.velocity_net.width=9")
        env = ProbeEnv("both", num_envs=2, action_dim=3)
        actor = build_agent(OmegaConf.to_container(cfg, resolve=True), env).actor
        assert isinstance(actor, FlowActor)
        assert actor.velocity_net.width == 9
        td = actor(TensorDict(observation=torch.zeros(2, 1), batch_size=2))
        assert td["action"].shape == (2, 3)

    def test_a_critic_of_the_users_own_need_not_have_what_a_preset_says_of_another(self):
        choice = ("critic=custom", f"critic._target_={__name__}.OwnCritic", "critic.hidden_sizes=[7]")
        cfg = tiny.compose("task=probe/both", *choice, "+critic.width=9")
        critic = build_agent(OmegaConf.to_container(cfg, resolve=True), ProbeEnv("both", num_envs=2)).critic
        assert critic(TensorDict(observation=torch.zeros(2, 1), batch_size=2))["state_value"].shape == (2, 1)
        cfg = tiny.compose("task=probe/both", *choice, "+critic.breadth=9")
        with pytest.raises(ConfigError, match=r"critic\.breadth is not a setting of .*OwnCritic; allowed are width"):
            build_agent(OmegaConf.to_container(cfg, resolve=True), ProbeEnv("both", num_envs=2))

    def test_an_environment_of_the_users_own(self):
        """It has no argument for what an evaluation asks of the package's own."""
        cfg = tiny.compose("task=mine", "env=custom", f"env._target_={__name__}.own_env", "+env.limit=3")
        env = env_maker(cfg, spread_episodes=False)(num_envs=4, device="cpu", seed=0)
        assert env.batch_size == (4,)
        assert env.max_episode_steps == 3

    def test_one_that_takes_any_setting_is_told_what_an_evaluation_asks_for(self):
        cfg = tiny.compose("task=probe/both", "env=custom", f"env._target_={__name__}.passed_on")
        assert env_maker(cfg, spread_episodes=False)(num_envs=4, device="cpu", seed=0).spread_episodes is False

    def test_a_module_that_fails_without_a_word(self, tmp_path, monkeypatch):
        (tmp_path / "fails_at_once.py").write_text("assert False")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=r"not an importable Python name \(AssertionError"):
            build({"_target_": "fails_at_once.Net"}, "part")


class OwnCritic(nn.Module):
    def __init__(self, obs_dim: int, width: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(obs_dim, width), nn.Linear(width, 1))

    def forward(self, observation):
        return self.layers(observation)


def passed_on(num_envs: int, **settings) -> ProbeEnv:
    return ProbeEnv("both", num_envs=num_envs, **settings)


def own_env(num_envs: int, limit: int) -> ProbeEnv:
    return ProbeEnv("both", num_envs=num_envs, max_episode_steps=limit, spread_episodes=False)


class TestEnvironmentsThatDoNotFit:
    @pytest.fixture
    def env(self):
        return ProbeEnv("both", num_envs=2)

    def test_no_flat_observation(self, env):
        env.observation_spec = Composite(pixels=Unbounded((2, 3, 8, 8)), shape=(2,))
        with pytest.raises(ConfigError, match=r"flat entry 'observation' .*pixels"):
            env_sizes(env)

    def test_discrete_actions(self, env):
        env.action_spec = Categorical(3, shape=(2,))
        with pytest.raises(ConfigError, match="needs continuous, bounded actions"):
            env_sizes(env)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.loss_critic_type=l3", "loss.loss_critic_type must be l1, l2 or smooth_l1, got 'l3'"),
        ("loss.critic_coeff=-1", "loss.critic_coeff must be positive, got -1"),
        ("loss.critic_coeff=0", "loss.critic_coeff must be positive, got 0"),
        (
            "actor.num_mc_samples=0",
            "FPOLoss needs an actor that stores what an update reads: not one with num_mc_samples=0",
        ),
        ("critic.hidden_sizes=[4,0]", r"critic: hidden_sizes must be at least 1 each, got \[4, 0\]"),
    ],
)
def test_settings_that_would_fail_only_at_the_first_update(override, message):
    with pytest.raises(ConfigError, match=message):
        tiny.make_trainer(*tiny.CARTPOLE, override)


def test_a_normalizer_and_bounds_are_for_the_policy_and_not_for_its_network():
    """Which would normalise what the policy has normalised already, and the ratio stays 1."""
    node = {"_target_": f"{__name__}.Offered", "inner": {"_target_": f"{__name__}.Offered"}}
    outer = build(node, obs_dim=3, normalizer="running", action_low=-2.0)
    assert (outer.obs_dim, outer.normalizer, outer.action_low) == (3, "running", -2.0)
    assert (outer.inner.obs_dim, outer.inner.normalizer, outer.inner.action_low) == (3, None, None)


class Offered:
    """Takes whatever it is offered."""

    def __init__(self, obs_dim: int, normalizer=None, action_low=None, inner=None) -> None:
        self.obs_dim, self.normalizer, self.action_low, self.inner = obs_dim, normalizer, action_low, inner
