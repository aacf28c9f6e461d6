"""The probability path from noise to action. THE time convention of the package is set here."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fpo_torchrl.described import Described


class LinearPath(Described):
    """Straight line from noise at time 0 to the action at time 1: ``x_t = (1 - t) noise + t action``.

    Source: FPO++ Eq. 5 and 6 (arXiv 2602.02481). The FPO authors' JAX code runs the other way,
    ``t_ref = 1 - t`` with the velocity's sign turned.

    >>> import torch
    >>> path, noise, action = LinearPath(), torch.tensor([1.0]), torch.tensor([3.0])
    >>> path.interpolate(noise, action, torch.tensor([0.25]))
    tensor([1.5000])
    >>> path.velocity(noise, action)
    tensor([2.])
    """

    def interpolate(
        self, noise: Float[Tensor, "*shape act"], action: Float[Tensor, "*#shape act"], time: Float[Tensor, "*#shape 1"]
    ) -> Float[Tensor, "*shape act"]:
        """The point of the path at ``time`` in [0, 1]."""
        return (1 - time) * noise + time * action

    def velocity(
        self, noise: Float[Tensor, "*shape act"], action: Float[Tensor, "*#shape act"]
    ) -> Float[Tensor, "*shape act"]:
        """The path's derivative with respect to time, the target of flow matching."""
        return action - noise
