"""The equations of flow policy optimization as pure functions of tensors.

Sources: FPO is arXiv 2507.21053, FPO++ is arXiv 2602.02481. Flow time runs from noise (0) to action (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def _mean(squared_error: Tensor) -> Tensor:
    return squared_error.mean(-1)


def _sum(squared_error: Tensor) -> Tensor:
    return squared_error.sum(-1)


def _sum_over_sqrt_dim(squared_error: Tensor) -> Tensor:
    return squared_error.sum(-1) / squared_error.shape[-1] ** 0.5


ACTION_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": _mean,
    "sum": _sum,
    "sqrt": _sum_over_sqrt_dim,
}
"""How a squared error ``[..., action_dim]`` becomes one number per pair. The FPO paper (Eq. 8) sums, its
released code takes the mean, FPO++'s released code divides the sum by the square root of the dimension."""


def cfm_error(
    velocity: Float[Tensor, "*shape act"],
    target_velocity: Float[Tensor, "*shape act"],
    weight: Float[Tensor, "*shape 1"] | float,
    reduction: str = "mean",
) -> Float[Tensor, "*shape"]:
    """Conditional flow-matching loss of each (noise, time) pair.

    ``weight`` is the factor that turns a velocity error into the error of the chosen regression target
    (see :mod:`fpo_torchrl.flow.target`); FPO Eq. 8 is the velocity target with ``reduction="sum"``.
    """
    return ACTION_REDUCTIONS[reduction]((weight * (velocity - target_velocity)) ** 2)


def fpo_log_ratio(
    cfm_loss_old: Float[Tensor, "*batch mc"], cfm_loss_new: Float[Tensor, "*batch mc"], num_groups: int = 1
) -> Float[Tensor, "*batch groups"]:
    """Logarithm of the surrogate likelihood ratio, one per group of (noise, time) pairs.

    One group is the FPO ratio, the mean of the differences inside the exponential (FPO Eq. 6 and Alg. 1);
    as many groups as pairs is the FPO++ ratio, one per sample (FPO++ Eq. 10).
    """
    return (cfm_loss_old - cfm_loss_new).unflatten(-1, (num_groups, -1)).mean(-1)


def denoising_log_prob(
    points: Float[Tensor, "*batch points act"], mean: Float[Tensor, "*batch steps act"], std: float
) -> Float[Tensor, "*batch steps"]:
    """Log-likelihood of each step of a path of ``points``: ``log N(x_{k+1}; mean_k, std^2 I)``.

    This makes the denoising path a Markov decision process (FPO section 3.5; DPPO, arXiv 2409.00588).
    """
    error = (points[..., 1:, :] - mean) / std
    return -0.5 * error.square().sum(-1) - error.shape[-1] * (math.log(std) + 0.5 * math.log(2 * math.pi))


def straight_through_clamp(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """Clamp ``x`` with the gradient of the unclamped value; infinite entries have none."""
    return x.clamp(low, high).detach() + (x - x.detach()).nan_to_num()  # the second term is 0, or infinity less itself


def ppo_objective(
    ratio: Float[Tensor, "*batch groups"], advantage: Float[Tensor, "*batch 1"], low: float, high: float
) -> Float[Tensor, "*batch groups"]:
    """PPO's pessimistic objective ``min(r A, clip(r, 1 - low, 1 + high) A)``, to be maximised (FPO Eq. 5)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def spo_objective(
    ratio: Float[Tensor, "*batch groups"], advantage: Float[Tensor, "*batch 1"], epsilon: float
) -> Float[Tensor, "*batch groups"]:
    """Simple policy optimization ``r A - |A| (r - 1)^2 / (2 epsilon)``, to be maximised (FPO++ Eq. 11).

    For a negative advantage its maximum is at ``r = 1 - epsilon``: a ratio that went too far is pulled back.
    """
    return ratio * advantage - advantage.abs() * (ratio - 1) ** 2 / (2 * epsilon)


def aspo_objective(
    ratio: Float[Tensor, "*batch groups"], advantage: Float[Tensor, "*batch 1"], epsilon: float
) -> Float[Tensor, "*batch groups"]:
    """PPO's objective where the advantage is not negative, SPO's where it is (FPO++ Eq. 12)."""
    return torch.where(
        advantage >= 0,
        ppo_objective(ratio, advantage, epsilon, epsilon),
        spo_objective(ratio, advantage, epsilon),
    )


def effective_sample_size(log_ratio: Tensor, counted: Tensor | None = None) -> Float[Tensor, ""]:
    """Effective sample size ``(sum r)^2 / (n sum r^2)`` over the ratios that are ``counted``, or all, in (0, 1]."""
    number = log_ratio.numel() if counted is None else counted.sum()
    flat = (log_ratio if counted is None else log_ratio.where(counted, -math.inf)).flatten()
    return (2 * flat.logsumexp(0) - (2 * flat).logsumexp(0)).exp() / number


def explained_variance(value: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Share of the variance of ``target`` that ``value`` explains: 1 is all of it, 0 what a constant does.

    Entries of ``weight`` 0 do not count, whatever they are.
    """
    spread = _variance(target, weight) + torch.finfo(target.dtype).eps
    return 1 - _variance(target - value, weight) / spread


def _variance(x: Tensor, weight: Tensor) -> Tensor:
    x = x.where(weight > 0, 0.0)
    mean = (weight * x).sum() / weight.sum()
    return (weight * (x - mean) ** 2).sum() / weight.sum()


def brax_advantage(
    reward: Float[Tensor, "*batch steps 1"],
    terminated: Tensor,
    truncated: Tensor,
    value: Float[Tensor, "*batch steps 1"],
    next_value: Float[Tensor, "*batch steps 1"],
    gamma: float,
    lmbda: float,
) -> tuple[Float[Tensor, "*batch steps 1"], Float[Tensor, "*batch steps 1"]]:
    """Advantage and value target as Brax and the released FPO code compute them.

    The value target is ``v + GAE``; the advantage is ``r + gamma * target_{t+1} - v``, so lambda does not
    enter the first hop, and a truncated step has advantage 0 and target ``v``: nothing is bootstrapped
    through a time limit. Source: akanazawa/fpo, playground/src/flow_policy/rollouts.py:299-330.

    Args:
        reward: reward of each step, time in the second-last dimension.
        terminated: True where the episode ended for good, shaped as ``reward``.
        truncated: True where it was cut, shaped as ``reward``.
        value: value of each state.
        next_value: value of each successor; only the last one of a row is used.
        gamma: discount in [0, 1].
        lmbda: GAE's lambda in [0, 1].
    """
    keep = (~truncated).to(reward)
    discount = gamma * (~terminated).to(reward)
    next_value = torch.cat([value[..., 1:, :], next_value[..., -1:, :]], -2)
    delta = (reward + discount * next_value - value) * keep
    gae = torch.zeros_like(delta)
    running = torch.zeros_like(delta[..., 0, :])
    for t in reversed(range(delta.shape[-2])):
        running = delta[..., t, :] + discount[..., t, :] * lmbda * keep[..., t, :] * running
        gae[..., t, :] = running
    target = value + gae
    next_target = torch.cat([target[..., 1:, :], next_value[..., -1:, :]], -2)
    return (reward + discount * next_target - value) * keep, target


def group_advantage(reward: Shaped[Tensor, "*batch group 1"]) -> Float[Tensor, "*batch group 1"]:
    """How much better each member of a group did than the group, in its standard deviations; 0 where all did alike.

    Source: GRPO, arXiv 2402.03300, section 4.1.2 (outcome supervision). The standard deviation is the population's.
    """
    reward = reward if reward.is_floating_point() else reward.to(torch.get_default_dtype())
    limits = torch.finfo(reward.dtype)
    rounding = 16 * limits.eps * reward.abs().amax(-2, keepdim=True)
    reward = reward - reward[..., :1, :]  # so that equal rewards have exactly their mean
    spread = reward.std(-2, correction=0, keepdim=True)
    return (reward - reward.mean(-2, keepdim=True)) / spread.clamp_min(limits.tiny) * (spread > rounding)
