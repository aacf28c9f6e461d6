"""Returns of finished episodes, followed across batches."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class EpisodeTracker:
    """Sums rewards per environment copy and keeps the returns of the newest finished episodes.

    Args:
        num_envs (int): copies of the environment.
        skip_first (bool): leave out each copy's first episode, for environments that start their
            episodes spread out and so cut the first ones short.
        window (int): number of episodes that :attr:`mean_return` averages over.
    """

    def __init__(self, num_envs: int, *, skip_first: bool = True, window: int = 100) -> None:
        self.skip_first = skip_first
        self.running = torch.zeros(num_envs, dtype=torch.float64)
        self.complete = torch.full((num_envs,), not skip_first)
        self.returns: deque[float] = deque(maxlen=window)
        self.num_episodes = 0

    def update(self, reward: Tensor, done: Tensor) -> None:
        """Add a batch: ``reward`` and ``done`` of shape ``[num_envs, time, 1]``."""
        for r, d in zip(reward.double().cpu().squeeze(-1).T, done.cpu().squeeze(-1).T, strict=True):
            self.running += r
            finished = self.running[d & self.complete].tolist()
            self.returns.extend(finished)
            self.num_episodes += len(finished)
            self.running[d] = 0
            self.complete |= d

    def restart_episodes(self) -> None:
        """Forget the unfinished episodes, where the environment begins anew; the finished ones stay."""
        self.running.zero_()
        self.complete.fill_(not self.skip_first)

    @property
    def mean_return(self) -> float:
        """Mean return over the newest episodes, NaN before the first one has finished."""
        return sum(self.returns) / len(self.returns) if self.returns else float("nan")

    def state_dict(self) -> dict:
        """What a checkpoint stores."""
        return {
            "running": self.running.clone(),
            "complete": self.complete.clone(),
            "returns": torch.tensor(list(self.returns), dtype=torch.float64),
            "num_episodes": self.num_episodes,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.running.copy_(state["running"])
        self.complete.copy_(state["complete"])
        self.returns.clear()
        self.returns.extend(state["returns"].tolist())
        self.num_episodes = int(state["num_episodes"])
