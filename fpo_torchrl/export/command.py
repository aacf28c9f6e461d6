"""``fpo-export``: the policy of a run as one file that runs without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fpo_torchrl
from fpo_torchrl.checks import check_choice
from fpo_torchrl.cli import friendly_errors, output_file, take_defaults
from fpo_torchrl.errors import ConfigError, DamagedFileError
from fpo_torchrl.evaluate import solver_of
from fpo_torchrl.evaluation import show_return
from fpo_torchrl.files import intact, read_json
from fpo_torchrl.flow import SOLVERS, FixedNoise, StartNoise, ZeroNoise
from fpo_torchrl.modules import FlowPolicy
from fpo_torchrl.modules.chain import acting_module, is_flow
from fpo_torchrl.trained import TrainedPolicy, load_policy

from .formats import FORMATS
from .write import export_policy

NOISES: dict[str, StartNoise | None] = {"zero": ZeroNoise(), "fixed": FixedNoise(), "input": None}
NUM_COPIES, NUM_STEPS = 100, 10
"""The environment's copies and steps that give the observations on which file and actor are compared."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    deterministic = [name for name, solver in SOLVERS.items() if type(solver().without_noise()) is solver]
    parser = argparse.ArgumentParser(
        prog="fpo-export",
        description="Write a run's policy as one file, from raw observation to action: encoders, normaliser, flow and "
        "squashing. The file is compared with the policy before it is kept.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of a run of a flow policy")
    parser.add_argument("--format", choices=FORMATS, help="default: %(default)s")
    parser.add_argument("--solver", choices=deterministic, help="default: the one it was trained with, without noise")
    parser.add_argument("--steps", type=int, help="number of solver steps; default: as in training")
    parser.add_argument(
        "--noise",
        choices=NOISES,
        help="start noise of the flow: zero or one fixed draw make a deterministic policy, input makes the noise a "
        "second input; default: %(default)s",
    )
    parser.add_argument("--checkpoint", help="path of a checkpoint, or best; default: the newest of the run")
    parser.add_argument("--out", type=Path, help="file to write; default: policy.<suffix> in the run's directory")
    return take_defaults(parser, export_run)


def example_inputs(policy: TrainedPolicy, *, with_noise: bool) -> dict[str, Tensor]:
    """Observations ``[batch, size]`` of random actions in the policy's task, and start noise for each."""
    torch.manual_seed(0)
    batch = policy.env.rollout(NUM_STEPS, break_when_any_done=False).reshape(-1)
    inputs = {key if isinstance(key, str) else ".".join(key): batch[key] for key in policy.actor.in_keys}
    return inputs | ({"noise": torch.randn(len(batch), acting_module(policy.actor).action_dim)} if with_noise else {})


def export_run(
    run_dir: Path,
    out: Path | None = None,
    *,
    format: str = "onnx",
    solver: str | None = None,
    steps: int | None = None,
    noise: str = "zero",
    checkpoint: str | None = None,
) -> Path:
    """Export the policy of a run and say what was written; returns its path.

    Raises:
        ConfigError: for wrong settings, a run of a Gaussian, or an export that does not agree with the policy.
        CheckpointError: if the run cannot be read.
    """
    check_choice("format", format, FORMATS, error=ConfigError)
    check_choice("noise", noise, NOISES, error=ConfigError)
    suffix = FORMATS[format].suffix
    path = output_file("--out", out, [suffix]) if out is not None else run_dir / f"policy{suffix}"
    trained = load_policy(run_dir, num_envs=NUM_COPIES, device="cpu", checkpoint=checkpoint)
    actor = trained.actor
    if not is_flow(actor):
        raise ConfigError(f"{run_dir} trained a Gaussian; fpo-export writes flow policies")
    chosen = solver_of(actor, solver, steps)
    try:
        policy = FlowPolicy(actor, solver=chosen, start_noise=NOISES[noise]).eval()
    except ValueError as error:
        raise ConfigError(f"{run_dir} cannot be exported: {error}") from error
    inputs = example_inputs(trained, with_noise=noise == "input")
    metadata: dict[str, Any] = {
        "task": trained.cfg.task,
        "checkpoint": trained.checkpoint.name,
        "frames": trained.frames,
        "solver": repr(policy.flow.solver),
        "noise": noise,
        "action_low": policy.flow.action_low.tolist(),
        "action_high": policy.flow.action_high.tolist(),
        "inputs": {name: list(value.shape[1:]) for name, value in inputs.items()},
        "fpo_torchrl": fpo_torchrl.__version__,
    }
    error = export_policy(policy, inputs, path, format=format, metadata=metadata)
    num_observations = NUM_COPIES * NUM_STEPS
    print(trained)
    print(f"  {policy.flow.solver}, {noise} noise; inputs {', '.join(inputs)}")
    print(f"  differs from the actor by at most {error:.1e} on {num_observations} observations")
    print(f"  {path} ({path.stat().st_size / 1024:.0f} KiB)")
    if noise == "zero":
        try:
            doubt = doubt_of_zero_noise(run_dir / "evaluation.json", trained.frames)
        except DamagedFileError as damaged:
            doubt = f"how the run did from zero start noise is not known: {damaged}"
        if doubt is not None:
            print(f"warning: {doubt}")
    return path


def doubt_of_zero_noise(evaluation: Path, frames: int) -> str | None:
    """What there is to say if a run's final evaluation earned clearly less from zero start noise than from random.

    Nothing if that was of another policy than the one after so many ``frames``.
    """
    if not evaluation.is_file():
        return None
    with intact(evaluation):
        report = read_json(evaluation)
        random, zero = (report[noise] for noise in ("random", "zero"))
        if report.get("frames", frames) != frames or zero["high"] >= random["low"]:
            return None
        earned = f"{show_return(zero)[0]} from zero start noise and {show_return(random)[0]} from random one"
    return f"the trained policy earned {earned}. --noise input writes one that takes the noise as an input"


def main() -> None:
    """Export as the command line says."""
    arguments = parser().parse_args()
    with friendly_errors():
        export_run(**vars(arguments))


if __name__ == "__main__":
    main()
