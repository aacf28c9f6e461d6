"""What each cell of a GridWorld is: the five layouts of the FPO paper (arXiv 2507.21053), and one's own.

Reference: akanazawa/fpo at 418c255, ``gridworld/utils/gridworld.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fpo_torchrl.checks import check_choice

SIZE = 25
"""Cells along each side."""
CENTER = SIZE // 2
GOAL_REWARD = 20.0
DEATH_REWARD = -10.0


def _dilate(mask: Bool[Tensor, "size size"]) -> Bool[Tensor, "size size"]:
    """The cells of ``mask`` and their eight neighbours."""
    return torch.nn.functional.max_pool2d(mask.float()[None, None], 3, stride=1, padding=1)[0, 0].bool()


def _distance(goal: Bool[Tensor, "size size"], passable: Bool[Tensor, "size size"]) -> Float[Tensor, "size size"]:
    """Breadth-first search: fewest moves from each passable cell to a goal cell, inf where there is no path."""
    distance = torch.full(goal.shape, torch.inf).masked_fill(goal, 0)
    reached, frontier, steps = goal, goal, 0
    while frontier.any():
        steps += 1
        frontier = _dilate(frontier) & passable & ~reached
        distance[frontier] = steps
        reached = reached | frontier
    return distance


@dataclass(frozen=True, eq=False)
class Layout:
    """What each cell of a world is: bool masks ``[size, size]``, indexed ``[y, x]``; other cells are free.

    Raises:
        ValueError: for masks that are not bool, or of one odd square shape, that overlap, or leave no cell free.

    >>> layout = make_layout("two_walls")
    >>> int(layout.goal.sum()), int(layout.free.sum()), layout.distance_to_goal()[12, 17].item()
    (100, 525, 11.0)
    """

    name: str
    goal: Bool[Tensor, "size size"]
    death: Bool[Tensor, "size size"]
    wall: Bool[Tensor, "size size"]

    def __post_init__(self) -> None:
        masks = {"goal": self.goal, "death": self.death, "wall": self.wall}
        size = len(self.goal) if self.goal.ndim else 0
        fits = all(mask.shape == (size, size) and mask.dtype == torch.bool for mask in masks.values())
        if size < 3 or size % 2 == 0 or not fits:
            came = ", ".join(f"{name} {list(it.shape)} {it.dtype}" for name, it in masks.items())
            raise ValueError(
                f"a layout needs bool masks of one shape [size, size] with an odd size of at least 3, got {came}"
            )
        if (torch.stack([*masks.values()]).sum(0) > 1).any() or not self.free.any():
            raise ValueError("a layout needs a free cell, and no cell may be two of goal, death and wall")

    @property
    def free(self) -> Bool[Tensor, "size size"]:
        """Where an episode may start: neither goal, death nor wall."""
        return ~(self.goal | self.death | self.wall)

    @property
    def reward_map(self) -> Float[Tensor, "size size"]:
        """Reward for entering each cell: 20 on goals, -10 on death, else 0."""
        return GOAL_REWARD * self.goal.float() + DEATH_REWARD * self.death.float()

    def distance_to_goal(self) -> Float[Tensor, "size size"]:
        """Fewest moves from each cell to a goal; inf on walls, on death and where there is no path."""
        return _distance(self.goal, self.free)

    def goal_regions(self) -> Int[Tensor, "size size"]:
        """Number of the connected goal region that each cell belongs to, from 0 in reading order; -1 elsewhere."""
        region = torch.full(self.goal.shape, -1)
        for y, x in self.goal.nonzero().tolist():
            if region[y, x] < 0:
                seed = torch.zeros_like(self.goal)
                seed[y, x] = True
                region[_distance(seed, self.goal).isfinite()] = region.max() + 1
        return region

    def saddle_cells(self) -> Int[Tensor, "num_cells 2"]:
        """Cells (x, y) with two equally short ways to a goal, one the mirror image of the other.

        These are the free cells on a mirror axis of the layout from which no shortest path stays on the axis.
        """
        distance, saddle = self.distance_to_goal(), torch.zeros_like(self.goal)
        for dim in (0, 1):
            if all(torch.equal(mask, mask.flip(dim)) for mask in (self.goal, self.death, self.wall)):
                axis = torch.zeros_like(self.goal)
                axis.select(dim, self.goal.shape[dim] // 2).fill_(True)
                along_axis = _distance(self.goal & axis, self.free & axis)
                saddle |= self.free & axis & distance.isfinite() & (along_axis > distance)
        return saddle.nonzero().flip(-1)


Masks = dict[str, Tensor]


def _square(x: Tensor, y: Tensor, center: tuple[int, int], radius: int) -> Tensor:
    return ((x - center[0]).abs() <= radius) & ((y - center[1]).abs() <= radius)


def _two_walls(x: Tensor, y: Tensor) -> Masks:
    return {"goal": (y <= 1) | (y >= SIZE - 2)}


def _three_goals(x: Tensor, y: Tensor) -> Masks:
    goal = _square(x, y, (12, 18), 1) | _square(x, y, (7, 7), 1) | _square(x, y, (17, 7), 1)
    return {"goal": goal, "death": _square(x, y, (CENTER, CENTER), 1)}


def _tree_in_the_middle(x: Tensor, y: Tensor) -> Masks:
    return {"goal": (x >= SIZE - 2) & ((y - CENTER).abs() <= 2), "death": _square(x, y, (CENTER + 3, CENTER), 2)}


def _two_slits(x: Tensor, y: Tensor) -> Masks:
    slit = ((y >= 4) & (y <= 7)) | ((y >= 17) & (y <= 20))
    return {"goal": x == SIZE - 1, "wall": (x == CENTER + 3) & ~slit}


def _cshape(x: Tensor, y: Tensor) -> Masks:
    ring = _square(x, y, (CENTER, CENTER), 5) & ~_square(x, y, (CENTER, CENTER), 4)
    opening = (x == CENTER - 5) & ((y - CENTER).abs() < 5)
    return {"goal": _square(x, y, (CENTER, CENTER), 2), "wall": ring & ~opening}


LAYOUTS: dict[str, Callable[[Tensor, Tensor], Masks]] = {
    "two_walls": _two_walls,
    "three_goals": _three_goals,
    "tree_in_the_middle": _tree_in_the_middle,
    "two_slits": _two_slits,
    "cshape": _cshape,
}
"""The authors' layouts: what the cells with coordinates x and y are."""


def make_layout(name: str) -> Layout:
    """Build one of the authors' layouts by name; ``ValueError`` if there is no such layout."""
    check_choice("layout", name, LAYOUTS)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    none = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    return Layout(name=name, **({"death": none, "wall": none} | LAYOUTS[name](x, y)))
