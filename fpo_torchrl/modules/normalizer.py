"""Running normalisation of observations, kept inside the modules that use it."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

_PARTS = 32


class ObservationNormalizer(nn.Module):
    """Shifts and scales observations by the mean and standard deviation of all observations seen.

    The statistics are buffers: saved with the module and moved by ``.to``. They change only when
    :meth:`update` is called, never in ``forward``, so a policy update sees one fixed normalisation and the
    FPO ratio of the first minibatch is 1. Several batches give the same result as one large batch
    (Chan, Golub and LeVeque's parallel form of Welford's method). Before the first
    update only the clip acts.

    Args:
        obs_dim (int): size of the observation.
        clip (float): bound on the normalised observation, for a coordinate that suddenly moves after hardly varying;
            None for no bound, as in the released code.
        as_released (bool): reproduce the authors' released code, which forgets the variance summed
            before the current batch but divides by the total count, so that the standard deviation
            shrinks with every update (akanazawa/fpo, playground/src/flow_policy/math_utils.py:59-80). The trainer
            then also updates the statistics before a policy update instead of after it, as they do.

    Raises:
        ValueError: if ``clip`` is not positive; in :meth:`update`, if the batch's last dimension is not ``obs_dim``
            or it is not finite.

    >>> normalizer = ObservationNormalizer(1)
    >>> normalizer.update(torch.tensor([[1.0], [3.0]]))
    >>> normalizer(torch.tensor([4.0]))
    tensor([2.])
    """

    mean: Tensor
    std: Tensor
    count: Tensor
    squares: Tensor

    def __init__(self, obs_dim: int, *, clip: float | None = 10.0, as_released: bool = False) -> None:
        super().__init__()
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        self.obs_dim = obs_dim
        self.clip = clip
        self.as_released = as_released
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("std", torch.ones(obs_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(obs_dim, dtype=torch.float64))

    def _apply(self, *args, **kwargs) -> Self:
        """As for any module, but the sums stay in double precision, in which they do not overflow."""
        sums = {name: getattr(self, name) for name in ("count", "squares")}
        super()._apply(*args, **kwargs)
        for name, before in sums.items():
            if (now := getattr(self, name)).dtype != before.dtype:
                setattr(self, name, before.to(now.device))
        return self

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise ``observation`` ``[*batch, obs_dim]``."""
        normalized = (observation - self.mean) / self.std
        return normalized if self.clip is None else normalized.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, observation: Tensor) -> None:
        """Add ``observation`` ``[*batch, obs_dim]`` to the statistics, in place."""
        if observation.shape[-1] != self.obs_dim:
            raise ValueError(
                f"the normaliser was built for observations of size {self.obs_dim}, "
                f"got a batch of shape {tuple(observation.shape)}"
            )
        batch = observation.detach().reshape(-1, self.obs_dim)
        if not len(batch):
            return
        batch_mean = batch.sum(0, dtype=torch.float64) / len(batch)
        if not torch.isfinite(batch_mean).all():
            raise ValueError("the normaliser got an observation that is not finite; check the environment's output")
        total = self.count + len(batch)
        shift = batch_mean - self.mean.double()
        # In parts that stay in the processor's cache.
        batch_squares = torch.stack([(part - batch_mean).square_().sum(0) for part in batch.chunk(_PARTS)]).sum(0)
        if self.as_released:
            # Their sum runs over (x - old mean)(x - new mean), of this batch alone.
            squares = batch_squares + len(batch) * shift * (batch_mean - (self.mean + shift * len(batch) / total))
        else:
            squares = self.squares + batch_squares + shift.square() * self.count * len(batch) / total
        self.mean += (shift * len(batch) / total).to(self.mean.dtype)
        self.squares.copy_(squares)
        self.std.copy_((squares / total).clamp_min(1e-12).sqrt())
        self.count.copy_(total)

    def extra_repr(self) -> str:
        """Arguments shown by ``repr``."""
        return f"obs_dim={self.obs_dim}, clip={self.clip}" + (", as_released=True" if self.as_released else "")
