"""What a gradient step descends, and its compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor


def total_loss(
    loss: Callable[..., Any], minibatch: TensorDictBase, prefix: str = "loss_"
) -> tuple[Tensor, TensorDictBase]:
    """The sum of the losses whose names begin with ``prefix``, and all that ``loss`` reports, without gradient."""
    losses = loss(minibatch)
    total = [value for name, value in losses.items() if name.startswith(prefix)]
    return torch.stack(total).sum(), losses.detach()


def compiled(evaluate: Callable[..., tuple[Tensor, TensorDictBase]], device: torch.device | None) -> Callable[..., Any]:
    """``evaluate``, a total loss and its parts, compiled for batches of one size; on a GPU as CUDA graphs."""
    if device is None or device.type != "cuda":
        return torch.compile(evaluate, dynamic=False)
    graphs = torch.compile(evaluate, dynamic=False, mode="reduce-overhead")

    def evaluate_in_graph(minibatch: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
        torch.compiler.cudagraph_mark_step_begin()
        total, losses = graphs(minibatch)
        return total, losses.clone()  # the next call writes over what this one returned

    return evaluate_in_graph
