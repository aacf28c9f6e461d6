"""Where the flow starts: the noise that the solver carries to an action."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fpo_torchrl.described import Described


class StartNoise(Described, ABC):
    """Base class: ``sample(shape, like)`` gives the solver's starting point."""

    @abstractmethod
    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Starting points of ``shape`` on the device and in the dtype of ``like``."""


class RandomNoise(StartNoise):
    """A standard normal draw: the stochastic policy that is trained."""

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Starting points of ``shape`` on the device and in the dtype of ``like``."""
        return torch.randn(tuple(shape), device=like.device, dtype=like.dtype)


class ZeroNoise(StartNoise):
    """The origin: a deterministic policy ("zero-sampling", FPO++ section III-D)."""

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Starting points of ``shape`` on the device and in the dtype of ``like``."""
        return torch.zeros(tuple(shape), device=like.device, dtype=like.dtype)


class FixedNoise(StartNoise):
    """One standard normal draw, made from ``seed`` and used for every observation: deterministic too.

    Args:
        seed (int): seed of the draw; the same on every device.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def sample(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Starting points of ``shape`` on the device and in the dtype of ``like``, all the same."""
        return _draw(self.seed, shape[-1], like.device, like.dtype).expand(*shape)


@torch.compiler.assume_constant_result
def _draw(seed: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A standard normal draw ``[size]``, to the compiler a constant."""
    return _drawn(seed, size, device, dtype)


@functools.cache
def _drawn(seed: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it serves calls with gradients too
        return torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed), device="cpu").to(device, dtype)
