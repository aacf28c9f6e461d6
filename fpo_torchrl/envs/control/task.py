"""What a control task is: a model, and pure functions of its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from fpo_torchrl.envs.physics import PhysicsState


@dataclass(frozen=True)
class Start:
    """Initial states: ``qpos`` ``[k, nq]``, ``qvel`` ``[k, nv]`` and ``mocap_pos`` ``[k, nmocap, 3]``."""

    qpos: Tensor
    qvel: Tensor
    mocap_pos: Tensor


@dataclass(frozen=True)
class ControlTask:
    """One task, defined once for every physics back end.

    Args:
        name (str): the paper's name of the task.
        control_dt (float): seconds between two actions, a multiple of the model's timestep.
        build_spec: makes the model. Its actuators take the actions, in their order.
        reset: draws ``k`` initial states from a generator; tensors on the generator's device.
        observe: observation ``[num_envs, obs_dim]`` of a state.
        reward: reward ``[num_envs]`` of the state reached and the action that led there.
        settle_steps (int): control steps without action between the drawn state and the episode's first.
    """

    name: str
    control_dt: float
    build_spec: Callable[[], mujoco.MjSpec]
    reset: Callable[[torch.Generator, int], Start]
    observe: Callable[[PhysicsState], Tensor]
    reward: Callable[[PhysicsState, Tensor], Tensor]
    settle_steps: int = 0


def uniform(generator: torch.Generator, count: int, low: Tensor | list[float], high: Tensor | list[float]) -> Tensor:
    """``count`` draws between ``low`` and ``high`` (each ``[n]``): float64 ``[count, n]``."""
    low = torch.as_tensor(low, dtype=torch.float64, device=generator.device)
    high = torch.as_tensor(high, dtype=torch.float64, device=generator.device)
    return low + (high - low) * torch.rand(
        count, len(low), dtype=torch.float64, device=generator.device, generator=generator
    )


def zeros(generator: torch.Generator, *shape: int) -> Tensor:
    """A float64 tensor of zeros on the generator's device."""
    return torch.zeros(*shape, dtype=torch.float64, device=generator.device)
