"""What a gradient step descends, and its compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor


def total_loss(
    loss: Callable[..., Any], minibatch: TensorDictBase, *, critic_only: bool = False
) -> tuple[Tensor, TensorDictBase]:
    """The sum of all losses or the critic's alone, and all that ``loss`` reports, without gradient."""
    losses = loss(minibatch)
    prefix = "loss_critic" if critic_only else "loss_"
    total = [value for name, value in losses.items() if name.startswith(prefix)]
    return torch.stack(total).sum(), losses.detach()


def has_graphs(device: torch.device | None) -> bool:
    """Whether what is compiled for ``device`` is replayed as a CUDA graph."""
    return device is not None and device.type == "cuda"


def compile_settings(device: torch.device | None) -> dict[str, Any]:
    """What ``torch.compile`` is given for inputs of one size: on a GPU the result is a CUDA graph."""
    return {"dynamic": False} | ({"mode": "reduce-overhead"} if has_graphs(device) else {})


def compiled(evaluate: Callable[..., tuple[Tensor, TensorDictBase]], device: torch.device | None) -> Callable[..., Any]:
    """``evaluate``, a total loss and its parts, compiled for batches of one size; on a GPU as CUDA graphs."""
    program = torch.compile(evaluate, **compile_settings(device))
    if not has_graphs(device):
        return program

    def evaluate_in_graph(minibatch: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
        torch.compiler.cudagraph_mark_step_begin()
        total, losses = program(minibatch)
        return total, losses.clone()  # the next call writes over what this one returned

    return evaluate_in_graph
