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
    """Median and 99th percentile in milliseconds of each of ``calls``, on one thread of torch, and its CPU time.

    They are timed in turns, a few calls each, so that other work on the machine falls on all of them alike. Where there
    is much of it, the median of the CPU time (of all threads of the process) is what a call would take without it.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    with one_thread():
        for call in calls.values():
            for _ in range(WARM_UP):
                call()
        for _ in range(-(-num_calls // CALLS_PER_TURN)):
            for name, call in calls.items():
                for _ in range(CALLS_PER_TURN):
                    started, cpu = time.perf_counter(), time.process_time()
                    call()
                    seconds[name].append((time.perf_counter() - started, time.process_time() - cpu))
    return {name: summary(*1e3 * np.transpose(values)) for name, values in seconds.items()}


def summary(wall_ms: np.ndarray, cpu_ms: np.ndarray) -> dict[str, float]:
    """What is told of the calls of one function."""
    median, p99 = np.percentile(wall_ms, [50, 99])
    return {"median_ms": float(median), "p99_ms": float(p99), "cpu_ms": float(np.median(cpu_ms))}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch's arithmetic on one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
