"""Return against latency of a teacher with fewer and fewer steps, and of its students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tensordict import TensorDictBase

from fpo_torchrl.evaluation import EVALUATION_SEED, evaluate, show_return
from fpo_torchrl.flow import Euler, ZeroNoise
from fpo_torchrl.latency import latencies
from fpo_torchrl.modules import FlowPolicy
from fpo_torchrl.modules.chain import acting_module, for_inference
from fpo_torchrl.plots import COLOURS, new_figure, tidy
from fpo_torchrl.text import Table
from fpo_torchrl.trained import TrainedPolicy

from .student import action_error

Rows = Sequence[Mapping[str, Any]]
TEACHER, STUDENT = "teacher", "student"
NOISES = ("random", "zero")
NUM_CALLS = 500
"""Of each policy, to time it."""


def compare(
    trained: TrainedPolicy, students: Mapping[int, Any], data: TensorDictBase, *, seed: int
) -> list[dict[str, Any]]:
    """One row each for the teacher, the teacher with as few steps as the students, and the students.

    A row has the mean return and its interval by start noise, the distance of its actions from the teacher's, and the
    time of one action on the CPU.

    Args:
        students: by their number of Euler steps.
        data: observations.
        seed (int): of the episodes, the same for all.
    """
    own = acting_module(trained.actor).solver.without_noise()
    contenders = {(TEACHER, repr(own)): for_inference(trained.actor, solver=own)}
    for number in students:
        contenders[TEACHER, repr(Euler(number))] = for_inference(trained.actor, solver=Euler(number))
    for number, student in students.items():
        contenders[STUDENT, repr(Euler(number))] = student
    observations = [data.get(key)[:1] for key in trained.actor.in_keys]
    calls = {
        " ".join(key): partial(FlowPolicy(policy, start_noise=ZeroNoise()), *observations)
        for key, policy in contenders.items()
    }
    times = latencies(calls, NUM_CALLS)
    rows = []
    for (role, solver), policy in contenders.items():
        returns = {
            noise: evaluate(policy, trained.env, noise=noise, seed=seed + EVALUATION_SEED).as_dict() for noise in NOISES
        }
        rows.append(
            {
                "policy": role,
                "solver": solver,
                "steps": acting_module(policy).solver.num_steps,
                "latency": times[f"{role} {solver}"],
                "action_error": action_error(trained.actor, policy, data),
                "returns": returns,
            }
        )
    return rows


def markdown(rows: Rows) -> str:
    """The rows as a table."""
    titles = ["policy", "solver", "action error", "CPU ms", "ms, median / p99"]
    lines = []
    for row in rows:
        returns = [" ".join(show_return(value)) for value in row["returns"].values()]
        latency = row["latency"]
        times = [f"{latency['cpu_ms']:.3f}", f"{latency['median_ms']:.2f} / {latency['p99_ms']:.2f}"]
        lines.append([row["policy"], row["solver"], f"{row['action_error']:.3f}", *times, *returns])
    return Table([*titles, *(f"return, {noise} noise" for noise in NOISES)], lines).markdown(rule="---")


def draw_comparison(tasks: Mapping[str, Rows], path: Path) -> None:
    """Draw return over latency: a column for each task, a row for each start noise; points are labelled with steps."""
    from matplotlib.ticker import LogLocator

    figure = new_figure(1.2 + 3.6 * len(tasks), 5.6)
    grid = figure.subplots(len(NOISES), len(tasks), squeeze=False, sharex="col", sharey="col")
    for column, (task, rows) in enumerate(tasks.items()):
        for line, noise in enumerate(NOISES):
            axes = grid[line, column]
            for role, colour in zip((TEACHER, STUDENT), COLOURS, strict=False):
                draw_policy(axes, [row for row in rows if row["policy"] == role], noise, role, colour)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.margins(x=0.15, y=0.15)
            tidy(axes)
            if column == 0:
                axes.set_ylabel(f"return, {noise} start noise")
        grid[0, column].set_title(task, fontsize=11)
        grid[-1, column].set_xlabel("milliseconds of CPU time for an action")
    grid[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_policy(axes: Any, rows: Rows, noise: str, label: str, colour: str) -> None:
    """A line through the points of one policy, each with the interval of its return."""
    rows = sorted(rows, key=lambda row: row["steps"])
    latency = [row["latency"]["cpu_ms"] for row in rows]
    returns = [row["returns"][noise] for row in rows]
    mean = [value["mean"] for value in returns]
    errors = [[value["mean"] - value["low"] for value in returns], [value["high"] - value["mean"] for value in returns]]
    axes.errorbar(latency, mean, errors, color=colour, marker="o", markersize=4, linewidth=1.2, capsize=2, label=label)
    for row, x, y in zip(rows, latency, mean, strict=True):
        axes.annotate(row["steps"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
