"""The exact flow to a weighted set of points: what a velocity network learns from them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class MarginalFlow:
    r"""Flow along the linear path from standard normal noise to weighted points, in closed form.

    The paths to the point :math:`x_i` are normal around :math:`t x_i` with variance
    :math:`s_t^2 = (1 - t)^2 + t^2 \text{std}^2`. The marginal velocity is the mean velocity of all paths through ``x``,

    .. math:: v(x, t) = \frac{\sum_i w_i p_t(x | x_i) u_t(x | x_i)}{\sum_i w_i p_t(x | x_i)}, \quad
        u_t(x | x_i) = x_i + \frac{t\,\text{std}^2 - (1 - t)}{s_t^2} (x - t x_i),

    the minimiser of the CFM loss of points drawn with probability proportional to their weights (Lipman et al.,
    arXiv 2210.02747, Eq. 8, on the path of FPO++ Eq. 5). An instance is a velocity field, ready for any
    :class:`~fpo_torchrl.flow.Solver`.

    Weights may be negative, as advantages are. Where the weighted density then is negative no velocity minimises the
    loss and this one maximises it; where the density is zero it is infinite.

    Args:
        points: ``[points, act]``.
        weights: ``[points]``, in any scale, not all zero; default: all alike.
        std (float): standard deviation of the normal distribution around each point. Without one there is no velocity
            at time 1.

    Raises:
        ValueError: for points and weights that do not fit or are not finite, a negative ``std``, or time 1 without one.

    >>> from fpo_torchrl import Euler
    >>> flow, noise = MarginalFlow(torch.tensor([[-1.0], [1.0]])), torch.tensor([[-0.5], [0.25]])
    >>> Euler(num_steps=1)(flow, noise).flatten()  # one step leads to the mean of the points
    tensor([0., 0.])
    >>> Euler(num_steps=50)(flow, noise).flatten()  # many lead to the points
    tensor([-1.,  1.])
    """

    def __init__(self, points: Tensor, weights: Tensor | None = None, *, std: float = 0.0) -> None:
        weights = weights if weights is not None else points.new_ones(len(points))
        if points.ndim != 2 or not len(points) or weights.shape != points.shape[:1]:
            got = f"{list(points.shape)} and {list(weights.shape)}"
            raise ValueError(f"expected points [points, act] and weights [points], got {got}")
        if not (points.isfinite().all() and weights.isfinite().all() and weights.any()):
            raise ValueError("points and weights must be finite, and the weights not all zero")
        if std < 0:
            raise ValueError(f"std must not be negative, got {std}")
        self.points, self.weights, self.std = points, weights, std

    def __call__(self, x: Float[Tensor, "*shape act"], time: Float[Tensor, "*#shape 1"]) -> Float[Tensor, "*shape act"]:
        """The marginal velocity at ``x`` and ``time`` in [0, 1]."""
        offset, variance, exponent = self._paths(x, time)
        conditional = self.points + (time * self.std**2 - (1 - time)).unsqueeze(-1) / variance * offset
        # The largest exponent is taken out of numerator and denominator, which far from all points would both be 0.
        share = self.weights * (exponent - exponent.amax(-1, keepdim=True)).exp()
        return (share.unsqueeze(-1) * conditional).sum(-2) / share.sum(-1, keepdim=True)

    def density(self, x: Float[Tensor, "*shape act"], time: Float[Tensor, "*#shape 1"]) -> Float[Tensor, "*shape"]:
        """The density of the paths at ``x`` and ``time``, whose integral is the sum of the weights."""
        _, variance, exponent = self._paths(x, time)
        normal = exponent.exp() / (2 * torch.pi * variance.squeeze(-1)) ** (x.shape[-1] / 2)
        return (self.weights * normal).sum(-1)

    def _paths(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far ``x`` is from the mean of each point's paths, their variance, and the exponent of their density.

        Shapes: ``[*shape, points, act]``, ``[*#shape, 1, 1]`` and ``[*shape, points]``.
        """
        variance = ((1 - time) ** 2 + (time * self.std) ** 2).unsqueeze(-1)
        if not variance.all():
            raise ValueError("at time 1 the paths to points of std=0 have no density: give std, or stop before time 1")
        offset = x.unsqueeze(-2) - time.unsqueeze(-1) * self.points
        return offset, variance, -0.5 * (offset**2 / variance).sum(-1)

    def __repr__(self) -> str:
        return f"MarginalFlow({len(self.points)} points, std={self.std})"
