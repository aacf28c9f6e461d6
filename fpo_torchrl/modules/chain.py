"""Policies in which other modules, such as a recurrent or convolutional encoder, come before the flow.

Such a policy is a ``TensorDictSequential`` that ends with a flow policy. The encoder runs once for an action; inside a
velocity network it would run once for every step of the solver. It runs again in every update, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.modules import GRUModule, LSTMModule

from fpo_torchrl.modules.sampler import FlowSampler


def acting_module(policy: Any) -> Any:
    """The last module of ``policy``, where its flow is; ``policy`` itself if it is no ``TensorDictSequential``."""
    while isinstance(policy, TensorDictSequential):
        policy = links(policy)[-1]
    return policy


def is_flow(policy: Any) -> bool:
    """Whether actions come from a flow, with or without modules before it; if not, from a Gaussian."""
    return isinstance(acting_module(policy), FlowSampler)


def check_encoders(policy: Any) -> None:
    """Refuse a ``TensorDictSequential`` in which something before its flow acts too: ``ValueError``.

    What comes before the flow runs again in every update, and must write what it wrote at collection.
    """
    if not isinstance(policy, TensorDictSequential):
        return
    *encoders, last = links(policy)
    for module in (module for encoder in encoders for module in encoder.modules()):
        if isinstance(module, FlowSampler | ProbabilisticTensorDictModule):
            raise ValueError(
                f"before the flow of a policy only encoders can be trained, and there is a {type(module).__name__}, "
                "which draws something itself: give each actor a loss of its own, and add the losses"
            )
    check_encoders(last)


def recurrent_modules(net: nn.Module) -> list[nn.Module]:
    """The recurrent modules of ``net``; TorchRL's losses run them along the last dimension of the batch."""
    return [module for module in net.modules() if isinstance(module, GRUModule | LSTMModule)]


def encode(policy: Any, tensordict: TensorDictBase) -> TensorDictBase:
    """Run every module of ``policy`` before its flow on ``tensordict``, in place, and return it."""
    if isinstance(policy, TensorDictSequential):
        *encoders, last = links(policy)
        for encoder in encoders:
            if (written := encoder(tensordict)) is not tensordict:
                tensordict.update(written)
        return encode(last, tensordict)
    return tensordict


def for_inference(policy: Any, **sampling: Any) -> Any:
    """``policy`` with the view :meth:`FlowSampler.for_inference` of its flow, on the same weights."""
    if isinstance(policy, TensorDictSequential):
        *encoders, last = links(policy)
        return TensorDictSequential(*encoders, for_inference(last, **sampling))
    return policy.for_inference(**sampling)


def links(policy: TensorDictSequential) -> Sequence[TensorDictModuleBase]:
    """The modules of ``policy`` in order."""
    modules = policy.module
    return [*modules.values()] if isinstance(modules, nn.ModuleDict) else [*modules]
