"""Learning curves of FPO and Gaussian PPO at the same budget, several seeds, one command.

    python benchmarks/learning.py                     everything, two runs at a time
    python benchmarks/learning.py --only bandit --seeds 3 4 5

The presets were chosen on seeds 0 to 2 (bandit) and 10 to 13 (control tasks; GridWorld, after an earlier preset had
been looked at on 0 to 5): publish others.

Runs ``fpo-train`` once per task, algorithm and seed, skips what is finished, and writes to ``--out``: the metrics
of every run as CSV, ``summary.json`` with the command, date, machine and versions of each, ``table.md`` and
``curves.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torchrl.envs.utils import set_exploration_type

from fpo_torchrl.builders import Agent, build_agent
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.envs import make_env, multimodality
from fpo_torchrl.envs.probe import PROBES, Probe, modes_found
from fpo_torchrl.evaluation import evaluation_policy, isolated_rng
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.run import load_run_config, write_json

OUT = Path("benchmarks/results/learning")
T_QUANTILE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 2 to 10 seeds; the last serves for more."""


@dataclass(frozen=True)
class Suite:
    """One task with the overrides that train FPO and the Gaussian on it."""

    name: str
    fpo: tuple[str, ...]
    ppo: tuple[str, ...]


PPO = ("actor=gaussian", "loss=ppo")
CARTPOLE = ("task=CartpoleBalance", "advantage.gamma=0.99", "total_frames=700_000")
SUITES = [
    Suite("ReacherEasy", ("task=ReacherEasy",), ("task=ReacherEasy", *PPO)),
    Suite("CartpoleBalance", CARTPOLE, (*CARTPOLE, *PPO)),
    Suite("gridworld", ("experiment=gridworld",), ("experiment=gridworld_ppo",)),
    Suite("bandit", ("experiment=bandit",), ("experiment=bandit_ppo",)),
    *(
        Suite(
            f"probe-{probe}",
            (f"task=probe/{probe}", "experiment=bandit", "total_frames=40_000"),
            (f"task=probe/{probe}", "experiment=bandit_ppo", "total_frames=40_000"),
        )
        for probe in PROBES
    ),
]


def run_dir(work: Path, suite: Suite, algorithm: str, seed: int) -> Path:
    """Where a run lives while it is made."""
    return work / f"{suite.name}_{algorithm}_s{seed}"


def train(work: Path, suite: Suite, algorithm: str, seed: int) -> tuple[str, int]:
    """Run ``fpo-train`` unless it is finished; returns the command and its exit code."""
    directory = run_dir(work, suite, algorithm, seed)
    overrides = [*getattr(suite, algorithm), f"seed={seed}", "progress=false", "render=false"]
    command = f"fpo-train {' '.join(overrides)}"
    if (directory / "evaluation.json").exists():
        return command, 0
    if (directory / "checkpoints").exists():
        overrides = [f"resume={directory}"]
    else:
        shutil.rmtree(directory, ignore_errors=True)
        overrides.append(f"run_dir={directory}")
    executable = Path(sys.executable).with_name("fpo-train")
    with (work / f"{directory.name}.log").open("a") as log:
        code = subprocess.run(
            [executable, *overrides], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    print(f"exit {code}: {command}", flush=True)
    return command, code


def trained_agent(directory: Path) -> tuple[Any, Agent]:
    """The resolved config of a finished run, and its agent with the final weights."""
    cfg = load_run_config(directory)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    agent = build_agent(tree, make_env(cfg.task, 1))
    Checkpointer(directory, actor=agent.actor, critic=agent.critic).load()
    return cfg, agent


def sampled_actions(directory: Path, observations: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Actions ``[*batch, num_samples, act]`` that the run's final policy draws at ``observations``."""
    policy, exploration = evaluation_policy(trained_agent(directory)[1].actor, "random")
    repeated = observations.unsqueeze(-2).expand(*observations.shape[:-1], num_samples, -1)
    with torch.no_grad(), isolated_rng(0), set_exploration_type(exploration):
        return policy(TensorDict(observation=repeated, batch_size=repeated.shape[:-1]))["action"]


def value_error(directory: Path, probe: Probe) -> float:
    """Largest distance of the critic from a probe's optimal value, over its observations."""
    cfg, agent = trained_agent(directory)
    observations = torch.tensor(
        [[start + step] for start in probe.start_observations for step in range(probe.num_steps)]
    )
    with torch.no_grad():
        values = agent.critic(TensorDict(observation=observations, batch_size=len(observations)))["state_value"]
    return (values - probe.optimal_value(observations, cfg.advantage.gamma)).abs().max().item()


def beyond_return(suite: Suite, directory: Path) -> dict[str, float]:
    """What the return does not say: the modes among *sampled* actions, or the error of the value."""
    if suite.name.startswith("probe-"):
        return {"value_error": value_error(directory, PROBES[suite.name.removeprefix("probe-")])}
    if suite.name == "bandit":
        low, high = modes_found(sampled_actions(directory, torch.zeros(1), 2000)).tolist()
        return {"share_left": low, "share_right": high}
    if suite.name == "gridworld":
        cells = torch.tensor([[x, 12] for x in range(25)])
        vertical = sampled_actions(directory, (cells.float() - 12) / 12, 2000)[..., 1]
        minor, valley = multimodality.minor(vertical), multimodality.valley(vertical)
        return {
            "both": multimodality.both(minor, valley).item(),
            "minor": minor.mean().item(),
            "valley": valley.mean().item(),
        }
    return {}


def result(work: Path, out: Path, suite: Suite, algorithm: str, seed: int) -> dict[str, Any]:
    """Numbers of one run; its metrics are copied beside the summary."""
    directory = run_dir(work, suite, algorithm, seed)
    row: dict[str, Any] = {"task": suite.name, "algorithm": algorithm, "seed": seed}
    if not (directory / "evaluation.json").exists():
        return row | {"failed": True}
    name = f"{suite.name}_{algorithm}_s{seed}.csv"
    shutil.copy(directory / "metrics.csv", out / name)
    metrics = read_metrics(directory / "metrics.csv")
    evaluation = json.loads((directory / "evaluation.json").read_text())
    return row | {
        "frames": int(metrics[-1]["frames"]),
        "training_s": sum(m["collect_s"] + m["update_s"] for m in metrics),
        "random": evaluation["random"]["mean"],
        "zero": evaluation["zero"]["mean"],
        "last_episodes": metrics[-1].get("return"),
        **beyond_return(suite, directory),
        "metrics": name,
        "date": datetime.fromtimestamp((directory / "evaluation.json").stat().st_mtime, UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {name: version(name) for name in ("fpo-torchrl", "torch", "torchrl", "mujoco")}
        | {"python": platform.python_version()},
    }


def interval(values: list[float]) -> str:
    """Mean over seeds and a 95 % t-interval (mean +- half width)."""
    half = math.nan
    if len(values) > 1:
        half = T_QUANTILE[min(len(values), len(T_QUANTILE) + 1) - 2] * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.3g} ± {half:.2g}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table: one line per task and algorithm, mean over seeds with its interval, and every seed."""
    lines = [
        "| task | algorithm | seeds | frames | return, sampled | per seed | return, zero or mode | other | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, algorithm in dict.fromkeys((row["task"], row["algorithm"]) for row in rows):
        group = [row for row in rows if (row["task"], row["algorithm"]) == (task, algorithm)]
        done = [row for row in group if "failed" not in row]
        if not done:
            lines.append(f"| {task} | {algorithm} | 0 of {len(group)} finished | | | | | | |")
            continue
        extra = [key for key in ("both", "valley", "share_left", "share_right", "value_error") if key in done[0]]
        other = "; ".join(f"{key} {', '.join(f'{row[key]:.2f}' for row in done)}" for key in extra)
        per_seed = ", ".join(f"{row['random']:.4g}" for row in done)
        lines.append(
            f"| {task} | {algorithm} | {len(done)} of {len(group)} | {done[0]['frames']:,} "
            f"| {interval([row['random'] for row in done])} | {per_seed} "
            f"| {interval([row['zero'] for row in done])} | {other} "
            f"| {np.mean([row['training_s'] for row in done]):.0f} s |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Learning curves: reward in training over frames, one line per seed, without the probes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if "failed" not in row and not row["task"].startswith("probe-")]
    if not rows:
        return
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = min(2, len(tasks))
    figure = Figure(figsize=(4 * columns, 2.8 * -(-len(tasks) // columns)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.ravel(figure.subplots(-(-len(tasks) // columns), columns, squeeze=False))
    for axes in grid[len(tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(grid, tasks, strict=False):
        for algorithm, colour, label in (("fpo", "tab:blue", "flow (FPO)"), ("ppo", "tab:orange", "Gaussian PPO")):
            for row in rows:
                if (row["task"], row["algorithm"]) == (task, algorithm):
                    metrics = read_metrics(out / row["metrics"])
                    points = [(m["frames"], m["reward"]) for m in metrics]
                    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=label)
                    label = None
        axes.set(title=task, xlabel="frames", ylabel="mean reward of a step")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    figure.savefig(out / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[suite.name for suite in SUITES], help="tasks; default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one torch thread")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark_learning"), help="where the runs are made")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    suites = [suite for suite in SUITES if arguments.only is None or suite.name in arguments.only]
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    jobs = [(suite, algorithm, seed) for suite in suites for seed in arguments.seeds for algorithm in ("fpo", "ppo")]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        commands = list(pool.map(lambda job: train(arguments.work, *job), jobs))
    previous = arguments.out / "summary.json"
    kept = json.loads(previous.read_text())["runs"] if previous.exists() else []
    made = [
        result(arguments.work, arguments.out, *job)
        | {"command": command, "exit_code": code, "runs_at_a_time": arguments.jobs}
        for job, (command, code) in zip(jobs, commands, strict=True)
    ]
    identity = lambda row: (row["task"], row["algorithm"], row["seed"])  # noqa: E731
    replaced = {identity(row) for row in made}
    order = [suite.name for suite in SUITES]
    rows = sorted(
        [row for row in kept if identity(row) not in replaced] + made,
        key=lambda row: (order.index(row["task"]), row["algorithm"], row["seed"]),
    )
    write_json(previous, {"command": shlex.join(["python", *sys.argv]), "runs": rows})
    (arguments.out / "table.md").write_text(table(rows))
    draw(rows, arguments.out)
    print(table(rows))


if __name__ == "__main__":
    main()
