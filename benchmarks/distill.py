"""Distill trained policies to fewer steps: return against latency, averaged over the seeds of each task.

    python benchmarks/learning.py --only control      trains the teachers
    python benchmarks/distill.py runs/benchmark/control/CheetahRun/fpo/seed3 ...

Give the runs of any tasks, with as many seeds of each as there are. A teacher whose students are in ``--work`` already,
of the same checkpoint and evaluated on as many episodes, is not distilled again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.distill.command import distill_run
from fpo_torchrl.distill.report import NOISES, draw_comparison, markdown
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.provenance import origin
from fpo_torchrl.report.statistics import estimate, mean
from fpo_torchrl.runs.settings import load_run_config

STEPS = (1, 2)


def pooled(teachers: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of several teachers of one task as one: means over them, with a bootstrap interval of the returns'."""
    rows = []
    for same in zip(*teachers, strict=True):
        latency = {key: float(np.median([row["latency"][key] for row in same])) for key in same[0]["latency"]}
        error = float(np.mean([row["action_error"] for row in same]))
        rows.append({**same[0], "latency": latency, "action_error": error, "returns": {}})
        for noise in NOISES:
            found = estimate(mean, [np.array([row["returns"][noise]["mean"] for row in same])])
            numbers = {"mean": float(found.value), "low": float(found.low), "high": float(found.high)}
            rows[-1]["returns"][noise] = numbers | {"returns": [row["returns"][noise]["mean"] for row in same]}
    return rows


def publish(results: dict[str, dict[int, dict[str, Any]]], out: Path) -> None:
    """Write what was measured, by task and seed, with a table of the means over seeds and a picture of each teacher."""
    tasks = {task: pooled([content["rows"] for content in seeds.values()]) for task, seeds in results.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "distill.json", {**origin("cpu"), "tasks": results})
    titles = {task: f"## {task}, seeds {', '.join(map(str, seeds))}" for task, seeds in results.items()}
    tables = [f"{titles[task]}\n\n{markdown(rows)}" for task, rows in tasks.items()]
    write_whole(out / "distill.md", "\n".join(tables))
    teachers = {f"{task}, seed {seed}": it["rows"] for task, seeds in results.items() for seed, it in seeds.items()}
    draw_comparison(teachers, out / "distill.png")


def students_of(run_dir: Path, directory: Path, episodes: int) -> dict[str, Any]:
    """What ``fpo-distill`` found of a teacher, now or before.

    Raises:
        ConfigError: if the directory holds students of something else.
    """
    path = directory / "distillation.json"
    if not path.is_file():
        for steps in STEPS:  # students of a command that was killed
            shutil.rmtree(directory / f"steps{steps}", ignore_errors=True)
        distill_run(run_dir, directory, steps=STEPS, episodes=episodes)
    found = json.loads(path.read_text())
    newest = Checkpointer(run_dir).latest()
    found["teacher"] = str(Path(found["teacher"]).resolve())
    asked = {"teacher": str(run_dir.resolve()), "checkpoint": newest.name if newest else None, "episodes": episodes}
    if different := [f"{name} {found[name]} (not {value})" for name, value in asked.items() if found[name] != value]:
        raise ConfigError(f"{directory} holds students of {', '.join(different)}: remove it, or choose another --work")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="teachers")
    parser.add_argument("--episodes", type=int, default=32, help="of each evaluation; default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs/distill"), help="where students are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/distill"), help="where results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    with friendly_errors():
        for run_dir in arguments.runs:
            cfg = load_run_config(run_dir)
            if cfg.seed in results[cfg.task]:
                raise ConfigError(f"{run_dir}: there is a teacher of {cfg.task} with seed {cfg.seed} already")
            directory = arguments.work / cfg.task / str(cfg.label or "unlabelled") / f"seed{cfg.seed}"
            results[cfg.task][cfg.seed] = students_of(run_dir, directory, arguments.episodes)
        publish(results, arguments.out)


if __name__ == "__main__":
    main()
