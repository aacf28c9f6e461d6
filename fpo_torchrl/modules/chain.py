"""Policies in which other modules, such as a recurrent or convolutional encoder, come before the flow.

Such a policy is a ``TensorDictSequential`` that ends with a flow policy. The encoder runs once for an action; inside a
velocity network it would run once for every step of the solver. It runs again in every update, and draws nothing.
"""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import GRUModule, LSTMModule

from fpo_torchrl.modules.sampler import FlowSampler


def acting_module(policy: Any) -> Any:
    """The last module of ``policy``, where its flow is; ``policy`` itself if it is no ``TensorDictSequential``."""
    return flattened(policy)[-1]


def require_flow(kind: type[FlowSampler], policy: Any, *, loss: str, advice: str = "") -> Any:
    """The flow of ``policy``; ``TypeError`` if it is of another ``kind`` than a loss trains."""
    flow = acting_module(policy)
    if not isinstance(unwrapped(flow), kind):
        raise TypeError(
            f"{loss} needs a {kind.__name__} as actor_network, alone or at the end of a TensorDictSequential, got "
            f"{type(policy).__name__}{advice}"
        )
    return flow


def is_flow(policy: Any) -> bool:
    """Whether actions come from a flow, with or without modules before it; if not, from a Gaussian."""
    return isinstance(unwrapped(acting_module(policy)), FlowSampler)


def unwrapped(module: Any) -> Any:
    """``module`` without what ``torch.compile`` or TensorDict's wrapper puts around it."""
    return getattr(module, "_orig_mod", getattr(module, "td_module", module))


def check_encoders(policy: Any) -> None:
    """Refuse a ``TensorDictSequential`` in which something before its flow acts too: ``ValueError``.

    What comes before the flow runs again in every update, and must write what it wrote at collection.
    """
    for module in (module for encoder in flattened(policy)[:-1] for module in encoder.modules()):
        if isinstance(module, FlowSampler | ProbabilisticTensorDictModule):
            raise ValueError(
                f"before the flow of a policy only encoders can be trained, and there is a {type(module).__name__}, "
                "which draws something itself: give each actor a loss of its own, and add the losses"
            )


def recurrent_modules(net: nn.Module) -> list[nn.Module]:
    """The recurrent modules of ``net``; TorchRL's losses run them along the last dimension of the batch."""
    return [module for module in net.modules() if isinstance(module, GRUModule | LSTMModule)]


def encode(policy: Any, tensordict: TensorDictBase) -> TensorDictBase:
    """Run every module of ``policy`` before its flow on ``tensordict``, in place, and return it."""
    tolerant = getattr(policy, "partial_tolerant", False)
    for encoder in flattened(policy)[:-1]:
        if tolerant and any(tensordict.get(key, None) is None for key in encoder.in_keys):
            continue
        if (written := encoder(tensordict)) is not tensordict:
            tensordict.update(written)
    return tensordict


def for_inference(policy: Any, **sampling: Any) -> Any:
    """``policy`` with the view :meth:`FlowSampler.for_inference` of its flow, on the same weights."""
    *encoders, flow = flattened(policy)
    flow = flow.for_inference(**sampling)
    return TensorDictSequential(*encoders, flow, partial_tolerant=policy.partial_tolerant) if encoders else flow


def flattened(policy: Any) -> list[Any]:
    """The modules of ``policy`` in order; a sequence at its end counts as the modules in it."""
    if not isinstance(policy, TensorDictSequential):
        return [policy]
    *encoders, last = policy.module.values() if isinstance(policy.module, nn.ModuleDict) else policy.module
    return [*encoders, *flattened(last)]
