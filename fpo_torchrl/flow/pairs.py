"""How the (noise, time) pairs of an action are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fpo_torchrl.described import Described
from fpo_torchrl.flow.draws import Draws
from fpo_torchrl.flow.time import TimeSampler


class PairSampler(Described, ABC):
    """Base class: draws the pairs at which the CFM loss of an action is evaluated.

    Whatever the class, one pair alone is a standard normal noise and an independent time of the time
    sampler's distribution, so that the expected loss is the same; classes differ in how an action's pairs depend on
    each other.
    """

    @abstractmethod
    def sample(self, shape: Sequence[int], time_sampler: TimeSampler, draws: Draws) -> tuple[Tensor, Tensor]:
        """Noise ``[*batch, mc, act]``, which is ``shape``, and times ``[*batch, mc, 1]``, made from ``draws``."""


class IndependentPairs(PairSampler):
    """Every pair on its own, as in the FPO paper and its released code."""

    def sample(self, shape: Sequence[int], time_sampler: TimeSampler, draws: Draws) -> tuple[Tensor, Tensor]:
        """Noise ``[*batch, mc, act]`` and times ``[*batch, mc, 1]``."""
        return draws.normal(shape), time_sampler.sample((*shape[:-1], 1), draws)


class AntitheticPairs(PairSampler):
    """Pairs with mirrored noise at one time, ``(noise, t)`` and ``(-noise, t)``, whose times are stratified.

    The part of the CFM loss that is odd in the noise cancels, and no part of the flow goes unseen by chance; the
    part that is even in the noise is averaged over half as many draws. For the gradient of FPO's ratio the first
    two win: benchmarks/pair_noise.py measures it. Mirrored pairs are neighbours; of an odd number the last has
    no mirror. Both are textbook variance reductions (Owen, Monte Carlo theory, methods and examples,
    2013, sections 8.2 and 8.4).
    """

    def sample(self, shape: Sequence[int], time_sampler: TimeSampler, draws: Draws) -> tuple[Tensor, Tensor]:
        """Noise ``[*batch, mc, act]`` and times ``[*batch, mc, 1]``."""
        *batch, num_pairs, action_dim = shape
        half = (*batch, (num_pairs + 1) // 2)
        noise = draws.normal((*half, action_dim))
        time = time_sampler.sample_stratified((*half, 1), draws)
        noise = torch.stack([noise, -noise], -2).flatten(-3, -2)
        return noise[..., :num_pairs, :], time.repeat_interleave(2, -2)[..., :num_pairs, :]
