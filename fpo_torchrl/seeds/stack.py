"""Several agents vectorized: their weights stacked, the functions of one agent mapped over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.flow import RandomSteps
from fpo_torchrl.modules.chain import acting_module
from fpo_torchrl.seeds.generator import AgentGenerator, DrawnByAgent
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.gradient import total_loss


@dataclass(frozen=True, eq=False)
class Member:
    """One agent of several: its trainer, and its random numbers."""

    trainer: Trainer
    generator: AgentGenerator


class Stack:
    """Policy and losses of several agents in one call each, by ``torch.vmap`` over their stacked weights.

    Each agent's modules, and with them its optimiser, evaluations and checkpoints, stay as they are: their weights
    and buffers become views of the stacked ones, and are to be changed in place only.

    Args:
        members: agents with the same networks.

    Raises:
        ConfigError: for what :func:`vmap_obstacle` names, and in each call, for a policy or loss that cannot be mapped.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        if (obstacle := vmap_obstacle(members[0].trainer)) is not None:
            raise ConfigError(f"{obstacle}: it needs vmap=false")
        self._actor, self._loss = members[0].trainer.actor, members[0].trainer.loss
        owned = zip(*([tensor for _, tensor in named_tensors(it.trainer.loss)] for it in members), strict=True)
        self._owned = {id(first): (first, *others) for first, *others in owned}
        self._stacked = {key: stack_in_place(tensors) for key, tensors in self._owned.items()}
        self._draws = DrawnByAgent([member.generator for member in members])

    def act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The policies' answers to ``tensordict`` ``[agents, num_envs]``."""
        return self._mapped(self._actor, lambda actor, tensordict: actor(tensordict), tensordict)

    def backward(self, minibatches: Sequence[TensorDictBase]) -> list[TensorDictBase]:
        """What each agent's loss reports of its minibatch, with the gradient in the ``grad`` of its weights."""
        total, losses = self._mapped(self._loss, total_loss, torch.stack([*minibatches]))
        trained = {key: stacked for key, stacked in self._stacked.items() if stacked.requires_grad}
        gradients = torch.autograd.grad(total.sum(), [*trained.values()], allow_unused=True)
        for key, gradient in zip(trained, gradients, strict=True):
            for index, weight in enumerate(self._owned[key]):
                # Contiguous, since a fused optimiser takes a gradient to be laid out as its weight is.
                weight.grad = None if gradient is None else gradient[index].contiguous()
        return [*losses.unbind(0)]

    def _mapped(self, module: nn.Module, compute: Callable[..., Any], data: TensorDictBase) -> Any:
        """``compute(module, data)`` of every agent; ``compute`` does nothing to the module but call it."""
        weights = {name: self._stacked[id(tensor)] for name, tensor in named_tensors(module)}

        def call(weights: dict[str, Tensor], data: TensorDictBase) -> Any:
            return compute(lambda inputs: functional_call(module, weights, (inputs,), tie_weights=False), data)

        try:
            with self._draws:
                return torch.vmap(call, randomness="different")(weights, data)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise ConfigError(
                f"these agents cannot be vectorized together: give vmap=false. Torch says: {error}"
            ) from error


def vmap_obstacle(trainer: Trainer) -> str | None:
    """What keeps a trainer's agent from being vectorized with others; None if nothing is known to."""
    if trainer.compile:
        return "trainer.compile=true compiles the loss of a single agent"
    if trainer.critic_warmup_frames:
        return f"trainer.critic_warmup_frames={trainer.critic_warmup_frames} changes what a single agent descends"
    if isinstance(getattr(acting_module(trainer.actor), "solver", None), RandomSteps):
        return "actor.solver draws its own number of steps for each agent"
    return None


def stack_in_place(tensors: Sequence[Tensor]) -> Tensor:
    """A leaf ``[agents, ...]`` with the values of ``tensors``, which become views of it."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stacked.unbind(0), strict=True):
        tensor.data = view
    return stacked.requires_grad_(tensors[0].requires_grad)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers, those of a submodule with two names under one of them, as ``functional_call`` needs it."""
    for prefix, submodule in module.named_modules():
        for name, tensor in itertools.chain(submodule._parameters.items(), submodule._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}".removeprefix("."), tensor
