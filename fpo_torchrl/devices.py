"""CUDA devices with an explicit index."""

from __future__ import annotations

import torch


def with_index(device: torch.device) -> torch.device:
    """``"cuda"`` as the CUDA device that torch would take for it; any other device as it is."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
