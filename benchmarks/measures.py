"""What the return of a run does not say: the modes among its *sampled* actions, or the error of its value."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict
from torchrl.envs.utils import set_exploration_type

from fpo_torchrl.envs.gridworld_layout import make_layout
from fpo_torchrl.envs.probe import PROBES, modes_found
from fpo_torchrl.evaluation import evaluation_policy, isolated_rng
from fpo_torchrl.report.gridworld import STARTS, GridPolicy, measure
from fpo_torchrl.report.humanoid import score_run
from fpo_torchrl.trained import load_policy


def sampled_actions(directory: Path, observations: torch.Tensor, num_samples: int = 2000) -> torch.Tensor:
    """Actions ``[*batch, num_samples, act]`` that the run's final policy draws at ``observations``."""
    policy, exploration = evaluation_policy(load_policy(directory, device="cpu").actor, "random")
    repeated = observations.unsqueeze(-2).expand(*observations.shape[:-1], num_samples, -1)
    with torch.no_grad(), isolated_rng(0), set_exploration_type(exploration):
        return policy(TensorDict(observation=repeated, batch_size=repeated.shape[:-1]))["action"]


def value_error(directory: Path) -> dict[str, float]:
    """Largest distance of the critic from a probe's optimal value, over its observations."""
    trained = load_policy(directory, device="cpu")
    probe = PROBES[trained.cfg.task.removeprefix("probe/")]
    observations = torch.tensor(
        [[start + step] for start in probe.start_observations for step in range(probe.num_steps)]
    )
    with torch.no_grad():
        values = trained.critic(TensorDict(observation=observations, batch_size=len(observations)))["state_value"]
    return {"value_error": (values - probe.optimal_value(observations, trained.cfg.advantage.gamma)).abs().max().item()}


def bandit_shares(directory: Path) -> dict[str, float]:
    """Shares of the bandit's two good modes among the actions."""
    low, high = modes_found(sampled_actions(directory, torch.zeros(1))).tolist()
    return {"share_left": low, "share_right": high}


def tracking(directory: Path) -> dict[str, float]:
    """Success, time alive and position errors over all motions, with zero and with random start noise."""
    found = score_run(directory, noise=("zero", "random"))
    return {f"{name}_{noise}": value for noise, scores in found.items() for name, value in scores.mean.items()}


def gridworld(directory: Path) -> dict[str, float]:
    """Success, path efficiency, and whether both ways stay open at the saddle."""
    trained = load_policy(directory, device="cpu")
    name = trained.cfg.task.removeprefix("gridworld/")
    return measure(GridPolicy(trained.actor, make_layout(name)), STARTS[name][0])
