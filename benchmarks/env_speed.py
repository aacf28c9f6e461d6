"""Speed of the control tasks: raw ``mujoco.rollout``, ``ControlEnv`` and a TorchRL ``Collector``, side by side.

Raw is the fastest way to use MuJoCo from Python one control step at a time: the same model, threads
and substeps, actions drawn beforehand, arrays made once, checks off, no warm start, no resets, no
observation and no reward. The three take turns in short rounds, so that other load on the machine
hits them alike.

    python benchmarks/env_speed.py --out benchmarks/results/env_speed.json
"""

# MuJoCo ships no type stubs.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
import tensordict
import torch
import torchrl
from mujoco.rollout import Rollout
from torchrl.modules import RandomPolicy

from fpo_torchrl.envs.control import CONTROL_TASKS, ControlEnv
from fpo_torchrl.envs.physics.c import CPhysics, available_cores
from fpo_torchrl.trainer import make_collector

_STEPS_PER_BATCH = 32


def raw_stepper(env: ControlEnv, num_threads: int) -> Callable[[], int]:
    """A function that takes one control step of all copies with bare ``mujoco.rollout``."""
    assert isinstance(env.physics, CPhysics)
    model, state, num_envs, substeps = env.physics.model, env.physics.state, env.num_envs, env.physics.num_substeps
    threads = Rollout(nthread=num_threads if num_threads > 1 else 0)
    data, models = [mujoco.MjData(model) for _ in range(num_threads)], [model] * num_envs
    start = torch.cat([state.time, state.qpos, state.qvel, state.act], dim=-1).numpy()
    path = np.zeros((num_envs, substeps, start.shape[-1]))
    sensors = np.zeros((num_envs, substeps, model.nsensordata))
    controls = np.random.default_rng(0).uniform(-1, 1, (16, num_envs, 1, model.nu)).repeat(substeps, axis=2)
    spec = mujoco.mjtState.mjSTATE_CTRL.value
    if model.nmocap:
        spec |= mujoco.mjtState.mjSTATE_MOCAP_POS.value
        mocap = state.mocap_pos.flatten(1).numpy()[None, :, None].repeat(substeps, axis=2).repeat(16, axis=0)
        controls = np.concatenate([controls, mocap], axis=-1)
    turn = 0

    def step() -> int:
        nonlocal turn
        turn = (turn + 1) % len(controls)
        threads.rollout(
            models,
            data,
            start,
            controls[turn],
            control_spec=spec,
            skip_checks=True,
            nstep=substeps,
            state=path,
            sensordata=sensors,
        )
        np.copyto(start, path[:, -1])
        return num_envs

    return step


def env_stepper(env: ControlEnv) -> Callable[[], int]:
    """A function that takes one step of ``env`` with a random action, resetting what is done."""
    current, spec = env.reset(), env.action_spec

    def step() -> int:
        nonlocal current
        _, current = env.step_and_maybe_reset(current.set("action", spec.rand()))
        return env.num_envs

    return step


def collector_stepper(env: ControlEnv) -> Callable[[], int]:
    """A function that takes one batch from a TorchRL collector, the trainer's, with a random policy."""
    batches = iter(make_collector(env, RandomPolicy(env.action_spec), env.num_envs * _STEPS_PER_BATCH))

    def step() -> int:
        return next(batches).numel()

    return step


def run(step: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Control steps of single copies taken in about ``seconds``, and the exact time."""
    frames, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        frames += step()
    return frames, elapsed


def measure(task: str, num_envs: int, num_threads: int, rounds: int, seconds: float) -> dict:
    """Rates of the three, taking turns; over all rounds, since resets come in lumps."""

    def make() -> ControlEnv:
        return ControlEnv(task, num_envs=num_envs, num_threads=num_threads)

    raw_env = make()
    raw_env.reset()
    steppers = {
        "raw": raw_stepper(raw_env, num_threads),
        "env": env_stepper(make()),
        "collector": collector_stepper(make()),
    }
    totals = dict.fromkeys(steppers, (0, 0.0))
    for step in steppers.values():
        run(step, 0.2)
    for _ in range(rounds):
        for name, step in steppers.items():
            frames, elapsed = run(step, seconds)
            totals[name] = (totals[name][0] + frames, totals[name][1] + elapsed)
    rates = {name: frames / elapsed for name, (frames, elapsed) in totals.items()}
    return {
        "task": task,
        "num_envs": num_envs,
        **{f"{name}_steps_per_s": round(value) for name, value in rates.items()},
        **{f"{name}_over_raw": round(rates[name] / rates["raw"], 3) for name in ("env", "collector")},
    }


def memory_mb(task: str, num_envs: int) -> float:
    """Megabytes that ``num_envs`` copies add to a fresh process, reset and stepped."""
    script = (
        "import resource, torch; from fpo_torchrl.envs.control import ControlEnv\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20\n"
        f"ControlEnv('{task}', num_envs=1).rollout(3)\n"
        f"before = rss(); env = ControlEnv('{task}', num_envs={num_envs}); data = env.reset()\n"
        "for _ in range(50): data = env.step_and_maybe_reset(env.rand_action(data))[1]\n"
        "print(rss() - before)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return round(float(output.split()[-1]), 1)


def machine() -> dict:
    """What the numbers depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": available_cores(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchrl": torchrl.__version__,
        "tensordict": tensordict.__version__,
        "mujoco": mujoco.__version__,
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(CONTROL_TASKS))
    parser.add_argument("--num-envs", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--num-threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn in a round")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/env_speed.json"))
    args = parser.parse_args()

    report = {"command": " ".join(sys.argv), "machine": machine(), "num_threads": args.num_threads, "speed": []}
    print(f"{'task':16s}{'envs':>6s}{'raw':>12s}{'env':>12s}{'collector':>12s}{'env/raw':>9s}{'coll/raw':>9s}")
    for task in args.tasks:
        for num_envs in args.num_envs:
            row = measure(task, num_envs, args.num_threads, args.rounds, args.seconds)
            report["speed"].append(row)
            print(
                f"{task:16s}{num_envs:6d}{row['raw_steps_per_s']:12,d}{row['env_steps_per_s']:12,d}"
                f"{row['collector_steps_per_s']:12,d}{row['env_over_raw']:9.2f}{row['collector_over_raw']:9.2f}",
                flush=True,
            )
    report["memory_mb_of_1024_envs"] = {task: memory_mb(task, 1024) for task in args.tasks}
    print("memory of 1024 envs (MB):", report["memory_mb_of_1024_envs"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
