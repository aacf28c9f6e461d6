"""What the return of a run does not say: the modes among its *sampled* actions, or the error of its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torchrl.envs.utils import set_exploration_type

from fpo_torchrl.builders import Agent, build_agent
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.envs import make_env, multimodality
from fpo_torchrl.envs.probe import PROBES, modes_found
from fpo_torchrl.evaluation import evaluation_policy, isolated_rng
from fpo_torchrl.run import load_run_config


def trained_agent(directory: Path) -> tuple[Any, Agent]:
    """The resolved config of a finished run, and its agent with the final weights."""
    cfg = load_run_config(directory)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    agent = build_agent(tree, make_env(cfg.task, 1))
    Checkpointer(directory, actor=agent.actor, critic=agent.critic).load()
    return cfg, agent


def sampled_actions(directory: Path, observations: torch.Tensor, num_samples: int = 2000) -> torch.Tensor:
    """Actions ``[*batch, num_samples, act]`` that the run's final policy draws at ``observations``."""
    policy, exploration = evaluation_policy(trained_agent(directory)[1].actor, "random")
    repeated = observations.unsqueeze(-2).expand(*observations.shape[:-1], num_samples, -1)
    with torch.no_grad(), isolated_rng(0), set_exploration_type(exploration):
        return policy(TensorDict(observation=repeated, batch_size=repeated.shape[:-1]))["action"]


def value_error(directory: Path) -> dict[str, float]:
    """Largest distance of the critic from a probe's optimal value, over its observations."""
    cfg, agent = trained_agent(directory)
    probe = PROBES[cfg.task.removeprefix("probe/")]
    observations = torch.tensor(
        [[start + step] for start in probe.start_observations for step in range(probe.num_steps)]
    )
    with torch.no_grad():
        values = agent.critic(TensorDict(observation=observations, batch_size=len(observations)))["state_value"]
    return {"value_error": (values - probe.optimal_value(observations, cfg.advantage.gamma)).abs().max().item()}


def bandit_shares(directory: Path) -> dict[str, float]:
    """Shares of the bandit's two good modes among the actions."""
    low, high = modes_found(sampled_actions(directory, torch.zeros(1))).tolist()
    return {"share_left": low, "share_right": high}


def saddle(directory: Path) -> dict[str, float]:
    """How the actions at the saddle of GridWorld, its row of y = 12, split into up and down."""
    cells = torch.tensor([[x, 12] for x in range(25)])
    vertical = sampled_actions(directory, (cells.float() - 12) / 12)[..., 1]
    minor, valley = multimodality.minor(vertical), multimodality.valley(vertical)
    return {
        "both": multimodality.both(minor, valley).item(),
        "minor": minor.mean().item(),
        "valley": valley.mean().item(),
    }
