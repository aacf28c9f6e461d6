"""FPO learns what can be solved by hand, in seconds: a part that is broken does not."""

from __future__ import annotations

import pytest
import tiny
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from fpo_torchrl.envs.probe import PROBES, bimodal_reward, modes_found
from fpo_torchrl.evaluation import evaluate

SHARED = ("num_threads=1", "critic.hidden_sizes=[32]", "trainer.anneal_lr=true")
PROBE = (
    *("experiment=bandit", "num_envs=128", "actor.velocity_net.hidden_sizes=[32,32]", "actor.solver.num_steps=5"),
    *("optim.lr=3e-3", "trainer.frames_per_batch=1024", "trainer.minibatch_size=256", *SHARED),
)
LARGE_BATCHES = (
    # so that neither mode gets ahead by chance: what is ahead draws more samples, and gets further ahead
    *("num_envs=512", "trainer.frames_per_batch=16384", "trainer.minibatch_size=2048", "trainer.num_epochs=8"),
    *("optim.lr=1e-2", "total_frames=65536", *SHARED),
)


def trained(*overrides: str):
    """The actor after training, and the environment it learnt in."""
    torch.manual_seed(0)
    trainer = tiny.make_trainer(*overrides)
    for _ in trainer:
        pass
    return trainer.actor, trainer.env


@torch.no_grad()
def actions(actor, observation: Tensor) -> Tensor:
    with set_exploration_type(ExplorationType.RANDOM):
        return actor(TensorDict(observation=observation, batch_size=len(observation)))["action"]


@pytest.mark.parametrize(("name", "frames"), [("action", 10240), ("both", 16384)])
def test_a_probe_is_solved(name, frames):
    actor, env = trained(*PROBE, f"task=probe/{name}", f"total_frames={frames}")
    observation = torch.tensor(PROBES[name].start_observations).repeat(500).unsqueeze(-1)
    best = PROBES[name].optimal_action(observation)
    assert (actions(actor, observation) - best).square().mean().sqrt() < 0.15
    assert evaluate(actor, env, noise="random").mean > 0.98  # of 1; acting at random earns about 0.4


def test_a_flow_finds_both_modes_of_the_bandit():
    actor, _ = trained("experiment=bandit", "actor.velocity_net.output_scale=0.25", *LARGE_BATCHES)
    found = actions(actor, torch.zeros(4000, 1))
    assert modes_found(found).min() > 0.15
    assert modes_found(found).sum() > 0.8
    assert bimodal_reward(found).mean() > 0.75


def test_a_gaussian_does_not():
    actor, _ = trained("experiment=bandit_ppo", *LARGE_BATCHES, "total_frames=32768")
    found = actions(actor, torch.zeros(4000, 1))
    assert modes_found(found).min() < 0.1 or bimodal_reward(found).mean() < 0.5
