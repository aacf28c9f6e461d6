"""The Gaussian baseline: the same networks and normaliser with TorchRL's probabilistic actor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ProbabilisticActor, TanhNormal

from fpo_torchrl.checks import check_choice
from fpo_torchrl.modules.perceptron import Perceptron


class GaussianMLP(Perceptron):
    """Perceptron from an observation to the location and scale of a Gaussian.

    Args:
        obs_dim (int): size of the observation.
        action_dim (int): size of the action.
        hidden_sizes: widths of the hidden layers (default: the paper's 4 x 32).
        std: ``"observation"`` predicts it, softplus plus 0.001 as Brax does; ``"learned"`` is one trained
            vector; a number is held fixed.
        init_std (float): where ``"learned"`` starts.
        activation, init, autocast: as in :class:`VelocityMLP`; location and scale stay in the observation's precision.
        normalizer: applied to the observation first.

    Raises:
        ValueError: for a standard deviation that is not positive, or an unknown choice.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden_sizes: Sequence[int] = (32, 32, 32, 32),
        std: Literal["observation", "learned"] | float = "observation",
        init_std: float = 1.0,
        activation: str | Callable[[], nn.Module] = "silu",
        init: Literal["lecun_uniform", "torch"] = "lecun_uniform",
        normalizer: nn.Module | None = None,
        autocast: Literal["bfloat16"] | None = None,
    ) -> None:
        if not (isinstance(std, (int, float)) and std > 0):
            check_choice("std", std, ("observation", "learned"), other="a positive number")
        if not 0 < init_std < float("inf"):
            raise ValueError(f"init_std must be positive and finite, got {init_std}")
        sizes = [obs_dim, *hidden_sizes, action_dim * (2 if std == "observation" else 1)]
        super().__init__(sizes, activation=activation, init=init, autocast=autocast)
        self.normalizer = normalizer
        self.std = std
        if std != "observation":
            start = init_std if isinstance(std, str) else std
            self.log_std = nn.Parameter(torch.full((action_dim,), start).log(), requires_grad=std == "learned")

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale, each ``[*batch, action_dim]``."""
        h = super().forward(observation if self.normalizer is None else self.normalizer(observation))
        if self.std == "observation":
            loc, scale = h.chunk(2, -1)
            return loc, nn.functional.softplus(scale) + 1e-3
        return h, self.log_std.exp().expand_as(h)


def gaussian_actor(
    obs_dim: int,
    action_dim: int,
    *,
    hidden_sizes: Sequence[int] = (32, 32, 32, 32),
    std: Literal["observation", "learned"] | float = "observation",
    init_std: float = 1.0,
    activation: str | Callable[[], nn.Module] = "silu",
    init: Literal["lecun_uniform", "torch"] = "lecun_uniform",
    squash: Literal["tanh", "none"] = "tanh",
    action_low: float | Tensor = -1.0,
    action_high: float | Tensor = 1.0,
    normalizer: nn.Module | None = None,
    autocast: Literal["bfloat16"] | None = None,
    in_keys: str | Sequence[NestedKey] = ("observation",),
    action_key: NestedKey = "action",
) -> ProbabilisticActor:
    """Gaussian policy for TorchRL's ``ClipPPOLoss``, with the sizes of :class:`VelocityMLP`.

    Keys: reads the one observation of ``in_keys``; writes the action, ``"loc"`` and ``"scale"``, each
    ``[*batch, act]``, and the log-probability ``[*batch]``.

    Args:
        squash: ``"tanh"`` to the bounds, or ``"none"``, where the environment clips.
        action_low, action_high: bounds of the action for ``"tanh"``.
        in_keys, action_key: where the observation is, and where the action is written.
        obs_dim, action_dim, hidden_sizes, std, init_std, activation, init, normalizer, autocast: as in
            :class:`GaussianMLP`.

    Raises:
        ValueError: for a standard deviation that is not positive, or an unknown choice.

    >>> from tensordict import TensorDict
    >>> actor = gaussian_actor(obs_dim=3, action_dim=2)
    >>> actor(TensorDict(observation=torch.zeros(4, 3), batch_size=4))["action"].shape
    torch.Size([4, 2])
    """
    check_choice("squash", squash, ("tanh", "none"))
    network = GaussianMLP(
        obs_dim,
        action_dim,
        hidden_sizes=hidden_sizes,
        std=std,
        init_std=init_std,
        activation=activation,
        init=init,
        normalizer=normalizer,
        autocast=autocast,
    )
    in_keys = [in_keys] if isinstance(in_keys, str) else [*in_keys]
    bounds = {"low": action_low, "high": action_high, "tanh_loc": False, "upscale": 1.0} if squash == "tanh" else {}
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=in_keys, out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=[action_key],
        distribution_class=TanhNormal if squash == "tanh" else IndependentNormal,
        distribution_kwargs=bounds,
        return_log_prob=True,
    )
