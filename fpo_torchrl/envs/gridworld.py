"""The five GridWorld layouts of the FPO paper (arXiv 2507.21053) as one batched torch environment.

Reference: akanazawa/fpo at 418c255, ``gridworld/utils/gridworld.py``. Transitions are the same; the reset is
not: there an episode can start inside a wall and ``initial_cells`` has no effect (lines 301-333).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fpo_torchrl.checks import check_index

from .base import BatchedEnv
from .gridworld_layout import Layout, make_layout

if TYPE_CHECKING:
    import numpy as np

MOVE_THRESHOLD = 0.5
"""Beyond this an action coordinate moves the agent by one cell."""


def gridworld_step(
    position: Int[Tensor, "*batch 2"],
    action: Float[Tensor, "*batch 2"],
    wall: Bool[Tensor, "size size"],
    reward_map: Float[Tensor, "size size"],
) -> tuple[Int[Tensor, "*batch 2"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Position (x, y), reward and termination after one move to one of the eight neighbours, or none.

    A coordinate moves by one iff its action is beyond 0.5, which is ``round(clip(action, -1, 1))`` with halves
    rounded to even; NaN does not move. The border clips each coordinate; a wall at the target cell cancels
    the whole move, and only the target is looked at: diagonals pass corners. An episode terminates on every
    cell whose reward is not 0.

    Args:
        position: cell of each copy, in [0, size - 1].
        action: wanted displacement, usually in [-1, 1].
        wall: True where no agent can go, indexed ``[y, x]``.
        reward_map: reward for entering a cell, indexed ``[y, x]``.

    >>> free, rewards = torch.zeros(25, 25, dtype=torch.bool), torch.zeros(25, 25)
    >>> position, reward, terminated = gridworld_step(torch.tensor([3, 24]), torch.tensor([-0.6, 1.0]), free, rewards)
    >>> position.tolist(), reward.item(), terminated.item()
    ([2, 24], 0.0, False)
    """
    size = wall.shape[-1]
    move = (action > MOVE_THRESHOLD).long() - (action < -MOVE_THRESHOLD).long()
    target = (position + move).clamp_(0, size - 1)
    blocked = wall.take(target[..., 1] * size + target[..., 0])
    position = torch.where(blocked.unsqueeze(-1), position, target)
    reward = reward_map.take(position[..., 1] * size + position[..., 0])
    return position, reward, reward != 0


class GridWorld(BatchedEnv):
    """An agent on a square grid, 25 x 25 in the authors' layouts, that earns 20 at a goal and -10 on death.

    Keys: ``"observation"`` ``[num_envs, 2]`` is ``(position - half) / half`` with ``half = size // 2``; ``"action"``
    ``[num_envs, 2]`` is the wanted displacement along (x, y), see :func:`gridworld_step`. Goal and death terminate.

    Args:
        layout (str or Layout): a name in :data:`LAYOUTS`, or a world of your own.
        num_envs (int): copies, at least 1.
        initial_cells: the cells (x, y) that episodes start from, drawn uniformly; all free cells by default.
        max_episode_steps (int): moves after which an episode is truncated; the authors' 100 by default.
        device, seed, spread_episodes: see :class:`BatchedEnv`.

    Raises:
        ValueError: if the layout is unknown, or an initial cell is not a free cell of it.

    >>> env = GridWorld("two_walls", num_envs=3, initial_cells=[(17, 12)])
    >>> env.reset()["observation"][0]
    tensor([0.4167, 0.0000])
    """

    def __init__(
        self,
        layout: str | Layout = "two_walls",
        *,
        num_envs: int = 1,
        initial_cells: Iterable[Sequence[int]] | None = None,
        max_episode_steps: int = 100,
        device: torch.device | str = "cpu",
        seed: int = 0,
        spread_episodes: bool = True,
    ) -> None:
        layout = make_layout(layout) if isinstance(layout, str) else layout
        start_cells = _start_cells(layout, initial_cells)
        super().__init__(
            num_envs=num_envs,
            obs_dim=2,
            action_dim=2,
            max_episode_steps=max_episode_steps,
            device=device,
            seed=seed,
            spread_episodes=spread_episodes,
        )
        self.layout = layout
        self.wall = layout.wall.to(self.device)
        self.reward_map = layout.reward_map.to(self.device)
        self.start_cells = start_cells.to(self.device)
        self.position = self.start_cells[:1].repeat(num_envs, 1)

    def start_episodes(self, rows: Tensor) -> None:
        """Draw a start cell for each of ``rows``."""
        draw = torch.randint(len(self.start_cells), rows.shape, generator=self.generator, device=self.device)
        self.position[rows] = self.start_cells[draw]

    def advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Move every copy."""
        self.refuse_non_finite(action)
        position, reward, terminated = gridworld_step(self.position, action, self.wall, self.reward_map)
        self.position.copy_(position)
        return reward, terminated

    def observe(self) -> Tensor:
        """The positions, centred and scaled to [-1, 1]."""
        half = self.wall.shape[-1] // 2
        return (self.position - half) / half

    def task_state(self) -> dict[str, Tensor]:
        """The positions."""
        return {"position": self.position}

    def load_task_state(self, state: dict[str, Tensor]) -> None:
        """Put every copy back; ``ValueError`` for a state of another layout."""
        x, y = state["position"].to(self.wall.device).unbind(-1)
        size = self.wall.shape[-1]
        if not ((x >= 0) & (x < size) & (y >= 0) & (y < size)).all() or self.wall[y, x].any():
            raise ValueError(
                f"the state is of another layout than {self.layout.name}: an agent is in a wall, or off it"
            )
        self.position.copy_(state["position"])

    def render(self, index: int = 0, *, height: int = 301, width: int = 301) -> np.ndarray:
        """A picture of copy ``index``, uint8 ``[height, width, 3]``, with x to the right and y up."""
        from .gridworld_render import draw_gridworld

        check_index(index, self.num_envs)
        x, y = self.position[index].tolist()
        return draw_gridworld(self.layout, (x, y), height, width)


def _start_cells(layout: Layout, initial_cells: Iterable[Sequence[int]] | None) -> Int[Tensor, "num_cells 2"]:
    if initial_cells is None:
        return layout.free.nonzero().flip(-1)
    given, size = [*initial_cells], layout.free.shape[-1]
    try:
        cells = sorted({(index(x), index(y)) for x, y in given})
    except (TypeError, ValueError) as error:
        raise ValueError(f"initial_cells must be pairs of whole numbers, as in [(17, 12)], got {given}") from error
    bad = [(x, y) for x, y in cells if not (0 <= x < size and 0 <= y < size and layout.free[y, x])]
    if bad or not cells:
        raise ValueError(f"initial_cells must be free cells (x, y) of {layout.name}, at least one; got {bad or cells}")
    return torch.tensor(cells)
