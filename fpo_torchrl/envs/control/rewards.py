"""The tolerance rewards of the dm_control suite that the tasks use, as pure functions of tensors.

A reward is 1 inside an interval and falls off outside it with a shape that is worth
``value_at_margin`` at the distance ``margin``. Source: ``dm_control/utils/rewards.py``
(Tassa et al. 2018, arXiv:1801.00690), which MuJoCo Playground ports.

Each shape takes the excess ``d`` over the interval (of either sign), the margin ``m`` and the
value ``v`` there; it is an even function of ``d`` with ``shape(0) = 1`` and ``shape(m) = v``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Shape = Callable[[Tensor, float, float], Tensor]


def gaussian(excess: Tensor, margin: float, value: float) -> Tensor:
    """``v^((d/m)^2)``; ``v`` in (0, 1)."""
    _check_open(value)
    return torch.exp(excess.square() * (math.log(value) / margin**2))


def linear(excess: Tensor, margin: float, value: float) -> Tensor:
    """``max(0, 1 - (1 - v) |d|/m)``; ``v`` in [0, 1)."""
    _check_half_open(value)
    return torch.rsub(excess.abs(), 1, alpha=(1 - value) / margin).clamp_min(0)


def quadratic(excess: Tensor, margin: float, value: float) -> Tensor:
    """``max(0, 1 - (1 - v) (d/m)^2)``; ``v`` in [0, 1)."""
    _check_half_open(value)
    return torch.rsub(excess.square(), 1, alpha=(1 - value) / margin**2).clamp_min(0)


def tolerance(
    x: Tensor,
    *,
    lower: float = 0.0,
    upper: float = 0.0,
    margin: float = 0.0,
    shape: Shape = gaussian,
    value_at_margin: float = 0.1,
) -> Tensor:
    """1 where ``lower <= x <= upper``, falling to ``value_at_margin`` at ``margin`` outside.

    Args:
        x (Tensor): any shape, in the unit of the bounds.
        lower (float): lower bound of the interval, may be ``-inf``.
        upper (float): upper bound, at least ``lower``, may be ``inf``.
        margin (float): distance, at least 0; with 0 the reward is 0 everywhere outside.
        shape: how the reward falls off, one of the functions of this module.
        value_at_margin (float): reward at the distance ``margin``.

    Raises:
        ValueError: if ``lower > upper``, ``margin < 0`` or ``value_at_margin`` does not suit ``shape``.

    Example:
        >>> tolerance(torch.tensor([0.5, 1.0, 3.0]), upper=1.0, margin=2.0, shape=linear)
        tensor([1.0000, 1.0000, 0.1000])
    """
    if lower > upper:
        raise ValueError(f"lower must be at most upper, got lower={lower}, upper={upper}")
    if margin < 0:
        raise ValueError(f"margin must be at least 0, got {margin}")
    if margin == 0:
        return ((x >= lower) & (x <= upper)).to(x.dtype)
    return shape(_excess(x, lower, upper), margin, value_at_margin)


def _excess(x: Tensor, lower: float, upper: float) -> Tensor:
    """How far ``x`` lies outside the interval, 0 inside; the common cases in fewer operations."""
    if lower == upper:
        return x - lower if lower else x
    if upper == math.inf:
        return (lower - x).clamp_min(0)
    if lower == -math.inf:
        return (x - upper).clamp_min(0)
    return torch.maximum(lower - x, x - upper).clamp_min(0)


def _check_open(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"value_at_margin must be in (0, 1) for this shape, got {value}")


def _check_half_open(value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"value_at_margin must be in [0, 1) for this shape, got {value}")
