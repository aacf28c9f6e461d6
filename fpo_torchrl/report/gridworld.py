"""How a policy behaves on GridWorld: does it reach the goals, and does it keep equally good ways open?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs.utils import set_exploration_type

from fpo_torchrl.envs.gridworld import gridworld_step
from fpo_torchrl.envs.gridworld_layout import CENTER, Layout
from fpo_torchrl.evaluation import evaluation_policy, isolated_rng
from fpo_torchrl.flow import RandomSteps
from fpo_torchrl.modules.sampler import FlowSampler
from fpo_torchrl.report import multimodality

_DRAWS_OF_STEPS = 100


@dataclass(frozen=True)
class Rollouts:
    """Episodes of one policy, followed to a goal, to death or to the time limit.

    Args:
        start: cells (x, y) they start from.
        path: cells on the way, the start first; the last one is repeated after the end.
        length: moves made.
        goal: number of the region reached (:meth:`Layout.goal_regions`), -1 for none.
    """

    start: Int[Tensor, "rollouts 2"]
    path: Int[Tensor, "rollouts steps 2"]
    length: Int[Tensor, " rollouts"]
    goal: Int[Tensor, " rollouts"]


class GridPolicy:
    """The *sampled* actions of a trained policy on a layout; what is measured and drawn is asked of this object.

    Args:
        actor: a flow policy or a TorchRL actor that reads ``"observation"`` and writes ``"action"``.
        layout: where it acts.
        noise: ``"random"``, the policy that is trained, or ``"zero"``, for a Gaussian its mean.
        max_steps (int): moves after which an episode ends.
    """

    def __init__(self, actor: TensorDictModule, layout: Layout, *, noise: str = "random", max_steps: int = 100) -> None:
        self.layout, self.max_steps = layout, max_steps
        self.policy, self.exploration = evaluation_policy(actor, noise)

    @torch.no_grad()
    def act(self, cells: Int[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """An action drawn in each of ``cells`` (x, y)."""
        with set_exploration_type(self.exploration):
            return self.policy(self.observe(cells))["action"]

    @staticmethod
    def observe(cells: Int[Tensor, "*batch 2"]) -> TensorDict:
        """What :class:`~fpo_torchrl.envs.GridWorld` shows in each of ``cells``."""
        observation = (cells - CENTER) / CENTER
        return TensorDict(observation=observation, batch_size=observation.shape[:-1])

    def samples(self, cells: Int[Tensor, "cells 2"], num_samples: int = 2000) -> Float[Tensor, "cells samples 2"]:
        """Actions drawn in each cell, the same ones in each call; where steps are random, by many draws of them."""
        calls = _DRAWS_OF_STEPS if isinstance(getattr(self.policy, "solver", None), RandomSteps) else 1
        with isolated_rng(0):
            parts = [self.act(part) for part in cells.unsqueeze(1).expand(-1, num_samples, -1).chunk(calls, 1)]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def flow(self, cells: Int[Tensor, "*batch 2"]) -> Float[Tensor, "points *batch 2"]:
        """The points that a flow policy passes on its way from noise to an action in each of ``cells``."""
        with isolated_rng(0):
            return torch.stack(self.policy.flow_points(self.observe(cells)))

    @property
    def is_flow(self) -> bool:
        """Whether the policy is a flow."""
        return isinstance(self.policy, FlowSampler)

    def rollouts(self, start: Int[Tensor, "rollouts 2"]) -> Rollouts:
        """An episode from each of ``start``, the same ones in each call."""
        rewards, regions = self.layout.reward_map, self.layout.goal_regions()
        path, length = [start], torch.zeros(len(start), dtype=torch.long)
        running = torch.ones(len(start), dtype=torch.bool)
        with isolated_rng(1):
            for _ in range(self.max_steps):
                moved, _, terminated = gridworld_step(path[-1], self.act(path[-1]), self.layout.wall, rewards)
                path.append(torch.where(running.unsqueeze(-1), moved, path[-1]))
                length += running
                running = running & ~terminated
                if not running.any():
                    break
        x, y = path[-1].unbind(-1)
        return Rollouts(start, torch.stack(path, 1), length, regions[y, x])


STARTS: dict[str, tuple[tuple[int, int], ...]] = {
    "two_walls": ((17, 12), (20, 17), (10, 14), (5, 8)),
    "three_goals": ((12, 5), (3, 21), (22, 13), (5, 13)),
    "tree_in_the_middle": ((4, 12), (2, 20), (8, 4), (15, 22)),
    "two_slits": ((7, 12), (2, 21), (4, 3), (12, 9)),
    "cshape": ((22, 12), (3, 12), (20, 3), (12, 22)),
}
"""Cells whose trajectories are drawn, by layout; the first is at the saddle, and what it leads to is counted."""


def measure(policy: GridPolicy, start: tuple[int, int], *, num_rollouts: int = 200) -> dict[str, float]:
    """What a policy does in its layout, as it goes into a file.

    ``success`` and ``path_efficiency`` are means over one episode from every cell. At the saddle cells, ``both`` is
    the share with two populated modes and a valley between; ``minor``, ``commit`` and ``valley`` are means over them
    (:mod:`fpo_torchrl.report.multimodality`), and ``saddle_efficiency`` is that of the episodes from there. Of the
    rollouts from one cell of the saddle there are the shares by the side on which they leave the mirror axis
    first (``share_low`` is below or left of it), and the entropy in bits of the goal region reached.

    Args:
        start: cell (x, y) at the saddle.
        num_rollouts: from there.
    """
    layout = policy.layout
    distance, regions, saddle = layout.distance_to_goal(), layout.goal_regions(), layout.saddle_cells()
    actions = policy.samples(saddle)[..., across(layout)]
    minor, valley = multimodality.minor(actions), multimodality.valley(actions)
    everywhere = policy.rollouts((layout.free & distance.isfinite()).nonzero().flip(-1))
    x, y = everywhere.start.unbind(-1)
    efficiency = multimodality.path_efficiency(distance[y, x], everywhere.length, everywhere.goal >= 0)
    at_saddle = (everywhere.start.unsqueeze(1) == saddle).all(-1).any(-1)
    from_start = policy.rollouts(torch.tensor(start).expand(num_rollouts, 2))
    sides, num_goals = first_sides(from_start, across(layout)), int(regions.max()) + 1
    return {
        "success": (everywhere.goal >= 0).float().mean().item(),
        "path_efficiency": efficiency.mean().item(),
        "saddle_efficiency": efficiency[at_saddle].mean().item(),
        "both": multimodality.both(minor, valley).item(),
        "minor": minor.mean().item(),
        "commit": multimodality.commit(actions).mean().item(),
        "valley": valley.mean().item(),
        "share_low": (sides < 0).float().mean().item(),
        "share_high": (sides > 0).float().mean().item(),
        "goal_entropy": multimodality.goal_entropy(from_start.goal, num_goals).item(),
    }


def across(layout: Layout) -> int:
    """The coordinate, 0 for x or 1 for y, that tells the two sides of a layout's saddle apart."""
    return 1 if (layout.saddle_cells()[:, 1] == CENTER).all() else 0


def first_sides(rollouts: Rollouts, coordinate: int) -> Int[Tensor, " rollouts"]:
    """Where each rollout first leaves the mirror axis: -1 below or left of it, 1 above or right, 0 if it never does."""
    side = (rollouts.path[..., coordinate] - CENTER).sign()
    first = (side != 0).int().argmax(-1, keepdim=True)
    return side.gather(-1, first).squeeze(-1)
