"""Distributions of the flow time at which the CFM loss is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpo_torchrl.described import Described
from fpo_torchrl.flow.draws import Draws


class TimeSampler(Described, ABC):
    """Base class: a distribution on [0, 1], given by its :meth:`quantile` function."""

    @abstractmethod
    def quantile(self, unit: Tensor) -> Tensor:
        """The inverse of the distribution function at ``unit``, numbers in [0, 1) of any shape."""

    def sample(self, shape: Sequence[int], draws: Draws) -> Tensor:
        """Independent times of ``shape``, made of the numbers of ``draws``."""
        return self.quantile(draws.uniform(shape))

    def sample_stratified(self, shape: Sequence[int], draws: Draws) -> Tensor:
        """As :meth:`sample`, but spread evenly over dimension -2: one time from each of ``shape[-2]`` equal shares.

        The shares are in random order. Each time alone has the same distribution as before; an average over the
        dimension varies less.
        """
        share, within = draws.uniform(shape), draws.uniform(shape)
        return self.quantile((share.argsort(-2) + within) / shape[-2])


class GridTime(TimeSampler):
    """Uniform over the ``num_steps`` left edges ``0, 1/n, ..., (n-1)/n``, where an Euler sampler looks.

    Source: akanazawa/fpo, playground/src/flow_policy/fpo.py:373-380.
    """

    def __init__(self, num_steps: int = 10) -> None:
        if num_steps < 1 or num_steps != int(num_steps):
            raise ValueError(f"num_steps must be a whole number, at least 1, got {num_steps}")
        self.num_steps = int(num_steps)

    def quantile(self, unit: Tensor) -> Tensor:
        """The edge below ``unit``."""
        return (unit * self.num_steps).floor().clamp_max(self.num_steps - 1) / self.num_steps


class UniformTime(TimeSampler):
    """Uniform over ``[low, high]`` (FPO: [0, 1]; FPO++'s released code: [0.005, 0.995])."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f"flow times lie in [0, 1] with low < high, got low={low}, high={high}")
        self.low, self.high = low, high

    def quantile(self, unit: Tensor) -> Tensor:
        """``unit``, scaled to the interval."""
        return self.low + (self.high - self.low) * unit


class LogitNormalTime(TimeSampler):
    """``sigmoid(mean + std * n)`` with a standard normal ``n``.

    The humanoid experiment's released code draws ``mean=1.2, std=1.2`` (phc/puffer_phc/policy.py:484-489).
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean, self.std = mean, std

    def quantile(self, unit: Tensor) -> Tensor:
        """The normal's quantile, put through the sigmoid."""
        # In double: single precision would depend on the place in a vector, by a bit.
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(unit.double())).to(unit.dtype)


class BetaTime(TimeSampler):
    """Beta(alpha, beta): alpha > beta looks more often near the action, alpha < beta near the noise."""

    _NODES = 4096

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"alpha and beta must be positive, got alpha={alpha}, beta={beta}")
        self.alpha, self.beta = alpha, beta
        # Torch has no inverse of the beta distribution. Of the logit z the density t^alpha (1 - t)^beta is smooth
        # and falls off exponentially for any alpha and beta, so a table of its integral serves.
        bound = 20 / min(alpha, beta, 1.0)
        logit = torch.linspace(-bound, bound, self._NODES, dtype=torch.float64, device="cpu")
        log_sigmoid = torch.nn.functional.logsigmoid
        log_density = alpha * log_sigmoid(logit) + beta * log_sigmoid(-logit)
        density = (log_density - log_density.max()).exp()  # of its largest value, which may be as small as 0
        mass = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density)])
        self._tables = {torch.device("cpu"): (logit, mass / mass[-1])}

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies on other devices, which a process that gets this may not have."""
        cpu = torch.device("cpu")
        return {**vars(self), "_tables": {cpu: self._tables[cpu]}}

    def quantile(self, unit: Tensor) -> Tensor:
        """Interpolated in a table, to about 3e-4 for parameters from 0.1 to 100; coarser beyond."""
        if unit.device not in self._tables:
            with torch.inference_mode(False):
                self._tables[unit.device] = tuple(table.to(unit.device) for table in self._tables[torch.device("cpu")])
        logit, mass = self._tables[unit.device]
        wanted = unit.double()
        above = torch.searchsorted(mass, wanted.contiguous()).clamp(1, self._NODES - 1)
        weight = (wanted - mass[above - 1]) / (mass[above] - mass[above - 1]).clamp_min(1e-300)
        return torch.lerp(logit[above - 1], logit[above], weight.clamp(0, 1)).sigmoid().to(unit.dtype)
