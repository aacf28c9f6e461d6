"""The pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from fpo_torchrl.plots import COLOURS, new_figure, tidy

from .runs import Results
from .statistics import Estimate, estimate, mean_curve, profile
from .tables import plural

STYLES = ("-", "--", "-.", ":")
CURVES = {
    "random": ("return", "return of training episodes"),
    "zero": ("eval_zero", "evaluation return, zero start noise"),
}
"""By metric, the column of ``metrics.csv`` that shows it during training, and its name on the axis."""
MAX_COLUMNS = 4


def styles(labels: list[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each algorithm, the same in every picture."""
    return {
        label: {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]}
        for i, label in enumerate(labels)
    }


def draw_curves(results: Results, path: Path) -> None:
    """Learning curves: a panel for each task; the mean over seeds with its interval, each seed as a thin line.

    A cross marks where a run diverged, a dot where another one stopped early.
    """
    column, name = CURVES[results.metric]
    rows = math.ceil(len(results.tasks) / MAX_COLUMNS)
    columns = math.ceil(len(results.tasks) / rows)  # six tasks are two rows of three
    figure = new_figure(max(4.6, 3.1 * columns), 2.6 * rows + 0.6)
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    look = styles(results.labels)
    for axes in grid[len(results.tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(grid, results.tasks, strict=False):
        tidy(axes)
        for label in results.labels:
            draw_group(axes, results, task, label, column, look[label])
        axes.set_title(task, fontsize=11)
        if not axes.lines:
            axes.text(0.5, 0.5, "no episode has ended", transform=axes.transAxes, ha="center", color="gray")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        low, high = axes.get_ylim()
        margin = 0.1 * (results.best - results.worst)
        is_inside = low >= results.worst - margin and high <= results.best + margin
        if is_inside and high - low > margin:  # smaller curves would be flat on the whole scale
            axes.set_ylim(min(results.worst, low), results.best + 0.3 * margin)
        axes.set_xlim(0, max(1, *(run.frames for run in results.runs if run.task == task)))
    for axes in grid[max(0, len(results.tasks) - columns) : len(results.tasks)]:
        axes.set_xlabel("frames")
    figure.supylabel(name, fontsize=10)
    add_legend(figure, look)
    figure.savefig(path, dpi=120)


def draw_group(axes: Axes, results: Results, task: str, label: str, column: str, look: dict[str, Any]) -> None:
    """The curves of an algorithm on a task."""
    group = results.group(task, label)
    for run in group:
        frames, values = run.series(column)
        axes.plot(frames, values, color=look["color"], linewidth=0.5, alpha=0.35)
        if len(frames) and run.status != "finished":
            mark = "x" if run.status == "diverged" else "o"
            axes.plot(frames[-1], values[-1], mark, color=look["color"], markersize=8, markeredgewidth=2.5, zorder=5)
    if (found := mean_curve(group, column, results.worst)) is not None:
        frames, curve = found
        axes.plot(frames, curve.value, linewidth=2, **look)
        axes.fill_between(frames, curve.low, curve.high, color=look["color"], alpha=0.18, linewidth=0)


def draw_profiles(results: Results, path: Path) -> None:
    """Performance profiles: the share of runs whose score is above a threshold, with its interval."""
    figure = new_figure(5.6, 4)
    axes = figure.subplots()
    tidy(axes)
    thresholds = np.linspace(results.worst, results.best, 201)
    look = styles(results.labels)
    for label in results.labels:
        found = estimate(profile(thresholds), results.samples(label))
        axes.plot(thresholds, found.value, linewidth=2, **look[label])
        axes.fill_between(thresholds, found.low, found.high, color=look[label]["color"], alpha=0.2, linewidth=0)
    axes.set(
        xlabel="return τ",
        ylabel="share of runs with return > τ",
        xlim=(results.worst, results.best),
        ylim=(0, 1.02),
        title=plural(len(results.shared_tasks), "task"),
    )
    add_legend(figure, look)
    figure.savefig(path, dpi=120)


def draw_improvements(found: Mapping[str, Estimate], path: Path) -> None:
    """Probabilities of improvement as points with their intervals; one half means no difference."""
    figure = new_figure(6, 1.5 + 0.45 * len(found))
    axes = figure.subplots()
    tidy(axes)
    axes.axvline(0.5, color="0.4", linewidth=1, linestyle="--")
    for height, value in enumerate(found.values()):
        axes.plot(
            [value.low, value.high], [height, height], color=COLOURS[0], linewidth=6, alpha=0.35, solid_capstyle="butt"
        )
        axes.plot(value.value, height, "o", color=COLOURS[0], markersize=7)
    axes.set_yticks(range(len(found)), list(found), fontsize=10)
    axes.set(xlabel="probability of improvement", xlim=(-0.02, 1.02), ylim=(len(found) - 0.5, -0.5))
    figure.savefig(path, dpi=120)


def add_legend(figure: Figure, look: dict[str, dict[str, Any]]) -> None:
    """The algorithms, above all panels."""
    axes = figure.axes[0]
    lines = [axes.plot([], [], linewidth=2, label=label, **style)[0] for label, style in look.items()]
    for columns in range(min(len(lines), 5), 0, -1):
        legend = figure.legend(
            handles=lines, loc="outside upper center", ncols=columns, frameon=False, fontsize=10, handlelength=2.5
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
