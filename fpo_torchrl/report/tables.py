"""The tables of a report."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpo_torchrl.evaluation import decimals_of
from fpo_torchrl.text import Table, duration

from .runs import Results, RunRecord
from .statistics import Estimate, difference, estimate, iqm, mean, probability_of_improvement


def show(found: Estimate, decimals: int, *, sign: str = "") -> str:
    """An estimate with its interval, where there is one; with ``sign="+"`` positive numbers have one too.

    >>> show(Estimate(-0.001, -0.5, 0.25), 2, sign="+"), show(Estimate(3.0, float("nan"), float("nan")), 0)
    ('+0.00 [-0.50, +0.25]', '3')
    """
    # Adding 0 makes a 0 of a -0.
    value, low, high = (
        f"{round(float(it), decimals) + 0.0:{sign}.{decimals}f}" for it in (found.value, found.low, found.high)
    )
    return value if math.isnan(float(found.low)) else f"{value} [{low}, {high}]"


def main_table(results: Results) -> Table:
    """Tasks by algorithms: mean return with its interval and the runs behind it; then mean and IQM over tasks."""
    rows = []
    for task in results.tasks:
        decimals = decimals_for(results.scores(task, label) for label in results.labels)
        rows.append([task, *(task_cell(results, task, label, decimals) for label in results.labels)])
    shared = results.shared_tasks
    aggregates = []
    if shared:
        of = f"{len(shared)} of {len(results.tasks)} tasks" if len(shared) < len(results.tasks) else "all tasks"
        decimals = decimals_for(sample for label in results.labels for sample in results.samples(label))
        for name, statistic in (("mean", mean), ("IQM", iqm)):
            cells = [show(estimate(statistic, results.samples(label)), decimals) for label in results.labels]
            aggregates.append([f"{name}, {of}", *cells])
    return Table(["task", *results.labels], rows + aggregates, num_aggregates=len(aggregates))


def decimals_for(samples: Iterable[np.ndarray]) -> int:
    """Decimals of one row of the main table: as many as the largest of its scores needs.

    >>> decimals_for([np.array([820.0, 0.3])]), decimals_for([np.array([-0.27]), np.array([])])
    (0, 3)
    """
    return decimals_of(max(np.abs(sample).max(initial=0.0) for sample in samples))


def task_cell(results: Results, task: str, label: str, decimals: int) -> str:
    """One cell of the main table: "812 [790, 830] (5, 1 diverged)"."""
    group, scores = results.group(task, label), results.scores(task, label)
    if not group:
        return "-"
    failed = Counter(run.status for run in group if run.status != "finished")
    value = show(estimate(mean, [scores]), decimals) if len(scores) else "-"
    counts = [str(len(scores)), *(f"{number} {status}" for status, number in sorted(failed.items()))]
    return f"{value} ({', '.join(counts)})"


def failures_table(results: Results, out: Path) -> Table | None:
    """Every run that has not finished, with what stopped it and where it is from ``out``; None if all have."""
    rows = [
        [
            task,
            label,
            str(run.seed),
            run.status,
            f"{run.frames:,}",
            run.provenance.get("error") or "",
            relative(run.directory, out),
        ]
        for task, label, group in results.groups()
        for run in group
        if run.status != "finished"
    ]
    return Table(["task", "algorithm", "seed", "status", "frames", "error", "directory"], rows) if rows else None


def relative(directory: Path, out: Path) -> str:
    """``directory`` as seen from ``out``, so that a report can be moved with its runs."""
    return Path(os.path.relpath(directory, out)).as_posix()


def improvements(results: Results) -> dict[str, Estimate]:
    """Probability that the first algorithm earns more than each other, over the shared tasks."""
    first, *others = results.labels
    if not results.shared_tasks:
        return {}
    samples = results.samples(first)
    return {
        f"{first} > {other}": estimate(probability_of_improvement, samples + results.samples(other)) for other in others
    }


def differences_table(results: Results) -> Table | None:
    """By how much the mean return of the first algorithm is above that of each other; None if there is none."""
    first, *others = results.labels
    rows = []
    for task in results.tasks if others else ():
        scores = {label: results.scores(task, label) for label in results.labels}
        decimals = decimals_for(scores.values())
        rows.append([task, *(above(scores[first], scores[other], decimals) for other in others)])
    return Table(["task", *(f"{first} - {other}" for other in others)], rows) if rows else None


def above(scores: np.ndarray, others: np.ndarray, decimals: int) -> str:
    """By how much the mean of ``scores`` is above that of the ``others``, with its interval.

    >>> above(np.array([3.0, 3.0]), np.array([1.0, 1.0]), 0), above(np.array([3.0]), np.array([]), 0)
    ('+2 [+2, +2]', '-')
    """
    return show(estimate(difference, [scores, others]), decimals, sign="+") if len(scores) and len(others) else "-"


def cost_table(results: Results) -> Table:
    """Speed and time of a run: one row for each task and device, means over runs."""
    rows = []
    for task in results.tasks:
        runs = [run for run in results.runs if run.task == task and run.metrics]
        for device in sorted({run.device for run in runs}):
            cells = [cost([r for r in runs if (r.label, r.device) == (label, device)]) for label in results.labels]
            rows.append([task, *cells, device])
    return Table(["task", *results.labels, "device"], rows)


def cost(runs: Sequence[RunRecord]) -> str:
    """Mean speed of some runs, and the mean time of those that finished."""
    if not runs:
        return "-"
    speed = f"{np.mean([run.frames_per_s for run in runs]):,.0f} frames/s"
    times = [run.training_s for run in runs if run.status == "finished"]
    return f"{speed}, {duration(float(np.mean(times)))}" if times else speed


def plural(number: int, noun: str) -> str:
    """A count of things.

    >>> plural(1, "run"), plural(3, "task")
    ('1 run', '3 tasks')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def measures_table(results: Results) -> Table | None:
    """What was measured besides the return, for each seed; None if nothing was."""
    rows = []
    for task, label, group in results.groups():
        for name in dict.fromkeys(name for run in group for name in run.measures):
            cells = (f"{run.measures[name]:.3g}" if name in run.measures else "-" for run in group)
            rows.append([task, label, name, ", ".join(cells)])
    return Table(["task", "algorithm", "measure", "each seed"], rows) if rows else None


def provenance_table(results: Results) -> Table:
    """Machines, versions and dates behind the runs, and how many runs each."""
    counts: Counter[tuple[str, ...]] = Counter()
    dates: dict[tuple[str, ...], list[str]] = {}
    for run in results.runs:
        origin: dict[str, Any] = run.origin
        machine, versions = origin.get("machine", {}), origin.get("versions", {})
        known = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        key = (run.device, machine.get("system", "unknown"), known or "unknown", origin.get("commit") or "-")
        counts[key] += 1
        dates.setdefault(key, []).append(origin.get("date", "unknown")[:10])
    rows = []
    for key, number in counts.items():
        first, last = min(dates[key]), max(dates[key])
        rows.append([str(number), *key, first if first == last else f"{first} to {last}"])
    return Table(["runs", "device", "system", "versions", "commit", "date"], rows)
