"""What the networks here have in common: linear layers, the activations between them, initialisation and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fpo_torchrl.checks import check_choice

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


def make_activation(activation: str | Callable[[], nn.Module]) -> nn.Module:
    """The activation of a name, or of a class of one's own."""
    if not isinstance(activation, str):
        return activation()
    check_choice("activation", activation, ACTIVATIONS, other="a class")
    return ACTIVATIONS[activation]()


def lecun_uniform_(layer: nn.Linear) -> None:
    """Initialise as Brax and the authors' MuJoCo code do: weights of variance ``1 / fan_in``, biases zero."""
    bound = (3 / layer.in_features) ** 0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)


INITS: dict[str, Callable[[nn.Linear], None]] = {"lecun_uniform": lecun_uniform_, "torch": lambda layer: None}
"""Initialisations: Brax's, and the one that torch gives a layer by itself (the authors' GridWorld code)."""


def dense_layers(sizes: Sequence[int], init: str = "lecun_uniform") -> nn.ModuleList:
    """Linear layers between consecutive ``sizes``."""
    if min(sizes) < 1:
        raise ValueError(f"hidden_sizes must be at least 1 each, got {list(sizes[1:-1])}")
    check_choice("init", init, INITS)
    layers = nn.ModuleList()
    for num_in, num_out in pairwise(sizes):
        layers.append(nn.Linear(num_in, num_out))
        INITS[init](layers[-1])
    return layers


class Perceptron(nn.Module):
    """Linear layers between consecutive sizes, with an activation between them.

    Args:
        sizes: of the input, of each hidden layer and of the output.
        activation: between layers, ``"silu"``, ``"relu"``, ``"tanh"`` or a class.
        init: of the weights, Brax's ``"lecun_uniform"`` or ``"torch"``, that of ``nn.Linear``.
        autocast: ``"bfloat16"`` computes the layers in it; what comes out stays in the precision of what went in.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Callable[[], nn.Module] = "silu",
        init: Literal["lecun_uniform", "torch"] = "lecun_uniform",
        autocast: Literal["bfloat16"] | None = None,
    ) -> None:
        super().__init__()
        check_choice("autocast", autocast, ("bfloat16", None))
        self.autocast = autocast
        self.layers = dense_layers(sizes, init)
        self.activation = make_activation(activation)

    def precision(self, like: Tensor) -> AbstractContextManager:
        """What the layers run in, where ``like`` is: their weights' precision, or torch's autocast."""
        return nullcontext() if self.autocast is None else torch.autocast(like.device.type, torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[*batch, sizes[-1]]`` for ``inputs`` ``[*batch, sizes[0]]``."""
        first, *others = self.layers
        with self.precision(inputs):
            h = first(inputs)
            for layer in others:
                h = layer(self.activation(h))
        return h.to(inputs.dtype)
