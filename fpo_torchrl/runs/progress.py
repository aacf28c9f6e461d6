"""The progress bar of a run, or of several."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm

from fpo_torchrl.trainer import Trainer


def progress_bar(trainers: Iterable[Trainer], *, shown: bool) -> tqdm:
    """A bar of the frames of all ``trainers``, in whole batches, that begins where they are."""
    trainers = [*trainers]
    return tqdm(
        total=sum(it.whole_frames for it in trainers),
        initial=sum(it.frames for it in trainers),
        unit="frames",
        unit_scale=True,
        disable=not shown,
        file=sys.stdout,
        mininterval=0.5 if sys.stdout.isatty() else 10,
        bar_format="{percentage:3.0f}% {n_fmt}/{total_fmt} frames [{rate_fmt}, left {remaining}]{postfix}",
    )
