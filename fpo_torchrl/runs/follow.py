"""What the processes beside the first do when several train one policy: the same updates, and no file."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils._pytree import tree_map_only

from fpo_torchrl.builders import Agent
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.machine import prepare_machine
from fpo_torchrl.preemption import Preempted, StopOnSignal
from fpo_torchrl.runs.assembly import build_trainer
from fpo_torchrl.runs.states import States
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.parallel import Processes


def lead(cfg: DictConfig, agent: Agent, trainer: Trainer, states: States) -> None:
    """Let the others begin where this process is."""
    if states.processes.size > 1:
        begun = {"agent": weights(agent), "frames": trainer.frames, "lr_scale": trainer.lr_scale}
        states.processes.tell((OmegaConf.to_yaml(cfg, resolve=True), begun | {"states": states.state_dict()}))


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
            prepare_machine(cfg.num_threads)
            agent, trainer = build_trainer(cfg, processes)
            for part, weight in zip(parts(agent), state["agent"], strict=True):
                part.load_state_dict(weight)
            trainer.frames, trainer.lr_scale = state["frames"], state["lr_scale"]
            states = States(processes)
            states.load_state_dict(state["states"])
            states.go_on(trainer, cfg.seed)
            with contextlib.suppress(NonFiniteError):  # process 0 ends with it, or goes back and says from where
                for _ in trainer:
                    stopping = stop.agree(processes.largest)
                    if processes.tell(None):
                        states.gather(trainer)
                    processes.check(lambda: None)  # while process 0 evaluates, logs and saves
                    if stopping:
                        break


def parts(agent: Agent) -> tuple[Any, ...]:
    """What has a state in an agent; the normaliser is in the actor."""
    return agent.actor, agent.critic, agent.optimizer


def weights(agent: Agent) -> list[Any]:
    """The state of an agent, on the CPU: what reads it would otherwise take it to this process's GPU."""
    return [tree_map_only(torch.Tensor, torch.Tensor.cpu, part.state_dict()) for part in parts(agent)]
