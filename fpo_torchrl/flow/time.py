"""Distributions of the flow time at which the CFM loss is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class TimeSampler(ABC):
    """Base class: ``sample(shape, like)`` draws flow times in [0, 1]."""

    @abstractmethod
    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw times of ``shape`` on the device and in the dtype of ``like``."""


class GridTime(TimeSampler):
    """Uniform over the ``num_steps`` left edges ``0, 1/n, ..., (n-1)/n``, where an Euler sampler looks.

    Source: akanazawa/fpo, playground/src/flow_policy/fpo.py:373-380.
    """

    def __init__(self, num_steps: int = 10) -> None:
        if num_steps < 1 or num_steps != int(num_steps):
            raise ValueError(f"num_steps must be a whole number, at least 1, got {num_steps}")
        self.num_steps = int(num_steps)

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw times of ``shape`` on the device and in the dtype of ``like``."""
        return torch.randint(self.num_steps, tuple(shape), device=like.device).to(like.dtype) / self.num_steps


class UniformTime(TimeSampler):
    """Uniform over ``[low, high]`` (FPO: [0, 1]; FPO++'s released code: [0.005, 0.995])."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f"flow times lie in [0, 1] with low < high, got low={low}, high={high}")
        self.low, self.high = low, high

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw times of ``shape`` on the device and in the dtype of ``like``."""
        unit = torch.rand(tuple(shape), device=like.device, dtype=like.dtype)
        return self.low + (self.high - self.low) * unit


class LogitNormalTime(TimeSampler):
    """``sigmoid(mean + std * n)`` with a standard normal ``n``.

    The humanoid experiment's released code draws ``mean=1.2, std=1.2`` (phc/puffer_phc/policy.py:484-489).
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean, self.std = mean, std

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw times of ``shape`` on the device and in the dtype of ``like``."""
        return torch.sigmoid(self.mean + self.std * torch.randn(tuple(shape), device=like.device, dtype=like.dtype))


class BetaTime(TimeSampler):
    """Beta(alpha, beta): alpha > beta looks more often near the action, alpha < beta near the noise."""

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"alpha and beta must be positive, got alpha={alpha}, beta={beta}")
        self.alpha, self.beta = alpha, beta

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw times of ``shape`` on the device and in the dtype of ``like``."""
        alpha, beta = torch.tensor([[self.alpha], [self.beta]], device=like.device, dtype=like.dtype)
        return torch.distributions.Beta(alpha, beta).sample(tuple(shape)).squeeze(-1)
