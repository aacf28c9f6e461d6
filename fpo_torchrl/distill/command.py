"""``fpo-distill``: the policy of a run with fewer solver steps, and what that costs and saves."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase

from fpo_torchrl.builders import build_agent
from fpo_torchrl.checkpoint import Checkpointer
from fpo_torchrl.cli import friendly_errors, take_defaults
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.flow import Euler, RandomNoise, ZeroNoise
from fpo_torchrl.modules import FlowActor
from fpo_torchrl.modules.chain import acting_module, for_inference
from fpo_torchrl.provenance import origin
from fpo_torchrl.trained import TrainedPolicy, load_policy

from .report import compare, draw_comparison, markdown
from .student import distill

NUM_STEPS = 1000
"""Of the teacher in each copy of the task, once with random and once with zero start noise: what students learn on."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="fpo-distill",
        description="Train students that do in a few Euler steps what a run's flow policy does in many, and compare "
        "them with it by return and latency. Each student's directory is one for fpo-eval, fpo-export and init_from.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of a run of a flow policy")
    parser.add_argument("--steps", type=int, nargs="+", help="Euler steps of each student; default: %(default)s")
    parser.add_argument("--updates", type=int, help="gradient steps for each; default: %(default)s")
    parser.add_argument("--episodes", type=int, help="of each evaluation; default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: %(default)s")
    parser.add_argument("--checkpoint", help="path of a checkpoint, or best; default: the newest of the run")
    parser.add_argument("--out", type=Path, help="where to write; default: distilled/ in the run's directory")
    return take_defaults(parser, distill_run)


def distill_run(
    run_dir: Path,
    out: Path | None = None,
    *,
    steps: Sequence[int] = (1, 2),
    updates: int = 1000,
    episodes: int = 32,
    seed: int = 0,
    checkpoint: str | None = None,
) -> list[dict[str, Any]]:
    """Distill the policy of a run into ``steps1``, ``steps2`` and so on below ``out``; returns the comparison's rows.

    Raises:
        ConfigError: for wrong settings, a run of another policy, or students that are there already.
        CheckpointError: if the run cannot be read.
    """
    for name, value in {"steps": min(steps, default=0), "updates": updates, "episodes": episodes, "seed": seed}.items():
        if value < (least := 0 if name == "seed" else 1):
            raise ConfigError(f"--{name} must be at least {least}, got {value}")
    out = out if out is not None else run_dir / "distilled"
    check_writable(out)
    directories = {number: out / f"steps{number}" for number in dict.fromkeys(steps)}
    if taken := [path for path in directories.values() if path.exists()]:
        raise ConfigError(f"{taken[0]} is there already: remove it, or choose another --out")
    about = origin("cpu")
    trained = load_policy(run_dir, num_envs=episodes, device="cpu", checkpoint=checkpoint)
    if not isinstance(acting_module(trained.actor), FlowActor):
        raise ConfigError(f"{run_dir} trained another policy than a FlowActor: there is no flow to distill")
    configs = {number: student_config(trained, Euler(number), directory) for number, directory in directories.items()}
    print(trained, flush=True)
    torch.manual_seed(seed)
    data = visited(trained, seed)
    students = {}
    for number, directory in directories.items():
        students[number] = distill(trained.actor, Euler(number), data, num_updates=updates)
        save_student(students[number], configs[number], trained, directory)
        print(f"  {directory}", flush=True)
    rows = compare(trained, students, data, seed=seed)
    settings = {"updates": updates, "episodes": episodes, "seed": seed, "observations": data.numel()}
    teacher = {"teacher": str(run_dir), "checkpoint": trained.checkpoint.name, "frames": trained.frames}
    content = {**about, "task": trained.cfg.task, **teacher, **settings, "rows": rows}
    write_json(out / "distillation.json", content)
    write_whole(out / "distillation.md", markdown(rows))
    draw_comparison({trained.cfg.task: rows}, out / "distillation.png")
    print(markdown(rows), end="")
    for ending in ("json", "md", "png"):
        print(f"  {out / f'distillation.{ending}'}")
    return rows


def check_writable(out: Path) -> None:
    """Refuse a directory that cannot be made or written to, before students are trained for it.

    Raises:
        ConfigError: naming what is in the way.
    """
    place = next(path for path in (out, *out.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: expected a directory to write to, and {place} is none; choose another")


@torch.no_grad()
def visited(trained: TrainedPolicy, seed: int) -> TensorDictBase:
    """Observations that the policy meets in its task, half of them with random and half with zero start noise."""
    trained.env.set_seed(seed)
    rollouts = [
        trained.env.rollout(NUM_STEPS, for_inference(trained.actor, start_noise=noise), break_when_any_done=False)
        for noise in (RandomNoise(), ZeroNoise())
    ]
    return torch.cat([rollout.select(*trained.actor.in_keys).reshape(-1) for rollout in rollouts])


def student_config(teacher: TrainedPolicy, solver: Euler, directory: Path) -> DictConfig:
    """The config of the teacher's run with the solver of a student.

    Raises:
        ConfigError: if the actor of that run does not take its solver from ``actor.solver``.
    """
    cfg = teacher.cfg.copy()
    node = {"_target_": f"{type(solver).__module__}.{type(solver).__qualname__}", "num_steps": solver.num_steps}
    cfg.actor.solver, cfg.run_dir = node, str(directory)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    built = acting_module(build_agent(tree, teacher.env).actor).solver
    if repr(built) != repr(solver):
        raise ConfigError(
            f"{cfg.actor._target_} ignores actor.solver and samples with {built}, so that no student could be loaded: "
            "let it build its FlowActor with that setting"
        )
    return cfg


def save_student(student: Any, cfg: DictConfig, teacher: TrainedPolicy, directory: Path) -> None:
    """Write a student as a run of that config would be, all of it or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    for remains in directory.parent.glob(f".{directory.name}-*"):  # of a command that was killed
        shutil.rmtree(remains)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as partial:
        whole = Path(partial) / directory.name
        whole.mkdir()
        write_whole(whole / "config.yaml", OmegaConf.to_yaml(cfg))
        Checkpointer(whole, actor=student, critic=teacher.critic).save(teacher.frames)
        whole.rename(directory)


def main() -> None:
    """Distill as the command line says."""
    arguments = parser().parse_args()
    with friendly_errors():
        distill_run(**vars(arguments))


if __name__ == "__main__":
    main()
