"""Observations of which a network sees a part."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedObservation(nn.Module):
    """Normalises an observation and then sets what must not be seen to zero, which is its running mean.

    It takes a normaliser's place in an actor or critic. What is masked cannot reach the network in any way: the
    entries are replaced, not multiplied, so not even their sign or a NaN gets through. The inputs keep their size.

    Args:
        mask: bool ``[obs_dim]``, true where the network may look.
        normalizer: applied first; None for none.

    Raises:
        ValueError: if ``mask`` is no one-dimensional tensor of bools.

    >>> MaskedObservation(torch.tensor([True, False]))(torch.tensor([3.0, float("nan")]))
    tensor([3., 0.])
    """

    mask: Tensor

    def __init__(self, mask: Tensor, normalizer: nn.Module | None = None) -> None:
        super().__init__()
        if mask.dtype != torch.bool or mask.ndim != 1:
            raise ValueError(f"mask must be a bool tensor [obs_dim], got {mask.dtype} {list(mask.shape)}")
        self.normalizer = normalizer
        self.register_buffer("mask", mask.clone(), persistent=False)  # it is of the task, not of what was learnt

    def forward(self, observation: Tensor) -> Tensor:
        """What the network sees of ``observation`` ``[*batch, obs_dim]``."""
        normalized = observation if self.normalizer is None else self.normalizer(observation)
        return torch.where(self.mask, normalized, 0.0)

    def extra_repr(self) -> str:
        """Arguments shown by ``repr``."""
        return f"visible={int(self.mask.sum())} of {len(self.mask)}"
