"""Estimates with 95 % intervals from few runs on several tasks.

Intervals are stratified percentile bootstraps: runs are drawn again within each task, never across tasks
(Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section 4). With few
seeds they are too narrow, since no resample leaves the range of the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .runs import RunRecord

NUM_RESAMPLES = 5000
MAX_POINTS = 200
"""Points of a curve at most."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the bounds are NaN where a task has one run only."""

    value: Any
    low: Any
    high: Any


def mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of the mean over runs; one sample per task."""
    return np.mean([sample.mean(axis) for sample in samples], axis=0)


def iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean of all tasks' runs without the lowest and the highest quarter of them.

    A quarter is rounded down: of three runs none is left out.
    """
    return stats.trim_mean(np.concatenate(samples, axis), 0.25, axis=axis)


def profile(thresholds: np.ndarray) -> Callable[..., np.ndarray]:
    """The statistic that gives, for each of ``thresholds``, the share of runs above it, averaged over tasks."""

    def shares(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.stack([mean(*(sample > threshold for sample in samples), axis=axis) for threshold in thresholds])

    return shares


def difference(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean return of X minus that of Y, averaged over tasks.

    Args:
        samples: X on each task, then Y on each of the same tasks.
    """
    num_tasks = len(samples) // 2
    return mean(*samples[:num_tasks], axis=axis) - mean(*samples[num_tasks:], axis=axis)


def probability_of_improvement(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Probability that a run of X earns more than a run of Y, averaged over tasks; a tie counts half.

    Args:
        samples: X on each task, then Y on each of the same tasks.
    """
    num_tasks = len(samples) // 2
    probabilities = []
    for x, y in zip(samples[:num_tasks], samples[num_tasks:], strict=True):
        x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        probabilities.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(probabilities, axis=0)


def estimate(statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], *, axis: int = -1) -> Estimate:
    """A statistic of ``samples``, one array per task, and its stratified bootstrap interval.

    Args:
        statistic: function of the samples and ``axis``, along which the runs of each lie.
        samples: at least one, each with at least one run; they may differ in their number of runs.
    """
    value = statistic(*samples, axis=axis)
    if min(sample.shape[axis] for sample in samples) < 2:
        return Estimate(value, np.full_like(value, np.nan, dtype=float), np.full_like(value, np.nan, dtype=float))
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=NUM_RESAMPLES,
        axis=axis,
        batch=500,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, interval.low, interval.high)


def mean_curve(group: Sequence[RunRecord], column: str, worst: float = 0.0) -> tuple[np.ndarray, Estimate] | None:
    """Frames, and the mean over seeds of a column of the metrics with its interval.

    Runs are interpolated to common frames. As in the scores, a diverged run counts as ``worst`` from its end on and an
    unfinished one is left out.

    Returns:
        None where no run has values, or the runs have no frames in common.
    """
    series = {run: run.series(column) for run in group if run.status in ("finished", "diverged")}
    series = {run: points for run, points in series.items() if run.status == "diverged" or len(points[0])}
    spans = [frames for run, (frames, _) in series.items() if run.status == "finished"]
    spans = spans or [frames for frames, _ in series.values() if len(frames)]
    if not spans:
        return None
    first = max(frames[0] for frames, _ in series.values() if len(frames))
    last = min(frames[-1] for frames in spans)
    grid = np.unique(np.concatenate([frames for frames, _ in series.values()]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        return None
    grid = grid[np.unique(np.linspace(0, len(grid) - 1, MAX_POINTS).round().astype(int))]
    values = []
    for run, (frames, value) in series.items():
        right = worst if run.status == "diverged" else None
        values.append(np.interp(grid, frames, value, right=right) if len(frames) else np.full_like(grid, worst))
    return grid, estimate(mean, [np.stack(values)], axis=0)
