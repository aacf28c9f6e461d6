"""What all pictures share, and that of a run: what it earned, and how far its updates went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fpo_torchrl.loggers import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Of Okabe and Ito, which colour-blind readers tell apart."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """The look that all axes share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def draw_learning_curve(metrics: str | Path, path: str | Path, *, title: str) -> Path:
    """Draw return and ratio of a ``metrics.csv`` over frames, and save the picture.

    Args:
        metrics: the CSV file.
        path: where to write the PNG.
        title: above the picture.
    """
    rows = read_metrics(metrics)
    figure = new_figure(9, 3.6)
    returns, ratios = figure.subplots(1, 2)

    def curve(axes, name: str, **style) -> None:
        points = [(row["frames"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), **style)

    curve(returns, "return", color="tab:orange", label="training episodes, random start noise")
    curve(returns, "eval_zero", color="tab:blue", marker="o", markersize=3, label="evaluation, zero start noise")
    band = [(row["frames"], row["eval_zero_low"], row["eval_zero_high"]) for row in rows if "eval_zero" in row]
    if band:
        frames, low, high = zip(*band, strict=True)
        returns.fill_between(frames, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="its 95 % interval")
    returns.set(xlabel="frames", ylabel="return of an episode")
    returns.set_xlim(left=0)
    returns.spines[["right"]].set_visible(False)
    returns.legend(fontsize=8)

    curve(ratios, "ratio", color="tab:green", label="mean")
    band = [(row["frames"], row["ratio_min"], row["ratio_max"]) for row in rows if "ratio_min" in row]
    is_wide = any(largest > 10 * smallest for _, smallest, largest in band)
    if band:
        frames, low, high = zip(*band, strict=True)
        ratios.fill_between(frames, low, high, color="tab:green", alpha=0.15, linewidth=0, label="minimum to maximum")
    ratios.set(xlabel="frames", ylabel="ratio", yscale="log" if is_wide else "linear")  # a log axis has few labels
    ratios.margins(y=0.3)  # room for the legends
    ratios.legend(fontsize=8, loc="upper left")
    shares = ratios.twinx()
    curve(shares, "clip_fraction", color="tab:red", linewidth=1, label="clip fraction")
    shares.set(ylabel="clip fraction", ylim=(0, 1))
    shares.legend(fontsize=8, loc="upper right")
    for axes in (returns, ratios):
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        axes.spines[["top"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return Path(path)
