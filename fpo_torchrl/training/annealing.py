"""What changes as training goes on: step sizes, the pull of the prior and the bounds on advantages."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer


class Annealing:
    """Schedules of the step sizes and of the loss's coefficients, from what they are now.

    Args:
        optimizer: whose step sizes fall.
        loss: whose ``prior_coeff`` falls, and whose bounds on advantages close in.
        total_frames (int): of the training.
        lr (bool): let the step sizes fall to zero at ``total_frames``.
        prior (float, optional): share of ``total_frames``, above 0 and at most 1, at which ``prior_coeff`` is zero;
            None keeps it.
        bounds (bool): begin without bounds on advantages and reach the loss's at ``total_frames``: they are divided by
            the share of frames that are done. A loss of another kind, such as the Gaussian's, has none to close in.

    Raises:
        ValueError: if ``prior`` is out of range, or given for a loss without a ``prior_coeff``; if a loss that can
            bound advantages has no bound that could close in.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss: Any,
        total_frames: int,
        *,
        lr: bool,
        prior: float | None = None,
        bounds: bool = False,
    ) -> None:
        self._optimizer, self._loss = optimizer, loss
        self._lrs, self._lr_frames = [group["lr"] for group in optimizer.param_groups], total_frames if lr else None
        self._sets_lrs = lr
        self._prior_coeff, self._prior_frames = float(getattr(loss, "prior_coeff", 0.0)), None
        if prior is not None:
            if not 0 < prior <= 1:
                raise ValueError(f"anneal_prior must be above 0 and at most 1, got {prior}")
            if not hasattr(loss, "prior_coeff"):
                raise ValueError(
                    f"anneal_prior={prior} needs a loss with a prior_coeff, as FPOLoss has; {type(loss).__name__} has "
                    "none: give anneal_prior=null"
                )
            self._prior_frames = prior * total_frames
        self._total_frames, self._bounds = total_frames, _advantage_bounds(loss) if bounds else {}

    def apply(self, frames: int, *, lr_scale: float) -> None:
        """Set all to what they are after ``frames``; ``lr_scale`` is a further factor on the step sizes.

        Step sizes that neither fall nor are scaled are left alone: they may have a scheduler of their own.
        """
        self._sets_lrs = self._sets_lrs or lr_scale != 1
        for group, lr in zip(self._optimizer.param_groups, self._lrs, strict=True):
            if self._sets_lrs:
                group["lr"] = lr * _left(frames, self._lr_frames) * lr_scale
        if self._prior_frames is not None:
            self._loss.prior_coeff.fill_(self._prior_coeff * _left(frames, self._prior_frames))
        done = min(1.0, frames / self._total_frames)
        for name, bound in self._bounds.items():
            getattr(self._loss, name).fill_(bound / done if done else math.copysign(math.inf, bound))


def _advantage_bounds(loss: Any) -> dict[str, float]:
    """The bounds on advantages that a loss has, by name."""
    names = [name for name in ("min_advantage", "max_advantage") if hasattr(loss, name)]
    bounds = {name: float(value) for name in names if (value := getattr(loss, name)) is not None}
    if names and not bounds:
        raise ValueError(
            f"anneal_bounds=True needs a bound that closes in: give {type(loss).__name__} min_advantage or "
            "max_advantage, such as -3 and 3, or anneal_bounds=False"
        )
    return bounds


def _left(frames: int, last: float | None) -> float:
    return 1.0 if last is None else max(0.0, 1 - frames / last)
