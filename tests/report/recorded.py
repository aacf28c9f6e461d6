"""Run directories as ``fpo-train`` leaves them, without the training."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import OmegaConf

from fpo_torchrl.loggers import MetricsCSV

MACHINE = {"cpu": "Abacus 9", "cores": 4, "gpu": None, "threads": 1, "load": 0.5, "system": "Linux x86_64"}
LOSSES = {"FPO": "fpo_torchrl.objectives.FPOLoss", "PPO": "torchrl.objectives.ClipPPOLoss"}


def make_run(
    root: Path,
    task: str = "PointMass",
    loss: str = "FPO",
    seed: int = 0,
    score: float | None = 500.0,
    status: str | None = "finished",
    **settings,
) -> Path:
    """The files of a run of 400 frames in four iterations that reached ``score``; ``status`` None: no provenance."""
    directory = root / f"{task.replace('/', '-')}_{settings.get('label', loss)}_{seed}"
    directory.mkdir(parents=True)
    config = {"task": task, "seed": seed, "run_dir": str(directory), "optim": {"lr": 1e-3}}
    OmegaConf.save({**config, "loss": {"_target_": LOSSES[loss]}, **settings}, directory / "config.yaml")
    metrics = MetricsCSV(directory / "metrics.csv")
    for i in (1, 2, 3, 4) if status in ("finished", None) else (1, 2):
        row = {"frames": 100.0 * i, "collect_s": 0.25, "update_s": 0.75, "return": score * i / 4}
        metrics.log(row | ({"eval_zero": score + 40 - 20 * i} if i % 2 == 0 else {}))
    if status in ("finished", None):
        found = {"low": score - 1, "high": score + 1, "policy_s": 0.001, "returns": [score - 5, score + 5]}
        content = {"random": {"mean": score, **found}, "zero": {"mean": score - 60, **found}, "frames": 400}
        (directory / "evaluation.json").write_text(json.dumps(content))
    if status is not None:
        start = {
            "date": "2026-11-20T10:00:00+00:00",
            "machine": MACHINE,
            "versions": {"torch": "2.13"},
            "commit": "abc",
        }
        error = {"diverged": "NonFiniteError: NaN", "interrupted": "KeyboardInterrupt"}.get(status)
        content = {"status": status, "error": error, "starts": [start]}
        (directory / "provenance.json").write_text(json.dumps(content))
    return directory


def make_runs(root: Path) -> Path:
    """Two tasks, two algorithms; a run of each bad end."""
    for seed, (fpo, ppo) in enumerate([(800, 600), (820, 610), (840, 620)]):
        make_run(root / "a", "PointMass", "FPO", seed, fpo)
        make_run(root / "b", "PointMass", "PPO", seed, ppo)
        make_run(root / "c", "gridworld/two_walls", "FPO", seed, 300)
    for seed, status in enumerate(("finished", "diverged", "interrupted", "running")):
        make_run(root, "gridworld/two_walls", "PPO", seed, 100, status)
    return root
