"""From a run's config to what trains: the agent, and the trainer with its environments or workers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.builders import Agent, build, build_agent, env_maker
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.remote import RemoteWorkers, RPCWorkers
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import derived_seed, rollout_hooks
from fpo_torchrl.training.parallel import Processes


def build_trainer(cfg: DictConfig, processes: Processes) -> tuple[Agent, Trainer]:
    """Agent and trainer of a config, with this process's share of the environments and its own random numbers."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    torch.manual_seed(cfg.seed)
    seed = derived_seed(cfg.seed, part=processes.rank)
    num_envs = processes.share("num_envs", cfg.num_envs)
    make_env = env_maker(cfg)
    env = make_env(num_envs=num_envs, device=cfg.device, seed=seed)
    agent = build_agent(tree, env)
    make_elsewhere = partial(make_env, device="cpu")
    workers = build(tree["collector"], "collector", make_env=make_elsewhere, num_envs=num_envs, seed=cfg.seed)
    check_workers(workers, agent.actor, cfg, processes)
    running = {"total_frames": cfg.total_frames, "processes": processes, "workers": workers}
    trainer: Trainer = build(tree["trainer"], "trainer", env=env, **running, **vars(agent))
    return agent, trainer


def check_workers(workers: RemoteWorkers | None, actor: Any, cfg: DictConfig, processes: Processes) -> None:
    """Refuse what remote workers cannot do.

    Raises:
        ConfigError: naming the setting.
    """
    if workers is None:
        return
    if processes.size > 1:
        raise ConfigError("collector: either workers collect, or the processes of torchrun do, each for itself")
    if cfg.nan_rollbacks and isinstance(workers, RPCWorkers):
        raise ConfigError(
            f"nan_rollbacks={cfg.nan_rollbacks} needs collector=ray or local: RPC starts once in a process"
        )
    backend = OmegaConf.select(cfg, "env.backend")
    if backend not in (None, "c"):
        raise ConfigError(
            f"env.backend={backend} steps on this process's device, and workers elsewhere: give env.backend=c"
        )
    if rollout_hooks(actor):
        raise ConfigError(
            "actor.solver: remote workers draw their number of steps for each call; give actor/solver=random_steps or "
            "collector=local"
        )
    workers.check()
