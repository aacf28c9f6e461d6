"""Clone a half-trained policy from its demonstrations, then let FPO improve the clone: one actor class for both.

    python benchmarks/pretrain.py                                          three seeds, one run at a time
    python benchmarks/pretrain.py --task CheetahRun --seeds 3 4 --jobs 2

For each seed: FPO trains a teacher for a part of the frames, the teacher's sampled episodes are the demonstrations, and
flow matching (``CFMLoss``) makes a new actor act like it. Then FPO fine-tunes that clone, with the critic trained alone
at first and without, beside FPO from scratch on as many frames. Stop it whenever you like: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from learning import store
from matplotlib.ticker import EngFormatter
from omegaconf import OmegaConf
from tensordict import TensorDictBase

from fpo_torchrl import CFMLoss
from fpo_torchrl.builders import build_agent
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.cli import friendly_errors, quoted
from fpo_torchrl.evaluation import EVALUATION_SEED, evaluate
from fpo_torchrl.files import write_json
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.plots import COLOURS, new_figure, tidy
from fpo_torchrl.provenance import origin, read_provenance
from fpo_torchrl.report.command import report
from fpo_torchrl.sweep.workers import Workers, log_of
from fpo_torchrl.trained import load_policy

TEACHER_FRAMES, FRAMES, WARMUP_FRAMES = 200_000, 300_000, 40_960
EPISODE = 1000
"""Steps of an episode of the control tasks."""
NUM_EPISODES, CLONE_STEPS, CLONE_BATCH = 32, 4000, 512
VARIANTS: dict[str, tuple[str, ...]] = {
    "scratch": (),
    "fine_tuned": ("init_from={clone}", f"trainer.critic_warmup_frames={WARMUP_FRAMES}"),
    "no_warmup": ("init_from={clone}",),
}
"""What is compared, by label, with the overrides of each; ``{clone}`` is where the cloned policy is."""


class Experiment:
    """One seed's runs on one task, in ``directory``."""

    def __init__(self, task: str, seed: int, directory: Path, workers: Workers) -> None:
        self.task, self.seed, self.directory, self.workers = task, seed, directory, workers

    def __str__(self) -> str:
        """How its progress is announced."""
        return f"{self.task}, seed {self.seed}"

    def train(self, name: str, frames: int, *overrides: str) -> Path:
        """Train a run to its end, unless it has ended; returns its directory."""
        run_dir = self.directory / name
        if read_provenance(run_dir).get("status") != "finished":
            settings = [f"task={self.task}", f"seed={self.seed}", f"total_frames={frames}", "num_threads=1"]
            code = self.workers.train([*settings, *overrides, "render=false"], run_dir)
            if code != 0:
                raise RuntimeError(f"{run_dir} failed with exit code {code}: {log_of(run_dir)}")
        return run_dir

    def run(self) -> str:
        """Everything for this seed; returns a summary."""
        teacher = self.train("teacher", TEACHER_FRAMES)
        clone = self.directory / "clone"
        clone.mkdir(exist_ok=True)
        if not (clone / "clone.json").is_file():
            write_json(clone / "clone.json", clone_policy(teacher, clone, self.seed))
        for label, overrides in VARIANTS.items():
            self.train(
                label, FRAMES, f"label={label}", *(override.format(clone=quoted(clone)) for override in overrides)
            )
        return "finished"


def demonstrate(run_dir: Path, seed: int) -> TensorDictBase:
    """Observations and actions ``[transitions]`` of episodes that a run's policy samples."""
    teacher = load_policy(run_dir, num_envs=NUM_EPISODES, device="cpu")
    teacher.env.set_seed(seed)
    with torch.no_grad():
        episodes = teacher.env.rollout(EPISODE, teacher.actor, break_when_any_done=False)
    return episodes.select("observation", "action").reshape(-1)


def clone_policy(run_dir: Path, out: Path, seed: int) -> dict[str, float]:
    """Fit a new actor to the demonstrations of a run, save it, and say how both act: returns with random start noise.

    The learning rate falls to zero along a half cosine; the normaliser is that of the demonstrations.
    """
    teacher = load_policy(run_dir, num_envs=NUM_EPISODES, device="cpu")
    torch.manual_seed(seed)
    data = demonstrate(run_dir, seed)
    tree: Any = OmegaConf.to_container(teacher.cfg, resolve=True)
    agent = build_agent(tree, teacher.env)
    actor = agent.actor
    if agent.normalizer is not None:
        agent.normalizer.update(data["observation"])
    loss = CFMLoss(actor)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CLONE_STEPS)
    for _ in range(CLONE_STEPS):
        optimizer.zero_grad()
        loss(data[torch.randint(len(data), (CLONE_BATCH,))])["loss_cfm"].backward()
        optimizer.step()
        schedule.step()
    Checkpointer(out, actor=actor).save(0)
    returns = {
        name: evaluate(policy, teacher.env, seed=seed + EVALUATION_SEED).mean
        for name, policy in {"teacher": teacher.actor, "clone": actor}.items()
    }
    return {**returns, "transitions": len(data)}


def publish(experiments: list[Experiment], out: Path) -> None:
    """Store what the runs left, the returns of teachers and clones, and the report on it."""
    clones = {}
    for experiment in experiments:
        clones[experiment.seed] = json.loads((experiment.directory / "clone" / "clone.json").read_text())
        for label in VARIANTS:
            store(experiment.directory / label, out / label / f"seed{experiment.seed}")
    write_json(out / "clones.json", {**origin("cpu"), "seeds": clones})
    report([out], out, labels=list(VARIANTS))
    draw_seeds(out, {seed: found["clone"] for seed, found in clones.items()}, out / "seeds.png")


def draw_seeds(results: Path, clones: dict[int, float], path: Path) -> None:
    """Draw what the variants of each seed earn while they train, in the unit of an episode's return."""
    figure = new_figure(1 + 3 * len(clones), 3)
    panels = figure.subplots(1, len(clones), squeeze=False, sharey=True)[0]
    for axes, (seed, clone) in zip(panels, clones.items(), strict=True):
        tidy(axes)
        axes.axhline(clone, color="0.4", linestyle="--", linewidth=1, label="the clone")
        for label, colour in zip(VARIANTS, COLOURS, strict=False):
            rows = read_metrics(results / label / f"seed{seed}" / "metrics.csv")
            frames, earned = zip(*((row["frames"], EPISODE * row["reward"]) for row in rows), strict=True)
            axes.plot(frames, earned, color=colour, label=label.replace("_", " "), linewidth=1.4)
        axes.set(title=f"seed {seed}", xlabel="frames")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"reward of {EPISODE} training steps")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ReacherEasy", help="default ReacherEasy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="default 3, 4, 5")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; default 1")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="where runs are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pretrain"), help="where results go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    workers = Workers(arguments.jobs, num_threads=1)
    experiments = [
        Experiment(arguments.task, seed, arguments.work / arguments.task / f"seed{seed}", workers)
        for seed in arguments.seeds
    ]
    with friendly_errors():
        results = workers.run_all(experiments, Experiment.run)
        finished = [experiment for experiment in experiments if results[experiment] == "finished"]
        if finished:
            publish(finished, arguments.out / arguments.task)
    sys.exit(0 if len(finished) == len(experiments) else "some runs failed; the same command tries them again")


if __name__ == "__main__":
    main()
