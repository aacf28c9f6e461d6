"""Devices: whether they are there, and CUDA ones with an explicit index."""

from __future__ import annotations

import torch


def check_device(device: torch.device | str, error: type[Exception] = ValueError) -> torch.device:
    """``device`` as torch has it; ``error`` if it is none, or is not there."""
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as cause:
        raise error(f"device must be a torch device such as 'cpu' or 'cuda:0', got {device!r}") from cause
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise error(
            f"device {str(device)!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices. Take device=cpu"
        )
    return device


def with_index(device: torch.device) -> torch.device:
    """``"cuda"`` as the CUDA device that torch would take for it; any other device as it is."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
