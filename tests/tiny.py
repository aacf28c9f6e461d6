"""Runs small enough for a test: composed as Hydra composes them, and started as a user starts them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.builders import build, build_agent
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.config import register_schemas
from fpo_torchrl.train import main
from fpo_torchrl.trainer import Trainer

SMALL = (
    *("num_envs=8", "num_threads=1", "progress=false", "render=false", "eval_episodes=2", "final_eval_episodes=2"),
    *("critic.hidden_sizes=[8]", "trainer.frames_per_batch=64", "trainer.num_epochs=2", "trainer.minibatch_size=32"),
    "total_frames=256",
)
"""Four iterations of four gradient steps for any task and policy."""
FLOW = (*SMALL, "actor.velocity_net.hidden_sizes=[8]", "actor.solver.num_steps=2", "actor.num_mc_samples=2")
GRIDWORLD = ("experiment=gridworld", *FLOW, "env.max_episode_steps=7")
CARTPOLE = ("task=CartpoleBalance", *FLOW, "env.max_episode_steps=12")
BANDIT = ("experiment=bandit", *FLOW)


def compose(*overrides: str) -> DictConfig:
    """The config of ``fpo-train`` with these arguments."""
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        return hydra_compose("config", list(overrides))


def make_trainer(*overrides: str) -> Trainer:
    """The trainer of ``fpo-train`` with these arguments, without its run directory."""
    cfg = compose(*overrides)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    env = build(tree["env"], "env", task=cfg.task, num_envs=cfg.num_envs, device="cpu", seed=cfg.seed)
    return build(tree["trainer"], "trainer", env=env, total_frames=cfg.total_frames, **vars(build_agent(tree, env)))
