"""Work timed in turns, so that other load on the machine hits every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], float | None]
"""One unit of work; it returns its own seconds where it was done, and timed, in another process."""


def take_turns(contenders: Mapping[str, Work], *, rounds: int, turn_s: float = 0.05) -> dict[str, list[float]]:
    """Seconds of one unit of work of every contender in every round, after a round that does not count.

    Args:
        contenders: work by name.
        rounds (int): how often each has its turn.
        turn_s (float): short work is repeated for so many seconds in one turn.
    """
    for work in contenders.values():
        seconds(work, 0.0)
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            taken[name].append(seconds(work, turn_s))
    return taken


def seconds(work: Work, turn_s: float) -> float:
    """Mean seconds of ``work``, repeated for at least ``turn_s`` seconds."""
    calls, start = 0, time.perf_counter()
    while True:
        reported = work()
        if reported is not None:
            return reported
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        calls, elapsed = calls + 1, time.perf_counter() - start
        if elapsed >= turn_s:
            return elapsed / calls


def compare(taken: Mapping[str, list[float]], base: str = "ours") -> dict[str, dict[str, float]]:
    """Median seconds of each contender, and how many times the base's it needs: the median of the rounds' ratios."""
    table = {}
    for name, of_rounds in taken.items():
        ratios = sorted(mine / base_s for mine, base_s in zip(of_rounds, taken[base], strict=True))
        table[name] = {
            "median_s": statistics.median(of_rounds),
            f"over_{base}": statistics.median(ratios),
            "lowest_ratio": ratios[0],
            "highest_ratio": ratios[-1],
        }
    return table
