"""Runs small enough for a test: composed as Hydra composes them, and started as a user starts them."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import EnvBase

from fpo_torchrl import CFMLoss, FlowActor, VelocityMLP
from fpo_torchrl.builders import build, build_agent, env_maker
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.config import COMPONENTS, register_schemas
from fpo_torchrl.envs.registry import make_env
from fpo_torchrl.errors import NonFiniteError
from fpo_torchrl.runs.run import Run
from fpo_torchrl.runs.start import start_run
from fpo_torchrl.trainer import Trainer

SMALL = (
    *("num_envs=8", "num_threads=1", "progress=false", "render=false", "eval_episodes=2", "final_eval_episodes=2"),
    *("critic.hidden_sizes=[8]", "trainer.frames_per_batch=64", "trainer.num_epochs=2", "trainer.minibatch_size=32"),
    *("total_frames=256", "eval_interval_frames=128", "checkpoint_interval_frames=64"),
)
"""Four iterations of four gradient steps, for any task and policy."""
FLOW = (*SMALL, "actor.velocity_net.hidden_sizes=[8]", "actor.solver.num_steps=2", "actor.num_mc_samples=2")
GRIDWORLD = ("experiment=gridworld", *FLOW, "env.max_episode_steps=7", "optim.lr=1e-3", "trainer.anneal_lr=false")
CARTPOLE = ("task=CartpoleBalance", *FLOW, "env.max_episode_steps=12")
BANDIT = ("experiment=bandit", *FLOW)


def compose(*overrides: str) -> DictConfig:
    """The config of ``fpo-train`` with these arguments; Hydra's part, the choice of options, is done once for each."""
    groups = {"experiment", "logger", *COMPONENTS}
    choices = tuple(o for o in overrides if o.partition("=")[0] in groups or o.startswith("+"))
    values = [o for o in overrides if o not in choices]
    cfg = OmegaConf.merge(copy.deepcopy(_choose(choices)), OmegaConf.from_dotlist(values))
    assert isinstance(cfg, DictConfig)
    return cfg


@functools.cache
def _choose(choices: tuple[str, ...]) -> DictConfig:
    register_schemas()
    with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
        return hydra_compose("config", list(choices))


def make_trainer(*overrides: str) -> Trainer:
    """The trainer of ``fpo-train`` with these arguments, without its run directory."""
    cfg = compose(*overrides)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    env = env_maker(cfg)(num_envs=cfg.num_envs, device=cfg.device, seed=cfg.seed)
    return build(tree["trainer"], "trainer", env=env, total_frames=cfg.total_frames, **vars(build_agent(tree, env)))


def begin(cfg: DictConfig) -> Run:
    """A new run that has begun, and not trained."""
    return settled(start_run(cfg))


def settled(run: Run) -> Run:
    """A run that has written what it writes before it trains, and let its directory go."""
    with run.hold:
        run.settle()
    return run


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Call ``function`` in a process of its own, forked from one that has imported the package and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fpo_torchrl.train", "fpo_torchrl.plots", "fpo_torchrl.envs.control"])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def fpo_train(log: Path, *overrides: str) -> None:
    """``fpo-train`` with its output in a file and without the picture, to be called by :func:`start`."""
    from fpo_torchrl import train
    from fpo_torchrl.runs import run

    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    run.draw_learning_curve = lambda *args, **kwargs: None
    sys.argv = ["fpo-train", *overrides]
    train.main()


class Child:
    """Stands in for ``subprocess.Popen`` of ``fpo-train``: forked from a process that has imported the package.

    It is in the process group of its parent, so that one signal kills both, as a power cut would.
    """

    def __init__(self, command: list[str], *, stdout: Any, **kwargs: Any) -> None:
        module = command.index("fpo_torchrl.train")
        self.process = start(_fpo_train_in_group, Path(stdout.name), os.getpgrp(), *command[module + 1 :])

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def _fpo_train_in_group(log: Path, group: int, *overrides: str) -> None:
    os.setpgid(0, group)
    fpo_train(log, *overrides)


def imitate(actor: FlowActor, buffer: ReplayBuffer, *, num_steps: int, lr: float) -> None:
    """Fit a flow to the actions of a replay buffer."""
    loss = CFMLoss(actor, num_mc_samples=4)
    optimizer = torch.optim.Adam(loss.parameters(), lr)
    for _ in range(num_steps):
        value = loss(buffer.sample())["loss_cfm"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


class SlowVelocityMLP(VelocityMLP):
    """A network whose policy takes 20 ms to answer, for a run that lasts without keeping the machine busy."""

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            time.sleep(0.02)
        return super().forward(*args, **kwargs)


class Captured:
    """Stands in for a component of a checkpoint and keeps what is restored into it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def read_checkpoint(run_dir: Path, *more: str) -> dict[str, Any]:
    """Everything in the newest checkpoint of a run, flat: "actor.velocity_net.layers.0.weight" and so on."""
    components = {name: Captured() for name in ("actor", "critic", "optimizer", "trainer", "rng", *more)}
    Checkpointer(run_dir, **components).load()
    return flat({name: component.state for name, component in components.items()})


def flat(node: Any) -> dict[str, Any]:
    """The leaves of nested dicts and sequences by their joined keys."""
    if not isinstance(node, dict | list | tuple):
        return {"": node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {f"{key}.{rest}".rstrip("."): leaf for key, child in items for rest, leaf in flat(child).items()}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two flat dicts are equal, tensors bit for bit."""
    return left.keys() == right.keys() and all(
        left[key].equal(right[key]) if isinstance(left[key], Tensor) else left[key] == right[key] for key in left
    )


def breaking_env(task: str, num_envs: int, device: str, seed: int, **settings: Any) -> EnvBase:
    """An environment whose simulator meets a NaN at once."""
    env = make_env(task, num_envs, device, seed, **settings)

    def breaking(*_: Any) -> None:
        raise NonFiniteError("a NaN of the simulator")

    env._step = breaking
    return env
