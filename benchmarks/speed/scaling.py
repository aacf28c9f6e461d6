"""Frames per second against the number of environments, of pairs and of flow steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import random_batch

from fpo_torchrl.files import write_json
from fpo_torchrl.trainer import Trainer

STEPS = 8
SWEEPS = {
    "num_envs": (64, 256, 1024, 4096, 8192),
    "actor.num_mc_samples": (1, 2, 4, 8, 16, 32),
    "actor.solver.num_steps": (1, 2, 4, 10, 32, 64),
}


def scaling(make_trainer: Callable[..., Trainer], out: Path, report: dict[str, Any]) -> None:
    """Measure one iteration at every size, after one that does not count; write them to a file and draw them."""
    report["scaling"] = {setting: [] for setting in SWEEPS}
    for setting, values in SWEEPS.items():
        for value in values:
            num_envs = value if setting == "num_envs" else 1024
            sizes = [f"num_envs={num_envs}", f"trainer.frames_per_batch={num_envs * STEPS}", "trainer.num_epochs=1"]
            sizes += [f"trainer.minibatch_size={num_envs * STEPS}"]
            trainer = make_trainer("fpo_paper", *sizes, *([] if setting == "num_envs" else [f"{setting}={value}"]))
            iterations = iter(trainer)
            next(iterations)
            metrics, frames = next(iterations), trainer.frames_per_batch
            row = {
                "value": value,
                "collect_frames_per_s": frames / metrics["collect_s"],
                "update_frames_per_s": frames / metrics["update_s"],
                "bytes_per_frame": random_batch(trainer).bytes() / frames,
            }
            report["scaling"][setting].append(row)
            print(setting, *(f"{name}={number:.0f}" for name, number in row.items()), flush=True)
    write_json(out / "scaling.json", report)
    draw(report["scaling"], out / "scaling.png")


def draw(sweeps: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel per setting."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(4 * len(sweeps), 3.2), sharey=True, layout="constrained")
    for panel, (setting, rows) in zip(axes, sweeps.items(), strict=True):
        values = [row["value"] for row in rows]
        for label, key in (("collection", "collect_frames_per_s"), ("one epoch", "update_frames_per_s")):
            panel.plot(values, [row[key] for row in rows], marker="o", label=label)
        panel.set(xscale="log", yscale="log", xlabel=setting)
    axes[0].set_ylabel("frames per second")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
