"""Writing a policy to a file, and comparing the file with the policy."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpo_torchrl.checks import check_choice
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.modules import FlowPolicy

from .formats import FORMATS

TOLERANCE = 1e-5
"""Largest difference between file and policy, as a share of half a coordinate's range, or of a larger action."""


@torch.no_grad()
def export_policy(
    policy: FlowPolicy,
    inputs: Mapping[str, Tensor],
    path: Path,
    *,
    format: str = "onnx",
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write ``policy`` to ``path``, and return the largest difference of the file's actions from the policy's.

    The file is whole or absent: one that does not agree with the policy is not left behind.

    Args:
        policy: what to export, on the CPU.
        inputs: observations ``[batch, ...]``, and the start noise where the policy takes it, in the order of the
            policy's arguments and under the names that an ONNX model gives them; a batch of at least 2.
        path: where to write.
        format: ``"onnx"``, ``"torch.export"`` or ``"torchscript"``.
        metadata: stored in the file, values that JSON can hold.

    Raises:
        ConfigError: for an unknown format, a batch of one, a package that is not installed, or a file that computes
            other actions (:data:`TOLERANCE`).
    """
    check_choice("format", format, FORMATS, error=ConfigError)
    expected = policy(*inputs.values())
    if min(len(value) for value in inputs.values()) < 2:
        raise ConfigError("the example inputs need a batch of at least 2, so that the batch size stays free")
    try:
        for package in FORMATS[format].packages:
            importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"format {format} needs a package ({error}): pip install fpo-torchrl[export]") from error
    partial = path.with_name(f"partial-{path.name}")
    try:
        FORMATS[format].write(policy, {name: value[:2] for name, value in inputs.items()}, partial, metadata or {})
        found = FORMATS[format].read(partial)(*inputs.values())
        error = (found - expected).abs().max().item()
        if not ((found - expected).abs() <= TOLERANCE * policy.flow.half_range.maximum(expected.abs())).all():
            raise ConfigError(
                f"the exported policy's actions differ from the actor's by {error:.1e}: nothing was written"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return error
