"""What a run uses of its machine: cores and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

_ALLOCATOR_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of mallopt in glibc's malloc.h
_NEVER = -1  # as a size, the largest


def available_cores() -> int:
    """Cores that this process may use, which a scheduler or ``taskset`` may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_machine(num_threads: int | None) -> None:
    """Get this process ready to train.

    Args:
        num_threads (int, optional): of torch; by default as many as torch takes.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, instead of giving large tensors back to the system each time.

    An update on a CPU allocates and frees the same large tensors in every step, and the system clears each page that
    it hands out anew: with tensors of more than 32 MiB that took as long as the arithmetic. The process's memory then
    stays what it was at its largest. Where a variable of glibc's, such as ``MALLOC_TRIM_THRESHOLD_``, says how to
    allocate, and where there is no glibc, nothing happens. ``benchmarks/speed/allocator.py`` measures it.
    """
    if any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_MMAP_MAX, 0)  # what is mapped by itself would go back whatever the threshold
