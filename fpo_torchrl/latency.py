"""How long calls take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

CALLS_PER_TURN, WARM_UP = 20, 20


@torch.no_grad()
def latencies(calls: Mapping[str, Callable[[], Any]], num_calls: int = 2000) -> dict[str, dict[str, float]]:
    """Median and 99th percentile in milliseconds of each of ``calls``, on one thread of torch.

    They are timed in turns, a few calls each, so that other work on the machine falls on all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with one_thread():
        for call in calls.values():
            for _ in range(WARM_UP):
                call()
        for _ in range(-(-num_calls // CALLS_PER_TURN)):
            for name, call in calls.items():
                for _ in range(CALLS_PER_TURN):
                    started = time.perf_counter()
                    call()
                    seconds[name].append(time.perf_counter() - started)
    return {
        name: {"median_ms": float(np.median(values)) * 1e3, "p99_ms": float(np.percentile(values, 99)) * 1e3}
        for name, values in seconds.items()
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch's arithmetic on one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
