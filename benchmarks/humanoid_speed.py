"""Speed of the humanoid tasks: the raw simulator and ``HumanoidEnv`` side by side, per core.

Raw is a step of the physics back end alone, ``mujoco.rollout`` of the same model, states, threads and substeps with
its checks for NaN: no resets, no observation, no reward. Servos that follow the reference drive both, and their
targets are not timed, so both simulate the same upright bodies. They take turns, and the median round counts. All is
repeated with a new environment: the median repetition is reported, and how much the others differ from it.

    python benchmarks/humanoid_speed.py
"""

# MuJoCo ships no type stubs.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from fpo_torchrl.envs.humanoid import HUMANOID_TASKS, HumanoidEnv
from fpo_torchrl.envs.humanoid.kinematics import Kinematics
from fpo_torchrl.files import write_json
from fpo_torchrl.provenance import origin

_WARM_UP = 3


def follow(env: HumanoidEnv) -> torch.Tensor:
    """The action whose targets are the reference's joints one step ahead, with a lead that cancels the damping."""
    qpos, qvel = env.motion_library.joints(env.clip, env.frame + 1)
    angles = Kinematics(env.skeleton).servo_angles(qpos)
    ranges = env.skeleton.per_servo("target_scale")
    return ((angles + 0.1 * qvel[:, env.skeleton.num_root_velocities :]) / ranges).float()


def measure(task: str, num_envs: int, num_threads: int, rounds: int) -> dict[str, float | int | str]:
    """Control steps of single copies per second of one core."""
    torch.set_num_threads(1)
    env = HumanoidEnv(task, num_envs=num_envs, num_threads=num_threads, spread_episodes=False)
    raw, everyone = env.physics.sibling(num_envs), torch.arange(num_envs)
    ranges, spent = env.skeleton.per_servo("target_scale"), {"raw": [], "env": []}
    current = env.reset()
    for number in range(rounds + _WARM_UP):
        action = follow(env)
        targets = action.double().clamp(-1, 1) * ranges
        raw.copy_rows(everyone, env.physics, everyone)
        begin = time.process_time()  # of all threads: other load on the machine does not count
        raw.step(targets)
        between = time.process_time()
        _, current = env.step_and_maybe_reset(current.set("action", action))
        if number >= _WARM_UP:
            spent["raw"].append(between - begin)
            spent["env"].append(time.process_time() - between)
    median_s = {name: statistics.median(seconds) for name, seconds in spent.items()}
    rates = {f"{name}_steps_per_core_s": round(num_envs / seconds) for name, seconds in median_s.items()}
    return {"task": task, "num_envs": num_envs, **rates, "env_over_raw": round(median_s["raw"] / median_s["env"], 3)}


def repeat(repetitions: int, *settings: Any) -> dict[str, Any]:
    """The repetition of :func:`measure` with the median ratio, and the lowest and highest ratio of all."""
    rows = sorted((measure(*settings) for _ in range(repetitions)), key=lambda row: row["env_over_raw"])
    ratios = [row["env_over_raw"] for row in rows]
    return {**rows[len(rows) // 2], "lowest": ratios[0], "highest": ratios[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=HUMANOID_TASKS, default=HUMANOID_TASKS)
    parser.add_argument("--num-envs", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--num-threads", type=int, default=1, help="that step the physics")
    parser.add_argument("--rounds", type=int, default=40, help="control steps measured")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/humanoid_speed.json"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {**origin("cpu"), "num_threads": args.num_threads, "repetitions": args.repetitions, "speed": []}
    for task in args.tasks:
        for num_envs in args.num_envs:
            row = repeat(args.repetitions, task, num_envs, args.num_threads, args.rounds)
            report["speed"].append(row)
            print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    write_json(args.out, report)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
