"""What ``fpo-eval`` leaves behind: a table and a picture of one policy under many samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fpo_torchrl.evaluation import show_return
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.plots import COLOURS, new_figure, tidy
from fpo_torchrl.text import Table, write_csv

Rows = Sequence[Mapping[str, Any]]
COLUMNS = ("name", "steps", "evaluations", "noise", "mean", "low", "high", "policy_s", "action_spread")
"""Of a CSV: the sampler, velocity evaluations for an action, return with its interval, seconds for a policy call, and
how much actions differ in one state; neither the returns of single episodes nor where the rows are from."""
LINES = {"random": "-", "zero": "--", "fixed": ":"}


def write_markdown(path: Path, rows: Rows, origin: Mapping[str, Any]) -> None:
    """A table in Markdown, rounded, below a line on where it is from."""
    where = origin["machine"]["gpu"] or origin["machine"]["cpu"]
    head = (
        f"{origin['checkpoint']}, {len(rows[0]['returns'])} episodes from seed {origin['seed']}, {origin['date'][:10]} "
        f"on {where}."
    )
    titles = ["solver", "steps", "start noise", "return", "95 % interval", "ms for a call", "spread in one state"]
    cells = []
    for row in rows:
        sampler = [row["name"], str(row["steps"]), row["noise"]]
        cells.append([*sampler, *show_return(row), f"{1e3 * row['policy_s']:.2f}", f"{row['action_spread']:.2g}"])
    write_whole(path, f"{head}\n\n{Table(titles, cells).markdown(rule='---')}")


TABLE_WRITERS: dict[str, Callable[[Path, Rows, Mapping[str, Any]], None]] = {
    ".json": lambda path, rows, origin: write_json(path, {**origin, "rows": [*rows]}),
    ".csv": lambda path, rows, origin: write_csv(path, rows, COLUMNS),
    ".md": write_markdown,
}
"""What writes a table, by the ending of its file: of its rows, and of where they are from."""


def draw_samplers(rows: Rows, path: str | Path, *, title: str) -> Path:
    """Draw return and latency over the number of steps, a line for each solver and start noise.

    Args:
        rows: of ``fpo-eval``, all of a flow policy.
        path: where to write the PNG.
        title: above the picture.
    """
    figure = new_figure(9, 3.8)
    returns, latency = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["name"] for row in rows))
    ordered = sorted(rows, key=lambda row: (names.index(row["name"]), row["noise"], row["steps"]))
    for (name, noise), group in groupby(ordered, key=lambda row: (row["name"], row["noise"])):
        line = [*group]
        steps, look = [row["steps"] for row in line], {"color": COLOURS[names.index(name)], "linestyle": LINES[noise]}
        returns.plot(steps, [row["mean"] for row in line], marker="o", markersize=3.5, label=f"{name}, {noise}", **look)
        low, high = [row["low"] for row in line], [row["high"] for row in line]
        returns.fill_between(steps, low, high, color=look["color"], alpha=0.1, linewidth=0)
        latency.plot(steps, [1e3 * row["policy_s"] for row in line], marker="o", markersize=3.5, **look)
    returns.set(ylabel="return of an episode")
    latency.set(ylabel="milliseconds for a policy call", yscale="log")
    for axes in (returns, latency):
        axes.set(xlabel="solver steps", xscale="log")
        steps = sorted({row["steps"] for row in rows})
        axes.set_xticks(steps, [str(it) for it in steps])
        axes.minorticks_off()
        tidy(axes)
    figure.legend(loc="outside right center", fontsize=8, title="solver, start noise", title_fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return Path(path)
