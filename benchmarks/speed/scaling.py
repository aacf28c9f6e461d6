"""Frames per second against the number of environments, pairs, flow steps and workers."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from contenders import random_batch

from fpo_torchrl.files import write_json
from fpo_torchrl.machine import prepare_machine
from fpo_torchrl.trainer import Trainer

STEPS = 8
NUM_ENVS = 1024
SWEEPS = {
    "num_envs": (64, 256, 1024, 4096, 8192),
    "actor.num_mc_samples": (1, 2, 4, 8, 16, 32),
    "actor.solver.num_steps": (1, 2, 4, 10, 32, 64),
    "collector.num_workers": (0, 1, 2, 4),
}
"""Values of each setting; without workers the trainer's own process collects."""

Row = dict[str, float]


def scaling(
    make_trainer: Callable[..., Trainer], out: Path, report: dict[str, Any], *, num_iterations: int = 7
) -> None:
    """Measure every size in a process of its own; write the rates to a file and draw them."""
    report["scaling"] = {setting: [] for setting in SWEEPS}
    spawn, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    for setting, values in SWEEPS.items():
        for value in values:
            with ProcessPoolExecutor(1, spawn, prepare_machine, (threads,)) as fresh:
                rates = fresh.submit(measure, make_trainer, overrides(setting, value), num_iterations).result()
            row = {"value": value, **rates}
            report["scaling"][setting].append(row)
            print(setting, *(f"{name}={number:.0f}" for name, number in row.items()), flush=True)
    write_json(out / "scaling.json", report)
    draw(report["scaling"], out / "scaling.png")


def overrides(setting: str, value: int) -> list[str]:
    """The arguments of a run with this size, whose update is one minibatch."""
    num_envs = value if setting == "num_envs" else NUM_ENVS
    sizes = [f"num_envs={num_envs}", f"trainer.frames_per_batch={num_envs * STEPS}", "trainer.num_epochs=1"]
    sizes += [f"trainer.minibatch_size={num_envs * STEPS}"]
    if setting == "num_envs" or (setting == "collector.num_workers" and value == 0):
        return sizes
    return [*sizes, *(["collector=rpc"] if setting == "collector.num_workers" else []), f"{setting}={value}"]


def measure(make_trainer: Callable[..., Trainer], sizes: Sequence[str], num_iterations: int) -> Row:
    """Medians over iterations, after two that do not count, in which workers and their connections start."""
    trainer = make_trainer("fpo_paper", *sizes)
    try:
        rows = [row for row, _ in zip(trainer, range(2 + num_iterations), strict=False)][2:]
    finally:
        trainer.close()
    frames = trainer.frames_per_batch
    return {
        "collect_frames_per_s": frames / statistics.median(row["collect_s"] for row in rows),
        "update_frames_per_s": frames / statistics.median(row["update_s"] for row in rows),
        "bytes_per_frame": random_batch(trainer).bytes() / frames,
    }


def draw(sweeps: dict[str, list[Row]], path: Path) -> None:
    """One panel per setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(3.2 * len(sweeps), 3.2), sharey=True, layout="constrained")
    for panel, (setting, rows) in zip(axes, sweeps.items(), strict=True):
        places = range(len(rows))
        for label, key in (("collection", "collect_frames_per_s"), ("one epoch", "update_frames_per_s")):
            panel.plot(places, [row[key] for row in rows], marker="o", label=label)
        panel.set_xticks(places, [f"{row['value']:.0f}" for row in rows])
        panel.set(yscale="log", xlabel=setting)
    axes[0].set_ylabel("frames per second")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
