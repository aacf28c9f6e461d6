"""What the velocity network is asked to predict, as a weight on its velocity error.

On the linear path the predicted noise is ``x_t - t v`` and the predicted action ``x_t + (1 - t) v``. With
``x_t = (1 - t) noise + t action`` their errors are the velocity's error times ``-t`` and ``1 - t``, so a
target is no more than a weight, and the same network serves all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from fpo_torchrl.described import Described


class RegressionTarget(Described, ABC):
    """Base class: ``weight(time)`` multiplies the velocity error before it is squared."""

    @abstractmethod
    def weight(self, time: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"] | float:
        """Factor on the velocity error at ``time``."""


class VelocityTarget(RegressionTarget):
    """The velocity itself, ``action - noise`` (FPO Eq. 8; "u" in the released code)."""

    def weight(self, time: Float[Tensor, "*shape 1"]) -> float:
        """One at every time."""
        return 1.0


class NoiseTarget(RegressionTarget):
    """The noise (the FPO paper's choice on MuJoCo Playground; "eps" in the released code)."""

    def weight(self, time: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
        """``time``: no error where the path still is the noise."""
        return time


class ActionTarget(RegressionTarget):
    """The action (the humanoid experiment's choice; "data" in the released code)."""

    def weight(self, time: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
        """``1 - time``: no error where the path has reached the action."""
        return 1 - time
