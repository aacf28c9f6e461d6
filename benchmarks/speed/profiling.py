"""Where each millisecond of a training iteration goes: by phase, and by kind of arithmetic."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fpo_torchrl.trainer import Trainer

KINDS = {
    "matrix product": ("mm", "addmm", "bmm", "baddbmm"),
    "activation": ("silu", "silu_backward", "softplus", "softplus_backward"),
    "gather and copy": ("copy_", "index", "cat", "stack", "clone", "gather", "index_select"),
    "optimiser": ("_fused_adam_",),
}
"""Operators by what they do; the rest of the operators counts as other elementwise work."""


def phases(trainer: Trainer) -> dict[str, float]:
    """Seconds of one iteration by phase; every phase waits for the device."""
    trainer.start()  # building the collector is no part of an iteration
    spent: Counter[str] = Counter()
    env, actor, loss, optimizer = trainer.env, trainer.actor, trainer.loss, trainer.optimizer
    with contextlib.ExitStack() as stack:
        for owner, method, phase in (
            *((env, name, "environment") for name in ("_step", "_reset")),
            (actor, "forward", "policy"),
            (trainer, "advantage", "advantage"),
            (loss, "forward", "loss"),
            (optimizer, "backward", "backward"),
            (optimizer, "limited_step", "limits and step"),
        ):
            stack.enter_context(timed(owner, method, phase, spent))
        metrics = next(iter(trainer))
    collecting = spent["environment"] + spent["policy"]
    updating = spent.total() - collecting
    rest = {"collection": metrics["collect_s"] - collecting, "update": metrics["update_s"] - updating}
    return {**spent, **{f"rest of {stage}": seconds for stage, seconds in rest.items()}}


@contextlib.contextmanager
def timed(owner: Any, name: str, phase: str, spent: Counter[str]) -> Iterator[None]:
    """Add the seconds of calls of ``owner.name`` to ``spent[phase]``."""
    call: Callable[..., Any] = getattr(owner, name)
    own = vars(owner).get(name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent[phase] += time.perf_counter() - start
        return result

    object.__setattr__(owner, name, counted)
    try:
        yield
    finally:
        object.__delattr__(owner, name) if own is None else object.__setattr__(owner, name, own)


def kinds(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Shares of the operators' own time in ``work``, by kind; on a GPU of the kernels that they start."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as record:
        work()
    spent: Counter[str] = Counter()
    by_operator = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    for event in record.key_averages():
        time_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        is_operator = event.key.startswith("aten::")
        if cuda and not is_operator:  # the kernels stand there once more, by themselves
            continue
        rest = "other elementwise" if is_operator else "Python, autograd and launches"
        spent[by_operator.get(event.key, rest)] += time_us
    total = sum(spent.values())
    return {kind: share / total for kind, share in spent.most_common()}
