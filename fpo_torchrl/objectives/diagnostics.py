"""What a loss of a flow policy reports beside its losses, over what is not padding.

Padding has no weight, rather than being taken out: shapes that depend on values neither compile nor vectorise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fpo_torchrl.functional import effective_sample_size
from fpo_torchrl.objectives.trust_region import TrustRegion


def counted(valid: Tensor) -> Tensor:
    """What is not padding; all of a batch that is nothing else."""
    return valid | ~valid.any()


@torch.no_grad()
def ratio_diagnostics(
    log_ratio: Tensor,
    advantage: Tensor,
    trust_region: TrustRegion,
    extra: Mapping[str, Tensor],
    valid: Tensor | None,
) -> dict[str, Tensor]:
    """Statistics of the ratios and the means of ``extra``, as scalars.

    Args:
        log_ratio: logarithms of the ratios, ``[*batch, ratios]``.
        advantage: of each action, ``[*batch, 1]``.
        trust_region: outside of which ratios count as clipped.
        extra: further numbers of each action by name, ``[*batch]``.
        valid: what is not padding, ``[*batch, 1]``; None if nothing is marked.
    """
    ratio = log_ratio.exp()
    clipped = trust_region.is_outside(ratio).to(ratio.dtype)
    positive = (advantage >= 0).to(ratio.dtype).expand_as(ratio)
    counts = None if valid is None else counted(valid)

    def mean(of: Tensor) -> Tensor:
        return of.mean() if counts is None else share(of, torch.ones_like(of))

    def share(of: Tensor, among: Tensor) -> Tensor:
        if counts is not None:  # by its place, as padding may be infinite
            of, among = of.where(counts, 0.0), among * counts
        return (of * among).sum() / among.sum().clamp_min(1)

    return {
        "mean_ratio": mean(ratio),
        "min_ratio": (ratio if counts is None else ratio.where(counts, math.inf)).amin(),
        "max_ratio": (ratio if counts is None else ratio.where(counts, -math.inf)).amax(),
        "ESS": effective_sample_size(log_ratio, counts),
        "clip_fraction": mean(clipped),
        "clip_fraction_positive": share(clipped, positive),
        "clip_fraction_negative": share(clipped, 1 - positive),
        **{name: mean(value.unsqueeze(-1)) for name, value in extra.items()},
    }
