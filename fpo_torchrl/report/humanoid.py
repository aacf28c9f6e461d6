"""``fpo-humanoid``: score how the policies of runs track their motions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpo_torchrl.builders import env_maker
from fpo_torchrl.cli import friendly_errors, output_file, take_defaults, video_file
from fpo_torchrl.envs.humanoid import HumanoidEnv, goal_ambiguity
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.evaluation import START_NOISES
from fpo_torchrl.files import write_json
from fpo_torchrl.report.humanoid_scores import TrackingScores, evaluate_tracking
from fpo_torchrl.trained import TrainedPolicy, load_policy
from fpo_torchrl.video import write_video

from .humanoid_film import shoot, side_by_side
from .runs import read_run

EVALUATION = {
    "backend": "c",
    "max_contacts": None,
    "random_start": False,
    "spread_episodes": False,
    "distance": "mean",
    "max_distance": 0.5,
    "max_episode_steps": 1_000_000,
}
"""By native MuJoCo, whatever a run was trained on; whole motions, lost at a mean distance of 0.5 m
(akanazawa/fpo, phc/puffer_phc/humanoid_phc.py:1671-1682)."""


def tracking_env(policy: TrainedPolicy, num_envs: int, motions: str | None = None) -> HumanoidEnv:
    """The environment in which a run is scored: copy ``i`` tracks motion ``i`` from the start.

    Args:
        policy: of a run on a humanoid task.
        num_envs (int): copies.
        motions: other motions than those it was trained on.

    Raises:
        ConfigError: if the run is of another task.
    """
    _check_humanoid(policy)
    others = {"motions": motions, "clips": None} if motions is not None else {}
    return env_maker(policy.cfg, **EVALUATION, **others)(num_envs=num_envs, device=policy.env.device, seed=0)


def motion_names(policy: TrainedPolicy, motions: str | None = None) -> list[str]:
    """The motions that a run, or ``motions`` in their place, has; ``ConfigError`` as in :func:`tracking_env`."""
    env = _check_humanoid(policy) if motions is None else tracking_env(policy, 1, motions)
    return env.motion_library.names


def _check_humanoid(policy: TrainedPolicy) -> HumanoidEnv:
    if not isinstance(policy.env, HumanoidEnv):
        raise ConfigError(f"fpo-humanoid scores runs with env=humanoid; this one has task={policy.cfg.task}")
    return policy.env


def score_run(
    run_dir: str | Path, *, noise: Sequence[str] = ("zero",), episodes: int = 1, motions: str | None = None
) -> dict[str, TrackingScores]:
    """Scores of a run's newest checkpoint, by start noise.

    Args:
        run_dir: the run's directory.
        noise: start noises of the flow, of ``"zero"``, ``"random"`` and ``"fixed"``.
        episodes (int): of each motion; more than one make sense with random noise.
        motions: other motions than those it was trained on.

    Raises:
        ConfigError: if the run is of another task.
    """
    if isinstance(noise, str):
        raise TypeError(f"noise must be a sequence such as ['zero'], got {noise!r}")
    policy = load_policy(run_dir, device="cpu")
    env = scoring_env(policy, episodes, motions)
    return {name: evaluate_tracking(policy.actor, env, noise=name) for name in noise}


def scoring_env(policy: TrainedPolicy, episodes: int, motions: str | None = None) -> HumanoidEnv:
    """As :func:`tracking_env`, with as many copies as ``episodes`` of each motion need."""
    return tracking_env(policy, episodes * len(motion_names(policy, motions)), motions)


def tracking_table(scores: TrackingScores) -> str:
    """The scores as a table of text."""
    columns = {
        "success": "success",
        "alive_s": "alive (s)",
        "mpjpe_global_all_mm": "MPJPE (mm)",
        "mpjpe_local_all_mm": "from root",
        "mpjpe_procrustes_all_mm": "aligned",
        "mpjpe_global_conditioned_mm": "of the goal",
    }
    lines = [f"  {'motion':<34}" + "".join(f"{title:>13}" for title in columns.values())]
    for name, row in [*scores.clips.items(), ("mean", scores.mean)]:
        lines.append(f"  {name:<34}" + "".join(f"{row[key]:>13.2f}" for key in columns))
    return "\n".join(lines)


def film_runs(
    runs: Sequence[Path], path: Path, *, clip: str | None = None, noise: str = "zero", motions: str | None = None
) -> Path:
    """Film the newest policies of ``runs`` side by side on one motion, each with the reference as a ghost.

    Args:
        runs: their directories.
        path: what to write, a ``.gif`` or ``.mp4``.
        clip: the motion's name; default the first of the first run.
        noise: start noise of the flow, as for :func:`score_run`.
        motions: other motions than those they were trained on.

    Raises:
        ConfigError: for a motion that a run does not have.
    """
    takes, control_dt = [], 0.0
    for run in runs:
        policy, record = load_policy(run, device="cpu"), read_run(run)
        names = motion_names(policy, motions)
        clip = clip if clip is not None else names[0]
        if clip not in names:
            raise ConfigError(f"--clip {clip}: {run} has no such motion, it has {', '.join(names)}")
        env = tracking_env(policy, len(names), motions)
        title = f"{record.label}, {env.conditioning}, seed {record.seed}"
        takes.append(shoot(title, policy.actor, env, names.index(clip), noise=noise))
        control_dt = env.control_dt
    write_video(side_by_side(takes, step_s=control_dt), path, duration_s=control_dt)
    return path


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="fpo-humanoid", description="Score how the policies of runs track motions.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIRECTORY")
    parser.add_argument("--noise", nargs="+", choices=list(START_NOISES), help="default: %(default)s")
    parser.add_argument("--episodes", type=int, help="of each motion; default: %(default)s")
    parser.add_argument("--motions", help="file or folder; default those of the run")
    parser.add_argument("--output", type=Path, help="also write all scores to this JSON file")
    parser.add_argument("--video", type=Path, help="also film all runs side by side, as a .gif or .mp4")
    parser.add_argument("--clip", help="the motion to film, such as walk_mirrored; default the first")
    return take_defaults(parser, score_run)


def main() -> None:
    """Score runs as the command line says."""
    options = parser()
    arguments = options.parse_args()
    if arguments.episodes < 1:
        options.error(f"--episodes {arguments.episodes}: it must be at least 1")
    if arguments.clip is not None and arguments.video is None:
        options.error(f"--clip {arguments.clip}: it is the motion of a --video, which is not asked for")
    with friendly_errors():
        output = output_file("--output", arguments.output, [".json"]) if arguments.output is not None else None
        video = video_file("--video", arguments.video) if arguments.video is not None else None
        report = _scores(arguments.runs, arguments.noise, arguments.episodes, arguments.motions)
        if output is not None:
            write_json(output, report)
            print(f"  {output}")
        if video is not None:
            settings = {"clip": arguments.clip, "noise": arguments.noise[0], "motions": arguments.motions}
            print(f"  {film_runs(arguments.runs, video, **settings)}")


def _scores(runs: Sequence[Path], noises: Sequence[str], episodes: int, motions: str | None) -> dict[str, Any]:
    """Score every run with every start noise; prints the tables and returns the numbers."""
    report: dict[str, Any] = {}
    for run in runs:
        policy = load_policy(run, device="cpu")
        env = scoring_env(policy, episodes, motions)
        for noise in noises:
            scores = evaluate_tracking(policy.actor, env, noise=noise)
            print(f"{run}, {noise} start noise\n{tracking_table(scores)}")
            report.setdefault(str(run), {})[noise] = scores.as_dict()
        if env.motion_library.has_mirrors:
            report[str(run)]["goal_ambiguity"] = ambiguity = goal_ambiguity(env.motion_library)
            print(f"goal ambiguity: {', '.join(f'{name} {value:.3f}' for name, value in ambiguity.items())}")
    return report


if __name__ == "__main__":
    main()
