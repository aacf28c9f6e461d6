"""Teacher and student: regression of the student's few-step action on the teacher's many-step action."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from fpo_torchrl.flow import Solver
from fpo_torchrl.modules.chain import acting_module, encode

ZERO_SHARE = 1 / 8
"""Share of a batch that starts from zero noise, which deterministic policies use and random draws hardly come near."""


def distill(
    teacher: Any,
    solver: Solver,
    data: TensorDictBase,
    *,
    num_updates: int = 1000,
    batch_size: int = 512,
    lr: float = 3e-3,
) -> Any:
    """A copy of ``teacher`` that acts with ``solver`` and was trained to take the teacher's action.

    Minimises the squared distance of both actions from the same observation and start noise, through every step of
    ``solver``. With one step that is the objective of Luhman and Luhman (arXiv 2101.02388) and, on actions, of Flow
    Q-Learning (arXiv 2502.02538). The velocity network alone is trained, from the teacher's weights on; the step size
    falls to zero along a half cosine.

    Args:
        teacher: a flow policy, alone or at the end of a ``TensorDictSequential``; a stochastic solver of its own
            leaves out its noise.
        solver: the student's.
        data: observations to agree on, with any batch size and the keys that ``teacher`` reads.
        num_updates (int): gradient steps.
        batch_size (int): observations of each.
        lr (float): Adam's first step size.
    """
    student = copy.deepcopy(teacher)
    taught = acting_module(student)
    taught.solver = solver
    observations = encoded(teacher, data)
    optimizer = torch.optim.Adam(taught.velocity_net.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(num_updates):
        optimizer.zero_grad()
        squared_error(teacher, student, draw(observations, batch_size)).backward()
        optimizer.step()
        schedule.step()
    return student


@torch.no_grad()
def action_error(teacher: Any, student: Any, data: TensorDictBase) -> float:
    """Root mean squared distance of the student's actions from the teacher's, in halves of the action's range.

    Over ``data`` with fresh start noise, zero for an eighth of it as in training.
    """
    observations = encoded(teacher, data)
    return squared_error(teacher, student, draw(observations, len(observations[0]))).sqrt().item()


@torch.no_grad()
def encoded(policy: Any, data: TensorDictBase) -> list[Tensor]:
    """What the flow of ``policy`` reads of ``data``, ``[num, ...]`` each."""
    batch = encode(policy, data.copy()).reshape(-1)
    return [batch.get(key) for key in acting_module(policy).in_keys]


def draw(observations: list[Tensor], size: int) -> list[Tensor]:
    """``size`` of the observations, drawn with replacement."""
    index = torch.randint(len(observations[0]), (size,), device=observations[0].device)
    return [observation[index] for observation in observations]


def squared_error(teacher: Any, student: Any, observations: list[Tensor]) -> Tensor:
    """Mean squared distance of both policies' actions from the same start noise, in halves of the action's range."""
    flow, taught = acting_module(teacher), acting_module(student)
    noise = torch.randn(len(observations[0]), flow.action_dim, device=flow.action_low.device)
    noise[: int(ZERO_SHARE * len(noise))] = 0
    with torch.no_grad():
        action = flow.for_inference(solver=flow.solver.without_noise()).act(observations, noise)
    return ((taught.act(observations, noise) - action) / flow.half_range).square().mean()
