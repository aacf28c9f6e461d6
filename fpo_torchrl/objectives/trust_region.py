"""Trust regions: how far one update may move the ratio, and what happens beyond."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fpo_torchrl.functional import aspo_objective, ppo_objective, spo_objective


class TrustRegion(ABC):
    """Base class: an objective of ratio and advantage, to be maximised, around a band of ratios.

    A subclass defines :meth:`__call__`, and calls ``super().__init__(low, high)`` in an ``__init__`` of its own.
    ``low`` and ``high`` bound the band ``[1 - low, 1 + high]``; ratios outside it count as clipped in the diagnostics.
    """

    def __init__(self, low: float, high: float) -> None:
        if not (0 < low < 1 and high > 0):
            raise ValueError(
                f"a trust region needs 0 < low < 1 and high > 0 (the ratio stays in [1 - low, 1 + high]), "
                f"got low={low}, high={high}"
            )
        self.low, self.high = float(low), float(high)

    @abstractmethod
    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """Objective ``[*batch, groups]`` of ``ratio`` ``[*batch, groups]`` and ``advantage`` ``[*batch, 1]``."""

    def is_outside(self, ratio: Tensor) -> Tensor:
        """Which ratios lie outside the band."""
        return (ratio < 1 - self.low) | (ratio > 1 + self.high)

    def __repr__(self) -> str:
        radius = self.low if self.low == self.high else (self.low, self.high)
        return f"{type(self).__name__}({radius})"


class Clip(TrustRegion):
    """PPO's clip: beyond the band the gradient stops (FPO Eq. 5).

    Args:
        epsilon: radius of the band, or ``(low, high)`` radii.

    >>> import torch
    >>> Clip(0.05)(torch.tensor([1.2]), torch.tensor([1.0]))
    tensor([1.0500])
    """

    def __init__(self, epsilon: float | tuple[float, float] = 0.05) -> None:
        if isinstance(epsilon, TrustRegion):
            raise TypeError(f"a radius was expected, got {epsilon!r}: give it as trust_region={epsilon!r}")
        given = epsilon.tolist() if hasattr(epsilon, "tolist") else epsilon  # of a tensor, or a number of numpy
        radii = (given, given) if isinstance(given, (int, float)) else tuple(given)
        if len(radii) != 2 or not all(isinstance(radius, (int, float)) for radius in radii):
            raise ValueError(f"epsilon must be a number or a pair of them (low, high), got {epsilon!r}")
        low, high = radii
        super().__init__(low, high)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The smaller of the objective and its clipped version."""
        return ppo_objective(ratio, advantage, self.low, self.high)


def clip_or(trust_region: TrustRegion | None, epsilon: float | tuple[float, float], default: float) -> TrustRegion:
    """``trust_region``, else the clip of ``epsilon``; ``ValueError`` if both are chosen."""
    clip, usual = Clip(epsilon), Clip(default)
    if trust_region is None:
        return clip
    if (clip.low, clip.high) != (usual.low, usual.high):
        raise ValueError(f"give the radius to the trust region: clip_epsilon={epsilon} beside {trust_region}")
    return trust_region


class SPO(TrustRegion):
    """Simple policy optimization: beyond the band a quadratic penalty pulls the ratio back (FPO++ Eq. 11).

    Args:
        epsilon (float): distance from 1 at which the objective peaks.
    """

    def __init__(self, epsilon: float = 0.05) -> None:
        super().__init__(epsilon, epsilon)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The objective with its quadratic penalty."""
        return spo_objective(ratio, advantage, self.low)


class ASPO(TrustRegion):
    """Asymmetric: PPO's clip for non-negative advantages, SPO's pull for negative ones (FPO++ Eq. 12).

    Args:
        epsilon (float): radius of the band.
    """

    def __init__(self, epsilon: float = 0.05) -> None:
        super().__init__(epsilon, epsilon)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """Clip or penalty, by the sign of the advantage."""
        return aspo_objective(ratio, advantage, self.low)
