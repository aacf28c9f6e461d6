"""What the processes beside the first do when several train one policy: the same updates, and no file."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from fpo_torchrl.builders import Agent, build, build_agent
from fpo_torchrl.envs.base import NonFiniteError
from fpo_torchrl.parallel import Processes
from fpo_torchrl.preemption import Preempted, StopOnSignal
from fpo_torchrl.trainer import Trainer

SEED_DISTANCE = 1_000_003
"""Between the seeds of two processes, so that those of another run are not met."""


def build_trainer(cfg: DictConfig, processes: Processes) -> tuple[Agent, Trainer]:
    """Agent and trainer of a config, with this process's share of the environments and its own random numbers."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    torch.manual_seed(cfg.seed)
    seed = cfg.seed + SEED_DISTANCE * processes.rank
    num_envs = processes.share("num_envs", cfg.num_envs)
    env = build(tree["env"], "env", task=cfg.task, num_envs=num_envs, device=cfg.device, seed=seed)
    agent = build_agent(tree, env)
    trainer: Trainer = build(
        tree["trainer"], "trainer", env=env, total_frames=cfg.total_frames, processes=processes, **vars(agent)
    )
    if processes.rank:
        torch.manual_seed(seed)
    return agent, trainer


def lead(cfg: DictConfig, agent: Agent, trainer: Trainer, processes: Processes) -> None:
    """Let the others begin where this process is."""
    if processes.size > 1:
        state = {"agent": weights(agent), "frames": trainer.frames, "lr_scale": trainer.lr_scale}
        processes.tell((OmegaConf.to_yaml(cfg, resolve=True), state))


def follow(processes: Processes) -> None:
    """Train along with process 0, from wherever it begins, until it says that it is over.

    Raises:
        Preempted: with it.
    """
    with StopOnSignal() as stop:
        while (begun := processes.tell(None)) is not None:
            if isinstance(begun, signal.Signals):
                raise Preempted(begun)
            text, state = begun
            cfg = OmegaConf.create(text)
            assert isinstance(cfg, DictConfig)
            if cfg.num_threads is not None:
                torch.set_num_threads(cfg.num_threads)
            agent, trainer = build_trainer(cfg, processes)
            for part, weight in zip(parts(agent), state["agent"], strict=True):
                part.load_state_dict(weight)
            trainer.frames, trainer.lr_scale = state["frames"], state["lr_scale"]
            with contextlib.suppress(NonFiniteError):  # process 0 ends with it, or goes back and says from where
                for _ in trainer:
                    stopping = stop.agree(processes.largest)
                    processes.check(nothing)  # while process 0 evaluates, logs and saves
                    if stopping:
                        break


def nothing() -> None:
    """What the others do while process 0 works alone."""


def parts(agent: Agent) -> tuple[Any, ...]:
    """What has a state in an agent; the normaliser is in the actor."""
    return agent.actor, agent.critic, agent.optimizer


def weights(agent: Agent) -> list[Any]:
    """The state of an agent."""
    return [part.state_dict() for part in parts(agent)]
