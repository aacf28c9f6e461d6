"""Where the random numbers of (noise, time) pairs come from: torch's generator, or a seed for each action."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Draws(ABC):
    """Base class: a source of random numbers, on one device and in one dtype."""

    @abstractmethod
    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of ``shape``."""

    @abstractmethod
    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers of ``shape``, uniform in [0, 1)."""


class TorchDraws(Draws):
    """Numbers of torch's global generator, on the device and in the dtype of ``like``."""

    def __init__(self, like: Tensor) -> None:
        self.device, self.dtype = like.device, like.dtype

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of ``shape``."""
        return torch.randn(tuple(shape), device=self.device, dtype=self.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers of ``shape``, uniform in [0, 1)."""
        return torch.rand(tuple(shape), device=self.device, dtype=self.dtype)


class SeededDraws(Draws):
    """Numbers that depend on nothing but a seed and their place in its stream, so that they can be drawn again.

    The stream of a seed is SplitMix64's (Steele, Lea and Flood 2014). Every number is computed alone, by operations
    that give it the same bits wherever it stands in a tensor: a transition's numbers are the same in a batch and
    in any minibatch, on one kind of device.

    Args:
        seeds: int64 ``[*batch]``; the shapes asked for begin with ``*batch``.
        dtype: of the numbers.
    """

    def __init__(self, seeds: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.seeds, self.dtype, self.position = seeds, dtype, 1

    @staticmethod
    def random_seeds(shape: Sequence[int], device: torch.device) -> Tensor:
        """Seeds ``[*shape]`` from torch's global generator."""
        return torch.randint(torch.iinfo(torch.int64).max, tuple(shape), device=device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of ``shape``: the normal's quantile of 52 random bits."""
        # ndtri is computed number by number; log and cos of a Box-Muller pair would depend on the place in a vector.
        return torch.special.ndtri((_shift(self._bits(shape), 12).double() + 0.5) * 2.0**-52).to(self.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers of ``shape``, uniform in [0, 1), of 24 random bits; a smaller dtype rounds them, also to 1."""
        return (_shift(self._bits(shape), 40).to(torch.float32) * 2.0**-24).to(self.dtype)

    def _bits(self, shape: Sequence[int]) -> Tensor:
        """The next 64 random bits for every entry of ``shape``, as int64."""
        own = tuple(shape[self.seeds.ndim :])
        index = torch.arange(self.position, self.position + math.prod(own), device=self.seeds.device)
        self.position += len(index)
        return splitmix64(self.seeds.unsqueeze(-1), index).view(*self.seeds.shape, *own)


def splitmix64(seed: Tensor, index: Tensor) -> Tensor:
    """The ``index``-th output, counted from 1, of SplitMix64 started at ``seed``; int64 holds the 64 bits."""
    # A 0 of the seeds makes the index a number in memory: of a plain arange a compiler would bound the product, which
    # passes 64 bits before it wraps.
    bits = seed + (index ^ (seed.sum() & 0)) * -0x61C8864680B583EB
    bits = (bits ^ _shift(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shift(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, places: int) -> Tensor:
    """``bits`` moved right, with zeros from the left, which int64's own shift fills with the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
