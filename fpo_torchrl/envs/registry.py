"""From a task's name to an environment."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torchrl.envs import EnvBase

from fpo_torchrl.checks import closest
from fpo_torchrl.devices import check_device

from .gridworld import GridWorld
from .gridworld_layout import LAYOUTS
from .probe import PROBES, BimodalBandit, ProbeEnv

TORCH_TASKS: dict[str, Callable[..., EnvBase]] = {
    **{f"gridworld/{name}": partial(GridWorld, name) for name in LAYOUTS},
    **{f"probe/{name}": partial(ProbeEnv, name) for name in PROBES},
    "bandit/bimodal": BimodalBandit,
}
"""The tasks that need torch only."""


def _physics_tasks() -> dict[str, Callable[..., EnvBase]]:
    from .control import CONTROL_TASKS, ControlEnv  # here, because it loads the physics engine
    from .humanoid import HUMANOID_TASKS, HumanoidEnv

    control = {name: partial(ControlEnv, name) for name in CONTROL_TASKS}
    return control | {name: partial(HumanoidEnv, name) for name in HUMANOID_TASKS}


def list_tasks() -> list[str]:
    """Every name that :func:`make_env` knows, besides ``"gym/<Id>"`` and ``"playground/<Name>"``.

    >>> "gridworld/two_walls" in list_tasks()
    True
    """
    return [*_physics_tasks(), *TORCH_TASKS]


def make_env(
    task: str,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    spread_episodes: bool = True,
    max_episode_steps: int | None = None,
    backend: str | None = None,
    **kwargs: Any,
) -> EnvBase:
    """Build ``num_envs`` copies of a task as one TorchRL environment.

    Args:
        task (str): a control task under the paper's name ("CartpoleBalance"), "gridworld/two_walls" (or
            "two_walls"), "probe/constant", "bandit/bimodal", "humanoid/planar" or "humanoid/full", "gym/<Id>"
            for any Gymnasium id, or "playground/<Name>" for any MuJoCo Playground environment.
        num_envs (int): copies, at least 1; the batch size is ``[num_envs]``.
        device: where the environment's tensors live.
        seed (int): at least 0. The same seed repeats a run, another one differs.
        spread_episodes (bool): let the first episodes end at different times.
        max_episode_steps (int): steps after which an episode is truncated; by default the task's own limit.
        backend (str): what steps the physics of a control task or humanoid, ``"c"``, ``"warp"`` or, for control tasks,
            ``"mjx"``; by default ``"c"``.
        kwargs: handed to the environment, such as ``initial_cells`` of :class:`GridWorld`.

    Raises:
        ValueError: if an argument is out of range or the task is unknown.
        ImportError: if the task or back end needs an optional package that is not installed.
        TypeError: if ``num_envs``, ``seed`` or ``max_episode_steps`` is not an int, or for a setting the task lacks.

    >>> env = make_env("two_walls", num_envs=8, seed=1)
    >>> env.rollout(5, break_when_any_done=False).shape
    torch.Size([8, 5])
    """
    _check_int("num_envs", num_envs, minimum=1)
    _check_int("seed", seed, minimum=0)
    if max_episode_steps is not None:
        _check_int("max_episode_steps", max_episode_steps, minimum=1)
        kwargs["max_episode_steps"] = max_episode_steps
    if backend is not None:
        kwargs["backend"] = backend
    build = _builder(task)
    _check_settings(task, build, kwargs)
    return build(num_envs=num_envs, device=check_device(device), seed=seed, spread_episodes=spread_episodes, **kwargs)


def check_task(task: str) -> None:
    """Refuse a task that is not there: ``ValueError``. Gymnasium's and Playground's own names are not looked up."""
    _builder(task)


def _check_settings(task: str, build: Callable[..., EnvBase], given: Iterable[str]) -> None:
    """``TypeError`` for a setting that a task does not have, naming those it has."""
    target = build.func if isinstance(build, partial) else build
    parameters = inspect.signature(target.__init__ if isinstance(target, type) else target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_name = [it.name for it in parameters if it.kind in (it.KEYWORD_ONLY, it.POSITIONAL_OR_KEYWORD)]
    settings = [name for name in by_name if name not in ("self", "task", "layout", "probe")]
    if unknown := [name for name in given if name not in settings]:
        own = ", ".join(name for name in settings if name not in ("num_envs", "device", "seed"))
        raise TypeError(f"{task} has no setting {unknown[0]!r}; it has {own}")


def _builder(task: str) -> Callable[..., EnvBase]:
    family, _, name = task.partition("/")
    if family == "gym" and name:
        from .gym import make_gym_env  # here, because it loads Gymnasium

        return partial(make_gym_env, name)
    if family == "playground" and name:
        from .playground import make_playground_env

        return partial(make_playground_env, name)
    for known in (task, f"gridworld/{task}"):
        if known in TORCH_TASKS:
            return TORCH_TASKS[known]
    tasks = _physics_tasks() | TORCH_TASKS
    if task in tasks:
        return tasks[task]
    raise ValueError(
        f"unknown task {task!r}. {_suggestion(task, list(tasks))}Known: {', '.join(tasks)}, "
        "gym/<Id> for any Gymnasium id, such as gym/Pendulum-v1, and playground/<Name> for any MuJoCo Playground one"
    )


def _suggestion(task: str, known: list[str]) -> str:
    if re.search(r"-v\d+$", task):
        return f"Did you mean 'gym/{task.rpartition('/')[2]}'? "
    return "".join(f"Did you mean {name!r}? " for name in closest(task, known))


def _check_int(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
