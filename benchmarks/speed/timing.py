"""Work timed in turns, so that other load on the machine hits every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


class Seconds(NamedTuple):
    """What one unit of work took."""

    wall: float
    cpu: float
    """Of all threads of the process: on a busy machine the better measure of work on a CPU, none of a GPU's."""


Work = Callable[[], Seconds | None]
"""One unit of work; it returns its own seconds where it was done, and timed, in another process."""


def unreported(call: Callable[[], Any]) -> Work:
    """``call`` as work that is timed from outside, whatever it returns."""

    def work() -> None:
        call()

    return work


def take_turns(
    contenders: Mapping[str, Work], *, rounds: int, turn_s: float = 0.05, pause_s: float = 0.3
) -> dict[str, list[Seconds]]:
    """Seconds of one unit of work of every contender in every round, after a round that does not count.

    Args:
        contenders: work by name.
        rounds (int): how often each has its turn.
        turn_s (float): short work is repeated for so many seconds in one turn.
        pause_s (float): before each turn, in which the threads of the one before stop looking for work.
    """
    for work in contenders.values():
        seconds(work, 0.0)
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            time.sleep(pause_s)
            taken[name].append(seconds(work, turn_s))
    return taken


def seconds(work: Work, turn_s: float) -> Seconds:
    """Mean seconds of ``work``, repeated for at least ``turn_s`` seconds."""
    calls, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while True:
        reported = work()
        if reported is not None:
            return reported
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        calls, elapsed = calls + 1, time.perf_counter() - start
        if elapsed >= turn_s:
            return Seconds(elapsed / calls, (time.process_time() - cpu_start) / calls)


def compare(taken: Mapping[str, list[Seconds]], base: str = "ours") -> dict[str, dict[str, float]]:
    """Median seconds of each contender, and how many times the base's it needs: the median of the rounds' ratios."""
    table = {}
    for name, of_rounds in taken.items():
        pairs = [*zip(of_rounds, taken[base], strict=True)]
        ratios = sorted(mine.wall / base_s.wall for mine, base_s in pairs)
        table[name] = {
            "median_s": statistics.median(mine.wall for mine in of_rounds),
            f"over_{base}": statistics.median(ratios),
            "lowest_ratio": ratios[0],
            "highest_ratio": ratios[-1],
            f"cpu_over_{base}": statistics.median(mine.cpu / base_s.cpu for mine, base_s in pairs),
        }
    return table
