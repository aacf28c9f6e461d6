"""Does a policy keep two equally good ways open? Metrics on *sampled* actions, pure functions of tensors.

Return says nothing here, and reaching both goals from one start is not enough: a wide Gaussian does so too.
Only an empty ``valley`` between two populated sides separates two modes from one broad one. Sample at least
2000 unclipped actions per state; with 500 the valley of a wide Gaussian is sampling noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fpo_torchrl.envs.gridworld import MOVE_THRESHOLD


def minor(actions: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Share of the rarer direction: ``min(P(move = +1), P(move = -1))``, in [0, 0.5].

    >>> minor(torch.tensor([0.9, 0.8, -0.7, 0.1]))
    tensor(0.2500)
    """
    return torch.minimum(_share(actions > MOVE_THRESHOLD), _share(actions < -MOVE_THRESHOLD))


def commit(actions: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Share of actions that move at all: ``P(move != 0)``, in [0, 1].

    >>> commit(torch.tensor([0.9, 0.8, -0.7, 0.1]))
    tensor(0.7500)
    """
    return _share(actions.abs() > MOVE_THRESHOLD)


def valley(
    actions: Float[Tensor, "*batch k"], *, bandwidth: float = 0.2, min_mass: float = 0.1, num_points: int = 128
) -> Float[Tensor, "*batch"]:
    """Depth of the deepest valley in the density of one action coordinate, in [0, 1]; 0 if it has one mode.

    ``1 - f(v) / min(highest f left of v, highest f right of v)`` at the best ``v`` that has a share of at
    least ``min_mass`` of the actions on both sides; ``f`` is a Gaussian kernel density estimate.

    Args:
        actions: ``k`` sampled, unclipped actions of each state.
        bandwidth: standard deviation of the kernel, in units of the action.
        min_mass: share of the actions that a side must hold; without it noise in a tail counts as a mode.
        num_points: how many ``v`` are tried, from the smallest to the largest action.

    >>> valley(torch.cat([torch.full((1000,), -1.0), torch.full((1000,), 1.0)])) > 0.99
    tensor(True)
    """
    rows = [_valley(row, bandwidth, min_mass, num_points) for row in actions.reshape(-1, actions.shape[-1])]
    return torch.stack(rows).reshape(actions.shape[:-1])


def _valley(sample: Float[Tensor, " k"], bandwidth: float, min_mass: float, num_points: int) -> Float[Tensor, ""]:
    sample = sample.sort().values
    low, high = sample[0], sample[-1]
    v = low + (high - low) * torch.linspace(0, 1, num_points, device=sample.device, dtype=sample.dtype)
    density = (-0.5 * ((v[:, None] - sample) / bandwidth) ** 2).exp().mean(-1)
    left, right = density.cummax(0).values, density.flip(0).cummax(0).values.flip(0)
    mass_left = torch.searchsorted(sample, v, right=True) / len(sample)
    eligible = (mass_left >= min_mass) & (mass_left <= 1 - min_mass)
    depth = 1 - density / torch.minimum(left, right)
    return depth.where(eligible, torch.zeros_like(depth)).max()


def both(
    minor: Float[Tensor, " cells"], valley: Float[Tensor, " cells"], *, min_minor: float = 0.15, min_valley: float = 0.3
) -> Float[Tensor, ""]:
    """Share of cells whose policy has two populated modes with an empty valley between: the acceptance number.

    >>> both(torch.tensor([0.4, 0.4, 0.1]), torch.tensor([0.8, 0.1, 0.8]))
    tensor(0.3333)
    """
    return _share((minor >= min_minor) & (valley >= min_valley))


def goal_entropy(goal: Int[Tensor, "*batch k"], num_goals: int) -> Float[Tensor, "*batch"]:
    """Entropy in bits of which goal was reached, over those rollouts that reached one.

    Args:
        goal: number of the goal that each of ``k`` rollouts reached, negative where it reached none.
        num_goals: how many goals there are; the entropy is at most ``log2(num_goals)``.

    >>> goal_entropy(torch.tensor([0, 1, 0, 1, -1]), num_goals=2)
    tensor(1.)
    """
    count = torch.stack([(goal == index).sum(-1) for index in range(num_goals)], -1).float()
    share = count / count.sum(-1, keepdim=True).clamp_min(1)
    return torch.special.entr(share).sum(-1) / torch.log(torch.tensor(2.0))


def path_efficiency(
    shortest: Float[Tensor, "*batch"], length: Int[Tensor, "*batch"], success: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Shortest over actual path length of each rollout, 0 where it did not reach a goal.

    >>> path_efficiency(torch.tensor([11.0, 11.0]), torch.tensor([11, 22]), torch.tensor([True, True]))
    tensor([1.0000, 0.5000])
    """
    return torch.where(success, shortest / length, torch.zeros_like(shortest))


def _share(mask: Bool[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    return mask.float().mean(-1)
