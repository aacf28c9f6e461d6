"""What falls to zero as training goes on: step sizes, and the pull of the prior."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class Annealing:
    """Linear schedules of the step sizes and of the loss's ``prior_coeff``, from what they are now.

    Args:
        optimizer: whose step sizes fall.
        loss: whose ``prior_coeff`` falls.
        total_frames (int): of the training.
        lr (bool): let the step sizes fall to zero at ``total_frames``.
        prior (float, optional): share of ``total_frames``, above 0 and at most 1, at which ``prior_coeff`` is zero;
            None keeps it.

    Raises:
        ValueError: if ``prior`` is out of range, or given for a loss without a ``prior_coeff``.
    """

    def __init__(self, optimizer: Optimizer, loss: Any, total_frames: int, *, lr: bool, prior: float | None) -> None:
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


def _left(frames: int, last: float | None) -> float:
    return 1.0 if last is None else max(0.0, 1 - frames / last)
