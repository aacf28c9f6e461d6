"""Which motion an episode tracks: those that are lost more often may come more often."""

from __future__ import annotations

import torch
from torch import Tensor

_MEMORY = 0.98  # of what is known about a motion, the share that one more episode of it leaves
_MOST_RECORDED = 64  # steps whose episodes may wait to be counted
_LEAST = 1e-3  # of a rate in a weight, so that they have a sum if nothing is lost any more


class FailureWeights:
    """Draws motions, a share of them in proportion to how often each was lost lately, the others evenly.

    The even share keeps every motion in training, however well it goes: a motion that is left out is forgotten
    (the released code leaves out those that never failed, phc/puffer_phc/motion_lib.py:482-510).

    Args:
        num_motions (int): how many there are.
        share (float): of the draws that go by failures, at least 0 and below 1.
        device: where motions are drawn.

    Raises:
        ValueError: if ``share`` is out of range.

    >>> weights = FailureWeights(2, share=0.5)
    >>> weights.record(torch.tensor([0] * 1000), torch.tensor([False] * 1000))
    >>> weights.probabilities
    tensor([0.2505, 0.7495], dtype=torch.float64)
    """

    def __init__(self, num_motions: int, *, share: float, device: torch.device | str = "cpu") -> None:
        if not 0 <= share < 1:
            raise ValueError(f"failure_share must be at least 0 and below 1, got {share}")
        self.share = share
        self._rates = torch.ones(num_motions, dtype=torch.float64, device=device)
        self._recorded: list[tuple[Tensor, Tensor]] = []  # and not yet in the rates: many are counted at once

    @property
    def rates(self) -> Tensor:
        """Share of each motion's episodes that ended early, the newest counting most; 1 before the first."""
        self._count()
        return self._rates

    @property
    def probabilities(self) -> Tensor:
        """How often each motion is drawn: ``[num_motions]``, at least ``(1 - share) / num_motions``."""
        weights = self.rates + _LEAST
        return (1 - self.share) / len(self.rates) + self.share * weights / weights.sum()

    def draw(self, uniform: Tensor) -> Tensor:
        """Numbers of motions, int64 ``[n]``, for ``uniform`` ``[n]`` in [0, 1)."""
        edges = self.probabilities.cumsum(0)[:-1]
        return torch.searchsorted(edges, uniform.to(edges), right=True)

    def record(self, motion: Tensor, lost: Tensor) -> None:
        """Take note of episodes that ended: the ``motion`` ``[n]`` that each tracked, and whether it was ``lost``."""
        self._recorded.append((motion, lost))
        if len(self._recorded) == _MOST_RECORDED:
            self._count()

    def _count(self) -> None:
        if not self._recorded:
            return
        motion, lost = map(torch.cat, zip(*self._recorded, strict=True))
        self._recorded.clear()
        motion, order = motion.sort(stable=True)
        played = torch.bincount(motion, minlength=len(self._rates))
        later = played.cumsum(0)[motion] - torch.arange(1, len(motion) + 1, device=motion.device)  # of the same motion
        share = (1 - _MEMORY) * _MEMORY ** later.double() * lost[order]
        self._rates.mul_(_MEMORY ** played.double()).index_add_(0, motion, share)
