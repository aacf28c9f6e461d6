"""Fresh episodes, drawn ahead of time."""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_torchrl.envs.control.task import ControlTask
from fpo_torchrl.envs.physics import Physics


class Nursery:
    """Initial states of a task, drawn a batch at a time and each handed out once.

    Episodes end a few at a time, but drawing, settling and evaluating initial states is far
    cheaper for many of them together, on all threads.

    Args:
        task (ControlTask): whose initial states to draw.
        physics (Physics): a batch of its own to draw them in; its size is the size of a draw.
    """

    def __init__(self, task: ControlTask, physics: Physics) -> None:
        self.task, self.physics = task, physics
        self.discard()

    def discard(self) -> None:
        """Forget the states not handed out yet, so that the next one depends on the generator alone."""
        self.used = self.physics.num_envs

    def hand_out(self, rows: Tensor, target: Physics, generator: torch.Generator) -> None:
        """Put the copies ``rows`` (int64 ``[k]``) of ``target`` into the next fresh states."""
        while len(rows):
            if self.used == self.physics.num_envs:
                self._draw(generator)
            taken = min(len(rows), self.physics.num_envs - self.used)
            mine = torch.arange(self.used, self.used + taken, device=rows.device)
            target.copy_rows(rows[:taken], self.physics, mine)
            self.used += taken
            rows = rows[taken:]

    def _draw(self, generator: torch.Generator) -> None:
        physics = self.physics
        start = self.task.reset(generator, physics.num_envs)
        physics.restart(start.qpos, start.qvel, start.mocap_pos, self.task.settle_steps)
        self.used = 0

    def tensors(self) -> dict[str, Tensor]:
        """The states drawn ahead and how many are used, as a checkpoint wants them."""
        return {**self.physics.state.tensors(), "used": torch.tensor(self.used)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`tensors` returned."""
        self.physics.state.load(tensors)
        self.used = int(tensors["used"])
