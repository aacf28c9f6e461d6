"""Velocity networks and time embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fpo_torchrl.modules.hooks import is_hooked
from fpo_torchrl.modules.perceptron import Perceptron


class CosSinTimeEmbedding(nn.Module):
    """``[cos(2^k t), sin(2^k t)]`` for ``k = 0 ... num_features / 2 - 1``: the authors' embedding.

    Source: akanazawa/fpo, playground/src/flow_policy/fpo.py:163-170 (no factor of two pi).

    Args:
        num_features (int): size of the embedding, a positive even number.
    """

    frequencies: Tensor

    def __init__(self, num_features: int = 8) -> None:
        super().__init__()
        if num_features < 2 or num_features % 2:
            raise ValueError(f"num_features must be a positive even number, got {num_features}")
        self.num_features = num_features
        self.register_buffer("frequencies", 2.0 ** torch.arange(num_features // 2))

    def forward(self, time: Tensor) -> Tensor:
        """Embed ``time`` ``[..., 1]`` as ``[..., num_features]``."""
        angle = time * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], -1)


class IdentityTimeEmbedding(nn.Module):
    """The time itself, as the authors' GridWorld policy takes it (gridworld/models/diffusion_policy.py:54)."""

    num_features = 1

    def forward(self, time: Tensor) -> Tensor:
        """``time`` ``[..., 1]``."""
        return time


class FourierTimeEmbedding(CosSinTimeEmbedding):
    """Random Fourier features ``[cos(2 pi f t), sin(2 pi f t)]``, ``f ~ N(0, scale^2)`` drawn once.

    Source: Tancik et al. 2020 (arXiv 2006.10739). The frequencies are a buffer, so they are saved.

    Args:
        num_features (int): size of the embedding, a positive even number.
        scale (float): standard deviation of the frequencies, in cycles over the flow's unit of time.
    """

    def __init__(self, num_features: int = 16, scale: float = 1.0) -> None:
        super().__init__(num_features)
        self.frequencies.copy_(2 * math.pi * scale * torch.randn(num_features // 2))


class VelocityMLP(Perceptron):
    """Perceptron that predicts the velocity of the flow from observation, point on the path and time.

    The three inputs need not have the same leading dimensions, only broadcastable ones: the observation
    enters the first layer through its own columns of the weight, so an observation ``[*batch, 1, obs]``
    is multiplied once for all ``mc`` pairs of an action. A network of your own takes its place if it
    has the same call and an ``action_dim``; a subclass that overrides ``forward`` alone is called in full.

    Args:
        obs_dim (int): size of the observation.
        action_dim (int): size of the action.
        hidden_sizes: widths of the hidden layers (default: the authors' 4 x 32).
        time_embedding: module from ``[..., 1]`` to ``[..., num_features]`` with an attribute
            ``num_features``; default :class:`CosSinTimeEmbedding` with 8 features.
        activation: between layers, ``"silu"``, ``"relu"``, ``"tanh"`` or a class.
        init: of the weights, Brax's ``"lecun_uniform"`` or ``"torch"``, that of ``nn.Linear``.
        output_scale (float): factor on the output; the authors' 0.25 keeps the first policy near the
            start noise.
        autocast: ``"bfloat16"`` computes the layers in it, wherever the network is called; velocities, and so losses
            and ratios, stay in the precision of ``x_t``.

    >>> net = VelocityMLP(obs_dim=3, action_dim=2)
    >>> net(torch.zeros(5, 1, 3), torch.zeros(5, 8, 2), torch.zeros(5, 8, 1)).shape
    torch.Size([5, 8, 2])
    """

    has_condition = True
    """Whether :meth:`condition` may be called in place of ``forward``; a network of your own can say so too."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden_sizes: Sequence[int] = (32, 32, 32, 32),
        time_embedding: nn.Module | None = None,
        activation: str | Callable[[], nn.Module] = "silu",
        init: Literal["lecun_uniform", "torch"] = "lecun_uniform",
        output_scale: float = 0.25,
        autocast: Literal["bfloat16"] | None = None,
    ) -> None:
        time_embedding = time_embedding if time_embedding is not None else CosSinTimeEmbedding()
        num_inputs = obs_dim + action_dim + time_embedding.num_features  # pyright: ignore[reportOperatorIssue]
        sizes = [num_inputs, *hidden_sizes, action_dim]
        super().__init__(sizes, activation=activation, init=init, autocast=autocast)
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.output_scale = output_scale
        self.time_embedding = time_embedding

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        definer = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in ("condition", "forward")}
        # Otherwise an inherited condition would answer for the forward that it was written beside.
        cls.has_condition = issubclass(definer["condition"], definer["forward"])

    def forward(self, observation: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        """Velocity ``[*batch, action_dim]`` at ``x_t`` ``[*batch, action_dim]``.

        ``observation`` ``[..., obs_dim]`` and ``time`` ``[..., 1]`` broadcast against ``x_t``.
        """
        return self.condition(observation)(x_t, time)

    def condition(self, observation: Tensor, *others: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity field ``(x_t, time) -> velocity`` of one observation, whose share is computed once.

        A solver calls the field many times for the same observation. A network without ``has_condition``, or with
        hooks, is called in full each time; so is a first layer that is another module or has hooks.
        """
        if others:
            raise ValueError(
                f"{type(self).__name__} takes one observation, got {1 + len(others)}: concatenate them, as TorchRL's "
                "transform CatTensors does, and give its key as in_keys"
            )
        enter = self._first_layer(observation)

        def field(x_t: Tensor, time: Tensor) -> Tensor:
            with self.precision(x_t):
                h = enter(x_t, self.time_embedding(time))
                for layer in self.layers[1:]:
                    h = layer(self.activation(h))
            return h.to(x_t.dtype) * self.output_scale

        return field

    def _first_layer(self, observation: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What the first layer makes of ``x_t`` and the embedded time beside ``observation``."""
        first = self.layers[0]
        if type(first) is not nn.Linear or is_hooked(first):

            def enter(x_t: Tensor, time: Tensor) -> Tensor:
                inputs = (observation, x_t, time)
                batch = torch.broadcast_shapes(*(tensor.shape[:-1] for tensor in inputs))
                return first(torch.cat([tensor.expand(*batch, -1) for tensor in inputs], -1))

            return enter
        sizes = [self.obs_dim, self.action_dim, self.time_embedding.num_features]
        of_observation, of_x_t, of_time = first.weight.split(sizes, dim=1)
        linear = nn.functional.linear
        with self.precision(observation):
            share = linear(observation, of_observation, first.bias)
        return lambda x_t, time: linear(x_t, of_x_t) + (share + linear(time, of_time))


class ValueMLP(Perceptron):
    """Perceptron from an observation to its value.

    Args:
        obs_dim (int): size of the observation.
        hidden_sizes: widths of the hidden layers (default: the authors' 5 x 256).
        activation: between layers, ``"silu"``, ``"relu"``, ``"tanh"`` or a class.
        init: of the weights, Brax's ``"lecun_uniform"`` or ``"torch"``, that of ``nn.Linear``.
        normalizer: module applied to the observation first, for example the actor's.
        autocast: as in :class:`VelocityMLP`.

    >>> ValueMLP(obs_dim=3, hidden_sizes=(16,))(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        obs_dim: int,
        *,
        hidden_sizes: Sequence[int] = (256, 256, 256, 256, 256),
        activation: str | Callable[[], nn.Module] = "silu",
        init: Literal["lecun_uniform", "torch"] = "lecun_uniform",
        normalizer: nn.Module | None = None,
        autocast: Literal["bfloat16"] | None = None,
    ) -> None:
        super().__init__([obs_dim, *hidden_sizes, 1], activation=activation, init=init, autocast=autocast)
        self.normalizer = normalizer

    def forward(self, observation: Tensor) -> Tensor:
        """Value ``[*batch, 1]`` of ``observation`` ``[*batch, obs_dim]``."""
        return super().forward(observation if self.normalizer is None else self.normalizer(observation))
