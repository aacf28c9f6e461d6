"""How actions are kept inside their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Squash:
    """A map of all numbers into [-1, 1], and the way back."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


SQUASHES: dict[str, Squash | None] = {
    "tanh": Squash(torch.tanh, lambda unit: torch.atanh(unit.clamp(-0.999, 0.999))),
    "clip": Squash(lambda x: x.clamp(-1, 1), lambda unit: unit),
    "none": None,
}
"""By name; None leaves actions as they are."""


def action_bounds(
    action_low: float | Tensor, action_high: float | Tensor, *, squash: str, action_dim: int
) -> dict[str, Tensor]:
    """Both bounds as tensors ``[action_dim]`` by name; ``ValueError`` if ``squash`` cannot map to them."""
    low, high = (torch.as_tensor(bound).to(torch.get_default_dtype()) for bound in (action_low, action_high))
    if SQUASHES[squash] is not None and not (is_bound(low) & is_bound(high) & (low < high)).all():
        raise ValueError(
            f"squash={squash!r} needs finite bounds with low < high, got action_low={low.tolist()} and "
            f'action_high={high.tolist()}; use squash="none" for an unbounded action'
        )
    bounds = {"action_low": low, "action_high": high}
    for name, bound in bounds.items():
        if bound.shape not in ((), (1,), (action_dim,)):
            raise ValueError(
                f"{name} should be a number or have the shape [{action_dim}] of the action, got {list(bound.shape)}"
            )
    # A plain clone of one number keeps the stride 0 of expand, which no checkpoint can hold.
    contiguous = torch.contiguous_format
    return {name: bound.expand(action_dim).clone(memory_format=contiguous) for name, bound in bounds.items()}


def is_bound(value: Tensor) -> Tensor:
    """Which of ``value`` are bounds: finite, and not the largest numbers, which TorchRL takes for no bound."""
    return value.abs() < torch.finfo(value.dtype).max / 2
