"""Agents that are trained together do what each does alone."""

from __future__ import annotations

import functools
import itertools

import pytest
import tiny
import torch
from torchrl.envs import Compose, TransformedEnv

from fpo_torchrl.errors import ConfigError, NonFiniteError
from fpo_torchrl.seeds import training
from fpo_torchrl.seeds.generator import AgentGenerator
from fpo_torchrl.seeds.stack import Member
from fpo_torchrl.seeds.training import train_in_turn, train_together
from fpo_torchrl.trainer import Trainer

SMOOTH = ("total_frames=128", "optim.eps=1", "optim.lr=0.3")
"""Two iterations, in which Adam does not turn a gradient's rounding into a full step."""
TASKS = {
    "gridworld": (*tiny.GRIDWORLD, "normalizer=running", "trainer.redraw_pairs=true", "actor.noise_storage=seed"),
    "control": (*tiny.CARTPOLE, "loss.prior_coeff=0.1", "actor.action_noise_std=0.1", "actor/solver=sde"),
    "windows": (*tiny.CARTPOLE, "loss=fpopp", "trainer.advantage_every=minibatch", "trainer.unroll_length=8"),
    "gym": (*tiny.FLOW, "task=gym/Pendulum-v1"),
}
TIMES = ("collect_s", "update_s", "frames_per_s")


def make_trainer(seed: int, *overrides: str) -> Trainer:
    torch.manual_seed(seed)
    return tiny.make_trainer(*overrides, f"seed={seed}")


def make_members(*overrides: str, seeds: tuple[int, ...] = (0, 1)) -> list[Member]:
    device = "cuda" if "device=cuda" in overrides else "cpu"
    return [Member(make_trainer(seed, *overrides), AgentGenerator(device)) for seed in seeds]


@functools.cache
def alone(seed: int, *overrides: str) -> tuple[Trainer, list[dict[str, float]]]:
    trainer = make_trainer(seed, *overrides)
    return trainer, numbers([*trainer])


def numbers(rows: list) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in TIMES and value == value} for row in rows]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.loss.parameters()])


@pytest.mark.parametrize("task", ["gridworld", "control"])
def test_in_turn_each_is_the_lone_run_bit_for_bit(task):
    members = make_members(*TASKS[task])
    results = [*train_in_turn(members)]
    assert len(results) == 4
    for seed, member in enumerate(members):
        lone, rows = alone(seed, *TASKS[task])
        assert numbers([result[member] for result in results]) == rows
        assert weights(member.trainer).equal(weights(lone))
        assert not weights(member.trainer).equal(weights(members[1 - seed].trainer))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("task", TASKS)
def test_together_each_is_the_lone_run_up_to_rounding(task, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    overrides = (*TASKS[task], *SMOOTH, f"device={device}")
    members = make_members(*overrides)
    results = [*train_together(members)]
    for seed, member in enumerate(members):
        lone, rows = alone(seed, *overrides)
        torch.testing.assert_close(weights(member.trainer), weights(lone), atol=1e-5, rtol=1e-5)
        for found, expected in zip(numbers([result[member] for result in results]), rows, strict=True):
            assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)
        moved = (weights(member.trainer) - weights(make_trainer(seed, *overrides))).abs().max()
        assert moved > 0.01  # far beyond the tolerance


class DrawsFromTorch(TransformedEnv):
    """An environment that draws from torch's random numbers in each step."""

    def _step(self, tensordict):
        stepped = super()._step(tensordict)
        return stepped.set("reward", stepped["reward"] + torch.randn(()))


def test_together_each_environment_draws_from_its_agents_random_numbers():
    overrides = (*TASKS["gridworld"], *SMOOTH)
    rewards = {}
    for name, seeds in {"alone": (1,), "together": (0, 1)}.items():
        members = make_members(*overrides, seeds=seeds)
        for member in members:
            member.trainer.env = DrawsFromTorch(member.trainer.env, Compose())
        rewards[name] = [result[members[-1]]["reward"] for result in train_together(members)]
    assert rewards["together"] == pytest.approx(rewards["alone"], abs=1e-5)


def test_the_seconds_are_each_agents_share(monkeypatch):
    """Added up over agents they are those of the whole, as in turn."""
    clock = itertools.count()
    members = make_members(*TASKS["gridworld"], *SMOOTH)
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    first = next(iter(train_together(members)))
    assert [(row["collect_s"], row["update_s"]) for row in first.values()] == [(0.5, 0.5)] * 2


@pytest.mark.parametrize(
    ("train", "task"), [(train_in_turn, "gridworld"), (train_together, "gridworld"), (train_together, "control")]
)
def test_an_agent_that_diverges_leaves_the_others_as_they_are(train, task):
    overrides = (*TASKS[task], *SMOOTH)
    members = make_members(*overrides, seeds=(0, 2, 1))
    with torch.no_grad():
        for weight in members[1].trainer.actor.parameters():
            weight.fill_(torch.nan)  # GridWorld takes the actions that follow, a control task refuses them
    first, second = train(members)
    assert isinstance(first[members[1]], NonFiniteError)
    assert members[1] not in second
    for seed, member in ((0, members[0]), (1, members[2])):
        expected = weights(alone(seed, *overrides)[0])
        torch.testing.assert_close(weights(member.trainer), expected, atol=1e-5, rtol=1e-5)


def test_together_each_has_its_own_step_sizes_norm_limit_and_length():
    settings = (*TASKS["gridworld"], *SMOOTH, "trainer.anneal_lr=true")
    own = {0: settings, 1: (*settings, "optim.lr=0.1", "optim.max_grad_norm=0.01", "total_frames=192")}
    members = [make_members(*overrides, seeds=(seed,))[0] for seed, overrides in own.items()]
    assert len([*train_together(members)]) == 3
    for member, (seed, overrides) in zip(members, own.items(), strict=True):
        lone, _ = alone(seed, *overrides)
        torch.testing.assert_close(weights(member.trainer), weights(lone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train", [train_in_turn, train_together])
def test_an_agent_that_is_further_finishes_earlier(train):
    members = make_members(*TASKS["gridworld"], *SMOOTH)
    members[0].trainer.frames = 64
    assert [set(results) for results in train(members)] == [set(members), {members[1]}]


OBSTACLES = {
    "trainer.compile=true": "compiles the loss of a single agent",
    "trainer.critic_warmup_frames=64": "changes what a single agent descends",
    "actor/solver=random_steps": "draws its own number of steps",
    "actor/solver=random_steps_per_rollout": "draws its own number of steps",
}


@pytest.mark.parametrize("setting", OBSTACLES)
def test_an_obstacle_is_named_before_anything_is_stacked(setting):
    with pytest.raises(ConfigError, match=f"{OBSTACLES[setting]}.*: it needs vmap=false"):
        next(train_together(make_members(*tiny.GRIDWORLD, setting)))


def test_what_torch_cannot_map_is_refused():
    gaussian = tuple(o for o in tiny.CARTPOLE if not o.startswith("actor."))
    with pytest.raises(ConfigError, match=r"cannot be vectorized together: give vmap=false"):
        next(train_together(make_members(*gaussian, "actor=gaussian", "loss=ppo")))
